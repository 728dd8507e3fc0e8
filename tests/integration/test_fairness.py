"""A slow tenant's flood and another tenant's mail, on real servers; `python -m tests.bench.fairness` has 20,000."""

import asyncio

import pytest

from tests.bench.fairness import FAST_EVENTS, Sink, configure, measure_fairness, publish, quantile
from tests.integration.conftest import Site
from tests.unit.smtp.scripted_server import ScriptedServer
from worker.delivery.ports import Lane
from worker.rabbit.publisher import open_publisher

pytestmark = pytest.mark.alone

FLOOD = 3_000
# Of a hundred mails p99 is the second slowest. Alone it is a few tens of milliseconds, of which the turns of a loop
# that other processes share with it make up most: what is told apart from that is a wait for the flood, of seconds.
ALLOWANCE_S = 0.1


async def test_a_slow_tenants_flood_does_not_delay_another_tenants_mail(site: Site) -> None:
    site.env_extra |= {"POSTBOTE_LOG_LEVEL": "info", "POSTBOTE_CONFIG_CACHE_S": "5"}
    found = await measure_fairness(site, FLOOD)
    print(found)
    assert len(found.beside) == FAST_EVENTS
    assert quantile(found.beside, 99) <= 2 * quantile(found.alone, 99) + ALLOWANCE_S
    assert found.slow_mails >= 5  # and the slow one was served beside it


async def test_transactional_mail_goes_before_bulk_and_bulk_is_never_starved(site: Site) -> None:
    """One tenant, one server that takes 20 ms over each mail: 600 bulk mails, and then 300 that somebody waits for."""
    site.env_extra |= {"POSTBOTE_LOG_LEVEL": "info", "POSTBOTE_CONFIG_CACHE_S": "5"}
    sink = Sink(0.02)
    async with ScriptedServer(sink) as server:
        await asyncio.to_thread(configure, site, "a", server.port)
        with site.worker() as running:
            await asyncio.to_thread(running.wait_for, "consuming")
            async with open_publisher(site.amqp_url) as publisher:
                await asyncio.gather(*(publish(publisher, f"bulk-{n}", "a", Lane.BULK) for n in range(600)))
                await sink.wait_for(20, "bulk")
                began = len(sink.answered)
                await asyncio.gather(*(publish(publisher, f"now-{n}", "a") for n in range(300)))
                await sink.wait_for(300, "now")
                between = list(sink.answered)[began:]
                await sink.wait_for(600, "bulk")
    bulk = sum(name.startswith("bulk") for name in between)
    assert 0 < bulk < 300, f"{bulk} bulk mails while 300 transactional ones were sent"
