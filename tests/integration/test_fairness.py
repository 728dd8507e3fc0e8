"""A slow tenant's flood and another tenant's mail, on real servers; `python -m tests.bench.fairness` has 20,000."""

import asyncio
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.bench.fairness import FAST_EVENTS, SLOW_S, Sink, configure, measure_fairness, publish, quantile
from tests.integration.conftest import Site
from tests.unit.smtp.scripted_server import ScriptedServer
from worker.delivery.ports import Lane
from worker.rabbit import topology
from worker.rabbit.connection import open_link
from worker.rabbit.publisher import open_publisher

pytestmark = pytest.mark.alone

FLOOD = 3_000
# Alone a mail takes a few tens of milliseconds, of which the turns of a loop that other processes share with it make
# up most. Three of four are told apart from that; a single pause of the machine delays a few by as long as it lasts.
ALLOWANCE_S = 0.1
# Of a hundred mails p99 is the second slowest: none but one may have waited for a mail of the flood, SLOW_S or more.
PAUSE_S = SLOW_S - 1


async def test_a_slow_tenants_flood_does_not_delay_another_tenants_mail(site: Site) -> None:
    site.env_extra |= {"POSTBOTE_LOG_LEVEL": "info", "POSTBOTE_CONFIG_CACHE_S": "5"}
    found = await measure_fairness(site, FLOOD)
    print(found)
    assert len(found.beside) == FAST_EVENTS
    assert quantile(found.beside, 75) <= 2 * quantile(found.alone, 75) + ALLOWANCE_S
    assert quantile(found.beside, 99) < 2 * quantile(found.alone, 99) + PAUSE_S
    assert found.slow_mails >= 5  # and the slow one was served beside it


BULK, NOW = 1000, 300


@dataclass
class HoldingSink(Sink):
    """Answers nothing while `go` is cleared; `held` are those whom that stopped."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0

    async def _take(self, mail: bytes) -> None:
        self.held += not self.go.is_set()
        await self.go.wait()
        await super()._take(mail)


async def all_delivered(url: str, lane: Lane) -> None:
    """Wait until no event of the lane is left in the broker."""
    link = await open_link(url, "test counts")
    count = partial(link.call, link.channel.queue_declare, topology.lane_queue(lane), passive=True)
    async with asyncio.timeout(60):
        while (await count()).method.message_count:
            await asyncio.sleep(0.01)  # polling: a queue announces nothing
    await link.close()


async def test_transactional_mail_goes_before_bulk_and_bulk_is_never_starved(site: Site) -> None:
    """One tenant, one server that takes 20 ms over each mail: bulk in plenty, and then 300 that somebody waits for.

    The server holds its answers while these come, so that bulk gets no further meanwhile, however long it takes.
    """
    site.env_extra |= {"POSTBOTE_LOG_LEVEL": "info", "POSTBOTE_CONFIG_CACHE_S": "5"}
    sink = HoldingSink(0.02)
    sink.go.set()
    async with ScriptedServer(sink) as server, open_publisher(site.amqp_url) as publisher:
        await asyncio.to_thread(configure, site, "a", server.port)
        await asyncio.to_thread(site.run, "topology", "declare")
        await asyncio.gather(*(publish(publisher, f"bulk-{n}", "a", Lane.BULK) for n in range(BULK)))
        with site.worker() as running:
            await asyncio.to_thread(running.wait_for, "consuming", count=2)
            await sink.wait_for(BULK // 4, "bulk")  # by then the worker knows the server's pace
            sink.go.clear()
            await asyncio.gather(*(publish(publisher, f"now-{n}", "a") for n in range(NOW)))
            await all_delivered(site.amqp_url, Lane.TRANSACTIONAL)
            began, under_way = len(sink.answered), sink.held
            sink.go.set()
            await sink.wait_for(NOW, "now")
            between = list(sink.answered)[began + under_way :]
            await sink.wait_for(BULK, "bulk")
    last = max(n for n, name in enumerate(between) if name.startswith("now"))
    bulk = sum(name.startswith("bulk") for name in between[:last])
    print(f"{bulk} bulk mails before the last of {NOW} transactional ones, beside {under_way} that were under way")
    # One of five is bulk where both wait; what lay ready for a connection by then is some, too.
    assert NOW // 6 < bulk < NOW, f"{bulk} bulk mails while {NOW} transactional ones were sent"
