"""Shipping on a real RabbitMQ and a real OpenSearch, which go away and come back."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pika
import pytest

from schemas.audit_query import AuditQuery
from schemas.config_change import Changes, Marker, read_message
from tests.control.shipping.shipping_samples import Desk, change_record
from tests.integration.audit.conftest import refresh
from tests.integration.test_rabbit import drained
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.search import OpenSearchSearch
from worker.backends import RabbitIntake
from worker.delivery.ports import Lane
from worker.rabbit import topology
from worker.rabbit.config_publisher import ConfigPublisher
from worker.rabbit.config_stream import publish_marker
from worker.rabbit.config_topic import open_config_topic
from worker.rabbit.publisher import Publisher
from worker.settings import Settings
from worker.shipping import Shipped, Shipping, ship_once
from worker.store.outgoing import OutgoingKind

LANE = topology.lane_queue(Lane.TRANSACTIONAL)
PATIENCE_S = 40


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'postbote.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    opened = Desk(database_url)
    await opened.store.upgrade()
    yield opened
    await opened.store.close()


@contextlib.asynccontextmanager
async def shipping(desk: Desk, amqp_url: str, opensearch_url: str, prefix: str) -> AsyncIterator[Shipping]:
    """Ship as an API process does: connecting in the background, whoever is away."""
    publisher = Publisher(amqp_url, "test shipping")
    publisher.start_connecting(declare=True)
    audit = OpenSearchAudit(opensearch_url, index_prefix=prefix)
    started = Shipping(desk.shelf, configs=ConfigPublisher(publisher), audit=audit, intake=RabbitIntake(publisher))
    started.start()
    try:
        yield started
    finally:
        await started.close()
        await audit.close(0.1)
        await publisher.close()


def topic_versions(amqp_url: str) -> list[int]:
    """The versions of every change in the topic up to now, in its order: a marker behind them says where they end."""
    marker = asyncio.run(publish_marker(amqp_url, "test marker"))
    found: list[int] = []
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(amqp_url))) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)  # so that nothing behind the marker comes: a stream rejects a rejection
        offset = {"x-stream-offset": "first"}
        for method, _, body in channel.consume(topology.CONFIG_STREAM, arguments=offset, inactivity_timeout=30):
            assert method, "the marker does not come"
            message = read_message(body).message
            if isinstance(message, Changes):
                found += [change.version for change in message.items]
            if isinstance(message, Marker) and message.marker == marker:
                return found
            channel.basic_ack(method.delivery_tag)
    raise AssertionError("the topic was deleted")


async def subjects(opensearch, prefix: str) -> list[str]:
    refresh(opensearch, prefix)
    search = OpenSearchSearch(opensearch.url, index_prefix=prefix)
    try:
        page = await search.search(AuditQuery(type="smtp_config.changed", limit=1000))
    finally:
        await search.close()
    return sorted(record["subject"] for record in page.records)


async def left(desk: Desk, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await desk.shelf.waiting() > count:
            await asyncio.sleep(0.05)  # polling: a table announces nothing


async def test_what_changes_while_rabbitmq_is_away_reaches_the_topic_in_order_and_the_audit_at_once(
    desk, rabbitmq, opensearch, amqp_url, index_prefix
) -> None:
    async with shipping(desk, amqp_url, opensearch.url, index_prefix) as running:
        await desk.configs(1, 2)
        running.nudge()
        await left(desk, 0)
        await asyncio.to_thread(rabbitmq.stop)
        for number in range(3, 203):
            await desk.configs(number)
        await desk.events("mail-1", "mail-2")
        await desk.records(*(change_record(n, subject=str(n)) for n in range(100, 350)))
        running.nudge()
        await left(desk, 202)
        assert await subjects(opensearch, index_prefix) == [str(n) for n in range(100, 350)]
        async with asyncio.timeout(PATIENCE_S):
            while not running.trouble:
                await asyncio.sleep(0.05)
        await asyncio.to_thread(rabbitmq.start)
        await left(desk, 0)
    told = await asyncio.to_thread(topic_versions, amqp_url)
    assert list(dict.fromkeys(told)) == list(range(1, 203)), "each at least once, and first told in order"
    assert [json.loads(body)["id"] for _, body in drained(amqp_url, LANE)] == ["mail-1", "mail-2"]


async def test_what_changes_while_opensearch_is_away_is_told_to_workers_at_once_and_to_the_audit_later(
    desk, opensearch, amqp_url, index_prefix
) -> None:
    await asyncio.to_thread(opensearch.stop)
    async with shipping(desk, amqp_url, opensearch.url, index_prefix) as running:
        await desk.records(*(change_record(n, subject=str(n)) for n in range(100, 120)))
        await desk.configs(1, 2, 3)
        running.nudge()
        await left(desk, 20)
        assert await desk.left() == [OutgoingKind.AUDIT] * 20
        await asyncio.to_thread(opensearch.start)
        await left(desk, 0)
    assert await subjects(opensearch, index_prefix) == [str(n) for n in range(100, 120)]
    assert await asyncio.to_thread(topic_versions, amqp_url) == [1, 2, 3]


async def test_a_process_that_is_killed_before_it_forgets_leaves_it_to_the_next_and_workers_know_each_once(
    desk, database_url, opensearch, amqp_url, index_prefix
) -> None:
    await desk.configs(1, 2, 3)
    arguments = [sys.executable, "-m", "tests.integration.shipping_process", database_url, amqp_url]
    dying = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert dying.stdout
    async with asyncio.timeout(PATIENCE_S):
        assert (await dying.stdout.readline()).startswith(b"told ")
    dying.kill()
    await dying.wait()
    assert await desk.shelf.waiting() == 3
    async with shipping(desk, amqp_url, opensearch.url, index_prefix):
        await left(desk, 0)
    assert await asyncio.to_thread(topic_versions, amqp_url) == [1, 2, 3, 1, 2, 3]
    async with open_config_topic(amqp_url, lambda sealed: sealed) as topic, asyncio.timeout(PATIENCE_S):
        await topic.caught_up()
        assert topic.status.skipped == 0


async def test_two_who_ship_at_once_lose_nothing_and_the_audit_has_each_change_once(
    desk, opensearch, amqp_url, index_prefix
) -> None:
    async with (
        shipping(desk, amqp_url, opensearch.url, index_prefix) as one,
        shipping(desk, amqp_url, opensearch.url, index_prefix) as other,
    ):
        for first in range(0, 200, 20):
            await desk.configs(*range(first + 1, first + 21))
            await desk.records(*(change_record(n, subject=f"{n:03}") for n in range(first, first + 20)))
            await desk.events(f"mail-{first}")
            (one if first % 40 else other).nudge()
        await left(desk, 0)
    told = await asyncio.to_thread(topic_versions, amqp_url)
    assert set(told) == set(range(1, 201))
    assert await subjects(opensearch, index_prefix) == [f"{n:03}" for n in range(200)]
    assert {json.loads(body)["id"] for _, body in drained(amqp_url, LANE)} == {f"mail-{n}" for n in range(0, 200, 20)}


async def test_a_row_that_nobody_can_read_holds_up_no_other(desk, opensearch, amqp_url, index_prefix) -> None:
    for kind in OutgoingKind:
        await desk.raw(kind, b"poison")
    await desk.configs(1)
    await desk.records(change_record(1, subject="1"))
    await desk.events("mail-1")
    async with shipping(desk, amqp_url, opensearch.url, index_prefix) as running:
        await left(desk, 3)
        assert running.gauges()["postbote_outgoing_stuck"][1]() == 3
        assert running.trouble is None
    assert await asyncio.to_thread(topic_versions, amqp_url) == [1]
    assert await subjects(opensearch, index_prefix) == ["1"]


async def test_a_command_ships_once_and_says_who_is_away(
    desk, database_url, rabbitmq, opensearch, amqp_url, index_prefix
) -> None:
    settings = Settings(
        database_url=database_url,
        amqp_url=amqp_url,
        opensearch_url=opensearch.url,
        audit_index_prefix=index_prefix,
        config_source="topic",
    )
    await desk.configs(1)
    await desk.records(change_record(1, subject="1"))
    await desk.events("mail-1")
    assert await ship_once(settings) == Shipped(0, None)
    assert await asyncio.to_thread(topic_versions, amqp_url) == [1]
    assert await subjects(opensearch, index_prefix) == ["1"]
    assert len(drained(amqp_url, LANE)) == 1
    await asyncio.to_thread(rabbitmq.stop)
    await desk.configs(2)
    await desk.records(change_record(2, subject="2"))
    done = await ship_once(settings)
    assert done.waiting == 1
    assert done.trouble is not None
    assert done.trouble.startswith("RabbitMQ cannot be reached")
    assert await subjects(opensearch, index_prefix) == ["1", "2"]
    await asyncio.to_thread(rabbitmq.start)
    async with asyncio.timeout(PATIENCE_S):
        while (done := await ship_once(settings)).waiting:  # a stream is not up as soon as its broker is
            assert done.trouble
    assert done.trouble is None
    assert await asyncio.to_thread(topic_versions, amqp_url) == [1, 2]
