"""Nothing is lost by being delivered too often, or by being too large, on a real RabbitMQ.

RabbitMQ 4 gives every quorum queue a limit of 20 deliveries unless it names its own, and drops what exceeds it
where no dead-letter exchange is named. What counts differs: up to 4.2 whatever comes back, since 4.3 only what
was rejected or lost with its channel. And it takes 16 MiB in one message, where 3.x took 128.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel

from tests.integration.test_broker_faults import links_of
from tests.integration.test_rabbit import bench, drained
from tests.services.rabbitmq import Broker
from worker.delivery.parked import TOO_LARGE
from worker.delivery.ports import Ack, Incoming, Lane, Later, Settlement, Tier
from worker.rabbit import consumer as consumer_module
from worker.rabbit import topology
from worker.rabbit.connection import open_link
from worker.rabbit.declaring import declare
from worker.rabbit.parked import read_parked
from worker.rabbit.publisher import open_publisher

OFTEN = 25  # more than RabbitMQ 4 allows by itself
PATIENCE_S = 3.0
LANE = topology.lane_queue(Lane.BULK)
TIER = topology.retry_queue(Lane.BULK, Tier.TWO_HOURS)
QUORUM_QUEUES = [queue.name for queue in topology.QUEUES if queue not in topology.STREAMS]

# A queue, and where its message may be in the end: a tier's, at its lane sooner than it would be.
KEPT: list[tuple[str, set[str]]] = [
    (LANE, {LANE}),
    (TIER, {TIER, LANE}),
    (topology.PARKED_QUEUE, {topology.PARKED_QUEUE}),
    (topology.AUDIT_OUTBOX_QUEUE, {topology.AUDIT_OUTBOX_QUEUE}),
]
WAYS_BACK: dict[str, Callable[[BlockingChannel, int], object]] = {
    "returned": lambda channel, tag: channel.basic_nack(tag, requeue=True),
    "rejected": lambda channel, tag: channel.basic_reject(tag, requeue=True),
    "lost with its channel": lambda channel, _tag: channel.close(),
}


async def set_up(url: str) -> None:
    link = await open_link(url, "declare")
    await declare(link)
    await link.close()


def taken_and_given_back(url: str, queue: str, give_back: Callable[[BlockingChannel, int], object]) -> None:
    """Take the message of a queue `OFTEN` times, or until it is gone from there."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for _ in range(OFTEN):
        method, deadline = None, time.monotonic() + PATIENCE_S
        while method is None and time.monotonic() < deadline:
            method, _properties, _body = channel.basic_get(queue)
        if method is None:
            break
        give_back(channel, method.delivery_tag)
        channel = channel if channel.is_open else connection.channel()
    connection.close()


async def places(url: str, body: bytes) -> list[str]:
    """The queues that hold a message with this body, once for each."""
    found = [name for name in QUORUM_QUEUES for _, each in await asyncio.to_thread(drained, url, name) if each == body]
    if not found:  # between two queues: a broker announces no arrival
        await asyncio.sleep(PATIENCE_S / 10)
    return found


@pytest.mark.parametrize("way_back", WAYS_BACK)
@pytest.mark.parametrize(("queue", "kept_in"), KEPT, ids=[queue for queue, _ in KEPT])
async def test_what_comes_back_more_often_than_a_broker_allows_by_itself_is_not_dropped(
    amqp_url: str, queue: str, kept_in: set[str], way_back: str
) -> None:
    await set_up(amqp_url)
    async with open_publisher(amqp_url) as publisher:
        await publisher.publish("", queue, b"kept", content_type=None, headers={})
    await asyncio.to_thread(taken_and_given_back, amqp_url, queue, WAYS_BACK[way_back])
    async with asyncio.timeout(PATIENCE_S * 5):
        while not (found := await places(amqp_url, b"kept")):
            pass
    assert len(found) == 1
    assert set(found) <= kept_in


async def test_what_no_handler_can_handle_is_rejected_which_counts_on_every_broker(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_SURPRISE_PAUSE_S", 0.0)
    rejected: list[bool] = []
    reject = Channel.basic_reject

    def noting(channel: Channel, tag: int, requeue: bool = True) -> None:  # pika's
        rejected.append(requeue)
        reject(channel, tag, requeue=requeue)

    def fail(_: Incoming) -> Settlement:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Channel, "basic_reject", noting)
    async with bench(amqp_url) as b:
        b.answer = fail
        await b.publish(b"poison")
        for _ in range(consumer_module.MAX_SURPRISES + 1):
            await b.take()
    assert rejected == [True] * consumer_module.MAX_SURPRISES
    assert len(drained(amqp_url, topology.PARKED_QUEUE)) == 1


_LIMIT = "persistent_term:get(max_message_size, element(2, application:get_env(rabbit, max_message_size)))."
_SET_LIMIT = "persistent_term:put(max_message_size, {0}), application:set_env(rabbit, max_message_size, {0})."


@contextlib.contextmanager
def largest_message(broker: Broker, limit_bytes: int) -> Iterator[None]:
    """As if the broker had been upgraded to one that takes less in one message."""
    before = int(broker.ctl("eval", _LIMIT))
    broker.ctl("eval", _SET_LIMIT.format(limit_bytes))
    try:
        yield
    finally:
        broker.ctl("eval", _SET_LIMIT.format(before))


async def test_an_event_that_is_too_large_to_be_published_again_is_parked_and_cuts_the_publisher_once(
    rabbitmq: Broker, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = [b"%d" % n * 300_000 for n in range(2)]
    await set_up(amqp_url)
    async with open_publisher(amqp_url) as publisher:
        for body in large:
            await publisher.publish("", LANE, body, content_type=None, headers={})
    with largest_message(rabbitmq, 200_000), links_of("publisher", monkeypatch) as links:
        async with bench(amqp_url) as b:
            b.answer = lambda incoming: Ack() if incoming.body == b"done" else Later(Tier.TWO_HOURS, 7200)
            parked: list[tuple[pika.BasicProperties, bytes]] = []
            async with asyncio.timeout(30):
                while len(parked) < len(large):
                    parked += await asyncio.to_thread(drained, amqp_url, topology.PARKED_QUEUE)
            await b.publish(b"small", lane=Lane.BULK)
            async with asyncio.timeout(10):
                while (await b.take()).body != b"small":
                    pass
    assert sorted(body for _, body in parked) == large
    assert {read_parked(properties, body).reason for properties, body in parked} == {TOO_LARGE}
    assert [body for _, body in drained(amqp_url, TIER)] == [b"small"]
    assert [link.lost.done() and "larger than" in link.lost.result() for link in links] == [True, False]
