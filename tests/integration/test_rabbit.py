"""The broker's edge against a real RabbitMQ: confirms, redelivery, parking, loss of the connection."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pika
import pytest

from worker.delivery.ports import Ack, Incoming, Lane, Park, Return, Settlement
from worker.delivery.progress import ATTEMPT
from worker.errors import BrokerUnavailable, PublishRefused, TopologyMismatch
from worker.rabbit import topology
from worker.rabbit.connection import open_link
from worker.rabbit.consumer import Consumer
from worker.rabbit.declaring import declare
from worker.rabbit.publisher import Publisher, open_publisher

PATIENCE_S = 20


class Bench:
    """A consumer with a scripted handler on a virtual host of its own."""

    def __init__(self, url: str, publisher: Publisher, prefetch: int = 20) -> None:
        self.taken: asyncio.Queue[Incoming] = asyncio.Queue()
        self.answer: Callable[[Incoming], Settlement] = lambda _: Ack()
        self.stop = asyncio.Event()
        self.publisher = publisher
        self.consumer = Consumer(url, publisher, self.handle, prefetch=prefetch, name="test consumer")
        self.running = asyncio.ensure_future(self.consumer.run(self.stop))

    async def handle(self, incoming: Incoming) -> Settlement:
        self.taken.put_nowait(incoming)
        return self.answer(incoming)

    async def publish(
        self, *bodies: bytes, lane: Lane = Lane.TRANSACTIONAL, headers: dict[str, Any] | None = None
    ) -> None:
        key = topology.routing_key(lane, "t")
        for body in bodies:
            await self.publisher.publish(
                topology.EVENTS_EXCHANGE, key, body, content_type="text/plain", headers=headers or {}
            )

    async def take(self) -> Incoming:
        async with asyncio.timeout(PATIENCE_S):
            return await self.taken.get()

    async def end(self) -> None:
        self.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await self.running


@contextlib.asynccontextmanager
async def bench(url: str, **options: int) -> AsyncIterator[Bench]:
    async with open_publisher(url) as publisher:
        link = await open_link(url, "declare")
        await declare(link)
        await link.close()
        opened = Bench(url, publisher, **options)
        try:
            yield opened
        finally:
            await opened.end()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that announces itself to nobody."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def drained(url: str, queue: str) -> list[tuple[pika.BasicProperties, bytes]]:
    """Take everything out of a queue, with a plain client."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel, found = connection.channel(), []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            connection.close()
            return found
        found.append((properties, body))


async def test_both_lanes_are_consumed_and_acked_messages_are_gone(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        await b.publish(b"now")
        await b.publish(b"later", lane=Lane.BULK)
        taken = {(i.body, i.lane) for i in (await b.take(), await b.take())}
        assert taken == {(b"now", Lane.TRANSACTIONAL), (b"later", Lane.BULK)}
    assert not drained(amqp_url, topology.lane_queue(Lane.TRANSACTIONAL))
    assert not drained(amqp_url, topology.lane_queue(Lane.BULK))


async def test_a_returned_message_comes_again_as_if_new_with_its_progress(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        b.answer = lambda incoming: Ack() if ATTEMPT in incoming.headers else Return({ATTEMPT: 3})
        await b.publish(b"x", headers={"tenant": "acme", "x-postbote-hops": 9})
        first, second = await b.take(), await b.take()
        assert not first.redelivered
        assert second == Incoming(b"x", "text/plain", {"tenant": "acme", ATTEMPT: 3}, Lane.TRANSACTIONAL)
    assert not drained(amqp_url, topology.lane_queue(Lane.TRANSACTIONAL))


async def test_a_parked_message_keeps_its_body_and_says_why(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        b.answer = lambda _: Park("invalid", "data.to: Field required", ("a@example.com",))
        await b.publish(b"broken")
        await b.take()
    [(properties, body)] = drained(amqp_url, topology.PARKED_QUEUE)
    assert body == b"broken"
    assert properties.headers["x-postbote-reason"] == "invalid"
    assert properties.headers["x-postbote-detail"] == "data.to: Field required"
    assert properties.headers["x-postbote-pending"] == ["a@example.com"]
    assert properties.headers["x-postbote-lane"] == "transactional"
    assert properties.headers["x-postbote-first-seen"]


async def test_a_parked_message_may_be_looked_at_more_often_than_a_broker_allows_by_itself(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        await b.publisher.publish("", topology.PARKED_QUEUE, b"kept", content_type=None, headers={})
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    for _ in range(30):  # RabbitMQ 4 drops after 20 unless the queue says otherwise
        method, deadline = None, time.monotonic() + PATIENCE_S / 4
        while method is None:
            assert time.monotonic() < deadline, "the broker has dropped it"
            method, _properties, _body = channel.basic_get(topology.PARKED_QUEUE)
        channel.basic_nack(method.delivery_tag, requeue=True)
    connection.close()
    assert [body for _, body in drained(amqp_url, topology.PARKED_QUEUE)] == [b"kept"]


async def test_a_handler_that_fails_again_and_again_ends_in_parking(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.rabbit.consumer._SURPRISE_PAUSE_S", 0.0)

    def fail(_: Incoming) -> Settlement:
        raise RuntimeError("a bug")

    async with bench(amqp_url) as b:
        b.answer = fail
        await b.publish(b"poison")
        for _ in range(6):
            await b.take()
    [(properties, _)] = drained(amqp_url, topology.PARKED_QUEUE)
    assert properties.headers["x-postbote-reason"] == "handler_error"


async def test_an_unroutable_event_is_parked_by_the_broker(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        await b.publisher.publish(
            topology.EVENTS_EXCHANGE, "nobody.binds.this", b"lost?", content_type=None, headers={}
        )
    assert [body for _, body in drained(amqp_url, topology.PARKED_QUEUE)] == [b"lost?"]


async def test_a_message_for_no_queue_is_refused(amqp_url: str) -> None:
    async with open_publisher(amqp_url) as publisher:
        with pytest.raises(PublishRefused, match="no queue"):
            await publisher.publish("", "no.such.queue", b"x", content_type=None, headers={})


async def test_a_thousand_publishes_at_once_are_all_confirmed(amqp_url: str) -> None:
    async with bench(amqp_url, prefetch=500) as b:
        async with asyncio.TaskGroup() as group:
            for n in range(1000):
                group.create_task(b.publish(b"%d" % n))
        assert {(await b.take()).body for _ in range(1000)} == {b"%d" % n for n in range(1000)}


async def test_prefetch_bounds_what_is_held(amqp_url: str) -> None:
    async with bench(amqp_url, prefetch=4) as b:
        gate = asyncio.Event()
        held = 0

        async def slow(incoming: Incoming) -> Settlement:
            nonlocal held
            held += 1
            b.taken.put_nowait(incoming)
            await gate.wait()
            return Ack()

        b.consumer._handler = slow
        await b.publish(*(b"%d" % n for n in range(12)))
        for _ in range(4):
            await b.take()
        assert held == 4
        gate.set()
        for _ in range(8):
            await b.take()


async def test_after_a_lost_connection_deliveries_come_again_and_old_tags_are_not_acked(
    rabbitmq, amqp_url: str
) -> None:
    async with bench(amqp_url) as b:
        gate = asyncio.Event()
        original = b.handle

        async def held(incoming: Incoming) -> Settlement:
            settlement = await original(incoming)
            if not incoming.redelivered:
                await gate.wait()
            return settlement

        b.consumer._handler = held
        await b.publish(b"x")
        assert not (await b.take()).redelivered
        await asyncio.to_thread(rabbitmq.close_connections, amqp_url)
        gate.set()
        assert (await b.take()).redelivered
        await b.publish(b"y")
        assert (await b.take()).body == b"y"


async def test_a_broker_restart_is_survived_by_publisher_and_consumer(rabbitmq, amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        await b.publish(b"before")
        await b.take()
        await asyncio.to_thread(rabbitmq.restart)
        async with asyncio.timeout(60):
            while True:
                try:
                    await b.publish(b"after")
                    break
                except (BrokerUnavailable, PublishRefused):
                    continue
        while (await b.take()).body != b"after":
            pass


async def test_stopping_waits_for_what_is_in_hand_and_leaves_the_rest(amqp_url: str) -> None:
    async with bench(amqp_url, prefetch=2) as b:
        gate = asyncio.Event()

        async def slow(incoming: Incoming) -> Settlement:
            b.taken.put_nowait(incoming)
            await gate.wait()
            return Ack()

        b.consumer._handler = slow
        await b.publish(*(b"%d" % n for n in range(5)))
        await b.take()
        await b.take()
        await until(lambda: b.consumer.consuming)
        b.stop.set()
        while b.consumer.consuming:
            await asyncio.sleep(0)
        assert not b.running.done()
        gate.set()
    left = [body for _, body in drained(amqp_url, topology.lane_queue(Lane.TRANSACTIONAL))]
    assert len(left) == 3


async def test_a_queue_with_other_arguments_is_an_error_that_names_it(amqp_url: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    connection.channel().queue_declare(topology.PARKED_QUEUE, durable=True)
    connection.close()
    link = await open_link(amqp_url, "t")
    with pytest.raises(TopologyMismatch, match=r"postbote\.parked"):
        await declare(link)


@pytest.mark.parametrize("url", ["amqp://guest:guest@127.0.0.1:1/%2F"])
async def test_no_broker_is_an_error_without_a_password_in_it(url: str) -> None:
    with pytest.raises(BrokerUnavailable) as caught:
        await open_link(url, "t")
    assert "guest" not in str(caught.value)


async def test_a_wrong_password_is_an_error_that_says_so(amqp_url: str) -> None:
    wrong = amqp_url.replace("guest:guest", "guest:wrong")
    with pytest.raises(BrokerUnavailable, match=r"(?i)ACCESS_REFUSED|auth"):
        await open_link(wrong, "t")
