"""What a settlement does to the event on a real RabbitMQ: resting, coming back, and never getting lost."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pika
import pytest

from tests.integration.test_rabbit import PATIENCE_S, Bench, bench, drained, until
from worker.delivery.ports import Ack, Incoming, Lane, Later, Park, Return, Settlement, Tier
from worker.delivery.progress import ATTEMPT, HOPS, SUSPECT
from worker.errors import PublishRefused
from worker.rabbit import topology
from worker.rabbit.connection import open_link
from worker.rabbit.publisher import Publisher, open_publisher

LANE = topology.lane_queue(Lane.TRANSACTIONAL)
TEN_SECONDS = topology.retry_queue(Lane.TRANSACTIONAL, Tier.TEN_SECONDS)


async def delete(url: str, queue: str) -> None:
    link = await open_link(url, "test deletes")
    await link.call(link.channel.queue_delete, queue)
    await link.close()


def waiting(url: str, queue: str) -> list[bool]:
    """Take everything out of a queue; for each message whether it had been delivered before."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    found: list[bool] = []
    while True:
        method, _properties, _body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            connection.close()
            return found
        found.append(method.redelivered)


async def test_an_event_that_rests_comes_back_when_its_own_wait_is_over(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        b.answer = lambda i: Ack() if ATTEMPT in i.headers else Later(Tier.TEN_SECONDS, 0.3, {ATTEMPT: 1})
        await b.publish(b"x", headers={"tenant": "acme", HOPS: 9}, lane=Lane.BULK)
        await b.take()
        left = time.monotonic()
        again = await b.take()
        assert 0.25 < time.monotonic() - left < 9, "the tier's own time is 10 s"
    own = {
        name: value for name, value in again.headers.items() if not name.startswith(("x-death", "x-first-", "x-last-"))
    }
    assert (again.body, again.content_type, again.lane, again.redelivered) == (b"x", "text/plain", Lane.BULK, False)
    assert own == {"tenant": "acme", ATTEMPT: 1}
    assert not waiting(amqp_url, topology.lane_queue(Lane.BULK))


async def test_the_brokers_own_headers_do_not_grow_with_the_rounds(amqp_url: str) -> None:
    def answer(incoming: Incoming) -> Settlement:
        rounds = incoming.headers.get(ATTEMPT, 0)
        return Later(Tier.TEN_SECONDS, 0.01, {ATTEMPT: rounds + 1}) if rounds < 4 else Ack()

    async with bench(amqp_url) as b:
        b.answer = answer
        await b.publish(b"x")
        rounds = [await b.take() for _ in range(5)]
    assert [incoming.headers.get(ATTEMPT) for incoming in rounds] == [None, 1, 2, 3, 4]
    assert [len(incoming.headers["x-death"]) for incoming in rounds[1:]] == [1, 1, 1, 1]
    assert {incoming.headers["x-death"][0]["count"] for incoming in rounds[1:]} == {1}


class Crashing(Publisher):
    """Confirms and then never returns, as in a worker that is killed at that moment."""

    confirmed: asyncio.Event

    async def publish(self, exchange: str, routing_key: str, *rest: Any, **options: Any) -> None:
        await super().publish(exchange, routing_key, *rest, **options)
        if exchange == "":
            self.confirmed.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    "settlement", [Later(Tier.TEN_SECONDS, 0.3, {ATTEMPT: 1}), Return({ATTEMPT: 1})], ids=["later", "return"]
)
async def test_a_crash_between_the_confirm_and_the_ack_leaves_both(amqp_url: str, settlement: Settlement) -> None:
    publisher = Crashing(amqp_url)
    publisher.confirmed = asyncio.Event()
    await publisher.start(declare=True)
    crashing = Bench(amqp_url, publisher, prefetch=1)  # it must not take the copy, too
    crashing.answer = lambda i: settlement if ATTEMPT not in i.headers else Ack()
    await crashing.publish(b"x")
    async with asyncio.timeout(PATIENCE_S):
        await publisher.confirmed.wait()
    crashing.running.cancel()
    await asyncio.gather(crashing.running, return_exceptions=True)
    await publisher.close()
    async with bench(amqp_url) as b:
        found = [await b.take(), await b.take()]
    assert {(i.redelivered, ATTEMPT in i.headers) for i in found} == {(True, False), (False, True)}
    assert not waiting(amqp_url, LANE)


@pytest.mark.parametrize(
    ("settlement", "queue"),
    [(Later(Tier.TEN_SECONDS, 0.3), TEN_SECONDS), (Park("invalid", "x"), topology.PARKED_QUEUE)],
    ids=["the tier is gone", "the parked queue is gone"],
)
async def test_an_event_that_cannot_move_on_goes_back_slowly(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch, settlement: Settlement, queue: str
) -> None:
    monkeypatch.setattr("worker.rabbit.consumer._REFUSAL_PAUSE_S", 0.2)
    async with bench(amqp_url) as b:
        await until(lambda: b.consumer.consuming)  # it would declare the queue again
        await delete(amqp_url, queue)
        b.answer = lambda i: Ack() if i.redelivered else settlement
        await b.publish(b"x")
        await b.take()
        left = time.monotonic()
        assert (await b.take()).redelivered
        assert time.monotonic() - left > 0.19
    assert not waiting(amqp_url, LANE)


async def test_held_nothing_is_taken_what_is_in_hand_settles_and_resumed_it_goes_on(amqp_url: str) -> None:
    async with bench(amqp_url, prefetch=2) as b:
        gate = asyncio.Event()

        async def slow(incoming: Incoming) -> Settlement:
            b.taken.put_nowait(incoming)
            await gate.wait()
            return Ack()

        b.consumer._handler = slow
        await until(lambda: b.consumer.consuming)
        await b.publish(b"0", b"1", b"2", b"3")
        assert {(await b.take()).body, (await b.take()).body} == {b"0", b"1"}
        b.consumer.hold("the journal's disk is full")
        assert (b.consumer.held, b.consumer.consuming) == ("the journal's disk is full", False)
        gate.set()
        await until(lambda: not b.consumer._tasks and not b.consumer._tags)
        assert b.taken.empty()
        b.consumer.resume()
        assert b.consumer.held is None
        assert {(i.body, i.redelivered) for i in (await b.take(), await b.take())} == {(b"2", False), (b"3", False)}
        await until(lambda: b.consumer.consuming)


async def test_a_consumer_that_holds_can_be_stopped_and_one_held_from_the_start_takes_nothing(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        b.consumer.hold("full")
        await b.publish(b"x")
        b.consumer.resume()
        b.consumer.hold("full again")
    assert waiting(amqp_url, LANE) == [False]


async def test_what_arrives_after_a_stop_goes_back_as_it_came(amqp_url: str) -> None:
    events = 400
    async with bench(amqp_url, prefetch=20) as b:
        for n in range(0, events, 100):
            await asyncio.gather(*(b.publish(b"%d" % (n + m), headers={HOPS: 3}) for m in range(100)))
        for _ in range(50):
            await b.take()
    handled = 50 + b.taken.qsize()
    left = drained_headers(amqp_url)
    assert handled < events, "too late: nothing was left to go back"
    assert handled + len(left) == events
    assert {headers[HOPS] for headers in left} == {3}
    assert not any(SUSPECT in headers or headers.get("x-delivery-count") for headers in left), "nobody has crashed here"


def drained_headers(url: str) -> list[Mapping[str, Any]]:
    return [properties.headers for properties, _ in drained(url, LANE)]


async def test_a_lane_that_is_deleted_under_its_consumer_is_declared_and_consumed_again(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        gate = asyncio.Event()
        quick = b.handle

        async def bulk_waits(incoming: Incoming) -> Settlement:
            if incoming.lane is Lane.BULK:
                await gate.wait()
            return await quick(incoming)

        b.consumer._handler = bulk_waits
        await b.publish(b"in hand", lane=Lane.BULK)
        await until(lambda: len(b.consumer._tasks) == 1 and b.consumer.consuming)
        for n in range(2):
            await delete(amqp_url, LANE)
            await until(lambda: not b.consumer.consuming)
            await until(lambda: b.consumer.consuming)
            await b.publish(b"%d" % n)
            assert (await b.take()).body == b"%d" % n
        gate.set()
        in_hand = await b.take()
        assert (in_hand.body, in_hand.redelivered) == (b"in hand", False)
    assert not waiting(amqp_url, topology.lane_queue(Lane.BULK))


async def test_an_event_in_hand_whose_lane_is_deleted_settles_without_harm(amqp_url: str) -> None:
    async with bench(amqp_url) as b:
        gate = asyncio.Event()

        async def slow(incoming: Incoming) -> Settlement:
            b.taken.put_nowait(incoming)
            await gate.wait()
            return Later(Tier.TEN_SECONDS, 0.05, {ATTEMPT: 1}) if ATTEMPT not in incoming.headers else Ack()

        b.consumer._handler = slow
        await b.publish(b"x")
        await b.take()
        await until(lambda: b.consumer.consuming)
        await delete(amqp_url, LANE)
        await until(lambda: not b.consumer.consuming)
        await until(lambda: b.consumer.consuming)
        gate.set()
        assert (await b.take()).headers[ATTEMPT] == 1


async def test_a_header_that_cannot_be_written_confuses_no_other_confirm(amqp_url: str) -> None:
    async with open_publisher(amqp_url) as publisher:
        link = await open_link(amqp_url, "test")
        await link.call(link.channel.queue_declare, "q", durable=True)
        with pytest.raises(PublishRefused, match="header"):
            await publisher.publish("", "q", b"x", content_type=None, headers={"odd": object()})
        await publisher.publish("", "q", b"y", content_type=None, headers={})
        with pytest.raises(PublishRefused, match="no queue"):
            await publisher.publish("", "nowhere", b"z", content_type=None, headers={})
        await publisher.publish("", "q", b"y", content_type=None, headers={})
        await link.close()
