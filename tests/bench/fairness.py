"""`python -m tests.bench.fairness`: does a slow tenant's flood delay another tenant's mail?

Tenant A has 20,000 events to a server that takes 5 s over each mail, tenant B has 100 to a fast one,
one every 50 ms, beginning when A's server has taken its first mail. Measured is the time of each of
B's mails from its publish to its 250, once alone and once beside the flood.
"""

import argparse
import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.conftest import Site
from tests.services import opensearch, rabbitmq, sessions
from tests.support.events import body_of, make_event
from tests.unit.smtp.scripted_server import ScriptedServer, Session
from worker.delivery.ports import Lane
from worker.rabbit import topology
from worker.rabbit.publisher import Publisher, open_publisher

SLOW_S = 5.0
FAST_EVENTS = 100
FAST_EVERY_S = 0.05
FLOOD = 20_000
PATIENCE_S = 60.0
_RECIPIENT = re.compile(rb"(?mi)^To: <?(\w+)-(\d+)@")


@dataclass(frozen=True, slots=True)
class Fairness:
    """Seconds from publish to 250 of B's mails, in order of publishing: alone, and beside A's flood."""

    flood: int
    alone: tuple[float, ...]
    beside: tuple[float, ...]
    slow_mails: int
    """Mails of A that its server had taken by the end."""

    def __str__(self) -> str:
        """Two lines for whoever compares them."""
        lines = (
            f"{name}: median {quantile(found, 50) * 1000:.0f} ms, p99 {quantile(found, 99) * 1000:.0f} ms"
            for name, found in (("B alone", self.alone), (f"B beside {self.flood} events of A", self.beside))
        )
        return "\n".join((*lines, f"A's server had taken {self.slow_mails} mails"))


def quantile(found: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(found)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


@dataclass
class Sink:
    """Says 250 after `delay_s`, and keeps when it did, by the number in the recipient's address."""

    delay_s: float
    answered: dict[str, float] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __call__(self, session: Session, command: str) -> Any:
        return self._take(session.mails[-1]) if command == "." else None

    async def _take(self, mail: bytes) -> None:
        await asyncio.sleep(self.delay_s)
        found = _RECIPIENT.search(mail)
        assert found, mail[:500]
        async with self.changed:
            self.answered[f"{found[1].decode()}-{found[2].decode()}"] = time.monotonic()
            self.changed.notify_all()

    async def wait_for(self, count: int, prefix: str) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: sum(each.startswith(prefix) for each in self.answered) >= count)


async def measure_fairness(site: Site, flood: int) -> Fairness:
    """Run one worker on `site`; B alone first, then beside `flood` events of A."""
    slow, fast = Sink(SLOW_S), Sink(0.0)
    async with ScriptedServer(slow) as slow_server, ScriptedServer(fast) as fast_server:
        for partner, server in (("a", slow_server), ("b", fast_server)):
            await asyncio.to_thread(configure, site, partner, server.port)
        with site.worker() as running:
            await asyncio.to_thread(running.wait_for, "consuming")
            async with open_publisher(site.amqp_url) as publisher:
                await _paced(publisher, fast, "warm", 20)
                alone = await _paced(publisher, fast, "alone", FAST_EVENTS)
                flooding = asyncio.ensure_future(_flood(publisher, flood))
                await slow.wait_for(1, "a")
                beside = await _paced(publisher, fast, "beside", FAST_EVENTS)
                await flooding
    return Fairness(flood, alone, beside, len(slow.answered))


def configure(site: Site, partner: str, port: int) -> None:
    """Let a partner's mail go to a server of this host, without TLS."""
    options = ("--tls", "none", "--from", f"{partner}@from.test", "--max-connections", "10")
    site.configure(f"partner:{partner}", "127.0.0.1", port, *options)


async def _paced(publisher: Publisher, sink: Sink, prefix: str, count: int) -> tuple[float, ...]:
    """Publish at an even pace, and return each mail's seconds to its 250."""
    began: dict[str, float] = {}
    async with asyncio.TaskGroup() as group:
        for n in range(count):
            name = f"{prefix}-{n}"
            began[name] = time.monotonic()
            group.create_task(publish(publisher, name, "b"))
            await asyncio.sleep(FAST_EVERY_S)
    await sink.wait_for(count, f"{prefix}-")
    return tuple(sink.answered[name] - at for name, at in began.items())


async def _flood(publisher: Publisher, count: int) -> None:
    for first in range(0, count, 500):
        await asyncio.gather(*(publish(publisher, f"a-{n}", "a") for n in range(first, min(count, first + 500))))


async def publish(publisher: Publisher, name: str, partner: str, lane: Lane = Lane.TRANSACTIONAL) -> None:
    """Publish one event of a partner to `name` at to.test, confirmed."""
    await publisher.publish(
        topology.EVENTS_EXCHANGE,
        topology.routing_key(lane, "test"),
        body_of(make_event(f"{name}@to.test", id=name, scope={"partner": partner})),
        content_type="application/cloudevents+json",
        headers={},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Start the servers, measure, print, and keep the figures in build/fairness.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=FLOOD, help="events of tenant A (default: %(default)s)")
    arguments = parser.parse_args(argv)
    session = sessions.current()
    broker, search = rabbitmq.broker(session), opensearch.server(session)
    broker.start()
    search.start()
    site = Site(broker.fresh_vhost(), search.url, "fairness", session.subfolder("fairness"))
    site.env_extra |= {"POSTBOTE_LOG_LEVEL": "info", "POSTBOTE_CONFIG_CACHE_S": "5"}
    found = asyncio.run(measure_fairness(site, arguments.events))
    print(found)
    file = Path("build/fairness.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"flood": found.flood, "alone": found.alone, "beside": found.beside}))
    return 0 if quantile(found.beside, 99) <= 2 * quantile(found.alone, 99) else 1


if __name__ == "__main__":
    raise SystemExit(main())
