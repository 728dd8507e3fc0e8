"""Two worker processes, and of each suspect event two copies at the same moment: every mail is sent once."""

import asyncio
import re
import time
from collections import Counter
from typing import Any

from tests.chaos.queues import depths, unsettled
from tests.integration.conftest import Site
from tests.services.smtp_sink import SmtpSink
from tests.support.events import body_of, make_event
from tests.support.process import Postbote
from worker.audit.outbox import OutboxTimes
from worker.delivery.ports import Lane
from worker.delivery.progress import Progress
from worker.rabbit import topology
from worker.rabbit.publisher import open_publisher

EVENTS = 200
PATIENCE_S = 240.0
QUIET_S = 6.0
# Long enough that a second copy would be sent while the first one is.
SLOWLY = ("-w", "1")
KNOWN_EMPTY_S = OutboxTimes().empty_s + 2 * OutboxTimes().measure_s
SUSPECTED = Progress(suspect=True).headers()


def worker_of(site: Site, name: str) -> Postbote:
    own = {"POSTBOTE_WORKER_ID": name, "POSTBOTE_JOURNAL_DIR": str(site.folder / name)}
    return Postbote("worker", env={**site.env, **own})


async def publish_copies(amqp_url: str, ids: list[str]) -> None:
    """Each event twice, one behind the other: a lane hands them to its consumers in turn."""
    key = topology.routing_key(Lane.TRANSACTIONAL, "test")
    async with open_publisher(amqp_url) as publisher, asyncio.TaskGroup() as group:
        for each in ids:
            body = body_of(make_event(f"{each}@example.com", id=each))
            for _ in range(2):
                group.create_task(
                    publisher.publish(
                        topology.EVENTS_EXCHANGE,
                        key,
                        body,
                        content_type="application/cloudevents+json",
                        headers=SUSPECTED,
                    )
                )


def until_settled(rabbitmq: Any, amqp_url: str) -> None:
    """Wait until the queues are empty, as counted for long enough: the broker counts a moment late."""
    deadline, empty_since = time.monotonic() + PATIENCE_S, None
    while empty_since is None or time.monotonic() - empty_since < QUIET_S:
        counted = depths(rabbitmq, amqp_url)
        empty_since = None if unsettled(counted) else (empty_since or time.monotonic())
        assert time.monotonic() < deadline, counted
        time.sleep(0.5)  # a queue announces its end to nobody


def test_two_copies_of_each_of_200_suspects_in_two_workers_are_200_mails(site: Site, rabbitmq: Any) -> None:
    ids = [f"copy-{number}" for number in range(EVENTS)]
    with SmtpSink(SLOWLY, dump=True) as sink:
        site.configure("controller", "localhost", sink.port, "--from", "a@acme.example", "--tls", "none")
        with worker_of(site, "one") as one, worker_of(site, "two") as two:
            for worker in (one, two):
                worker.wait_for("consuming")
            # From then on they know that no outbox holds a record, and send what was looked up; nobody is told of that.
            time.sleep(KNOWN_EMPTY_S)
            asyncio.run(publish_copies(site.amqp_url, ids))
            until_settled(rabbitmq, site.amqp_url)
            met = [
                line for worker in (one, two) for line in worker.events() if line["event"].startswith("another worker")
            ]
            assert [worker.terminate() for worker in (one, two)] == [0, 0]
        sent = Counter(re.findall(rb"X-Rcpt-Args: <([^@]+)@", b"".join(sink.dumped())))
    assert sent == Counter(each.encode() for each in ids)
    assert len({line["event_id"] for line in met}) > EVENTS / 2, "the copies did not meet"
