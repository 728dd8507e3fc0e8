"""The config topic on a real RabbitMQ: `python -m tests.bench.config_topic [--records N]`.

How long a snapshot takes to publish and to catch up with, what a record costs in memory, and how soon
a change is known to three readers.
"""

import argparse
import asyncio
import contextlib
import resource
import statistics
import time

from schemas.smtp_config import Scope
from tests.services import rabbitmq
from tests.unit.config_topic.samples import ACME, BOX, SEALED, put
from worker.rabbit.config_publisher import ConfigChanges, ConfigPublisher, open_config_publisher
from worker.rabbit.config_topic import open_config_topic

READERS = 3
CHANGES = 100


def tenants(count: int) -> ConfigChanges:
    """As many orgs, each with a record and a password."""
    return [
        put(Scope(f"partner-{n % 100}", f"org-{n}"), order=n, secret=SEALED, from_address=f"no-reply@org-{n}.example")
        for n in range(count)
    ]


async def measure_catch_up(url: str, publisher: ConfigPublisher, count: int) -> None:
    """Publish a snapshot and read it with a reader that starts afterwards."""
    changes = tenants(count)

    async def read() -> ConfigChanges:
        return changes

    began = time.monotonic()
    await publisher.publish_snapshot(read)
    print(f"snapshot of {count} records published in {time.monotonic() - began:.2f} s")
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.monotonic(), time.process_time()
    async with open_config_topic(url, BOX.open) as topic:
        await topic.caught_up()
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        print(f"caught up with {topic.status.records} records in {seconds:.2f} s ({cpu_s:.2f} s of CPU)")
        print(f"memory: {grown_kib / 1024:.1f} MiB more at the peak, {grown_kib / max(count, 1):.2f} KiB a record")


async def measure_spread(url: str, publisher: ConfigPublisher) -> None:
    """Publish changes one by one; each is timed until every reader answers with it."""
    async with contextlib.AsyncExitStack() as stack:
        topics = [await stack.enter_async_context(open_config_topic(url, BOX.open)) for _ in range(READERS)]
        for topic in topics:
            await topic.caught_up()
        took = []
        for version in range(1, CHANGES + 1):
            began = time.monotonic()
            await publisher.publish([put(ACME, version=version, secret=SEALED)])
            for topic in topics:
                while (await topic.configs_for(ACME)).records.get(ACME, put().config).version != version:
                    await asyncio.sleep(0)
            took.append((time.monotonic() - began) * 1000)
    took.sort()
    print(f"a change known to {READERS} readers: median {statistics.median(took):.1f} ms, max {took[-1]:.1f} ms")


async def measure(url: str, count: int) -> None:
    """Both, one after the other, on a fresh virtual host."""
    async with open_config_publisher(url) as publisher:
        await measure_spread(url, publisher)
        await measure_catch_up(url, publisher, count)


def main() -> None:
    """Start a broker, measure, and drop what was made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    count = parser.parse_args().records
    broker = rabbitmq.broker()
    broker.start()
    url = broker.fresh_vhost()
    try:
        asyncio.run(measure(url, count))
    finally:
        broker.drop_vhost(url)


if __name__ == "__main__":
    main()
