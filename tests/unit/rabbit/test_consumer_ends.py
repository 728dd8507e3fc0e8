"""How a delivery ends at the consumer, over a channel and a publisher that only note what they are told."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from worker.delivery.ports import Ack, Incoming, Lane, Later, Settlement, Tier
from worker.errors import PublishRefused
from worker.rabbit import consumer as module
from worker.rabbit.acks import Acks
from worker.rabbit.consumer import Consumer
from worker.rabbit.topology import lane_queue

REST = Later(Tier.TEN_SECONDS, 10.0)


class Channel:
    """A channel that is open, and every answer that went over it."""

    is_open = True

    def __init__(self) -> None:
        self.answers: list[tuple[str, int]] = []

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.answers.append(("ack", tag))

    def basic_nack(self, tag: int, requeue: bool) -> None:
        self.answers.append(("nack", tag))

    def basic_reject(self, tag: int, requeue: bool) -> None:
        self.answers.append(("reject", tag))


class Publisher:
    """Publishes once `gate` is set, or raises."""

    def __init__(self) -> None:
        self.queues: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def publish(self, _exchange: str, queue: str, _body: bytes, **_: Any) -> None:
        self.queues.append(queue)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


class World:
    """A consumer whose handler answers with futures that the test resolves."""

    def __init__(self) -> None:
        self.channel, self.publisher = Channel(), Publisher()
        self.link: Any = SimpleNamespace(channel=self.channel, lost=asyncio.get_running_loop().create_future())
        self.acks = Acks(self.channel.basic_ack, lambda: True)
        self.handled: list[asyncio.Future[Settlement]] = []
        self.told: list[bool] = []
        publisher: Any = self.publisher
        self.consumer = Consumer("amqp://unused", publisher, self.handle, prefetch=1, name="t")

    def handle(self, _: Incoming) -> asyncio.Future[Settlement]:
        self.handled.append(asyncio.get_running_loop().create_future())
        return self.handled[-1]

    def deliver(self, tag: int = 1, lane: Lane = Lane.TRANSACTIONAL) -> None:
        method = SimpleNamespace(delivery_tag=tag, redelivered=False)
        properties = SimpleNamespace(content_type=None, headers=None)
        self.consumer._on_message(self.link, self.acks, lane, None, method, properties, b"{}")

    def end(self, settlement: Settlement) -> None:
        self.deliver()
        self.handled[-1].set_result(settlement)

    def resting(self) -> Later:
        return Later(REST.tier, REST.wait_s, told=self.told.append)

    async def settled(self) -> None:
        while self.consumer._tasks:
            await asyncio.sleep(0)
        self.acks.flush()


async def test_what_is_finished_is_acknowledged_without_a_further_task() -> None:
    world = World()
    world.end(Ack())
    await world.settled()
    assert (world.channel.answers, world.publisher.queues) == ([("ack", 1)], [])


async def test_what_is_to_rest_is_published_told_and_only_then_acknowledged() -> None:
    world = World()
    world.publisher.gate.clear()
    world.end(world.resting())
    while not world.publisher.queues:
        await asyncio.sleep(0)
    world.acks.flush()
    assert (world.channel.answers, world.told) == ([], [])
    world.publisher.gate.set()
    await world.settled()
    assert (world.channel.answers, world.told[0]) == ([("ack", 1)], True)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (PublishRefused("full"), "nack"),
        (RuntimeError("a mistake, ours or a library's"), "reject"),  # which counts: it may be so each time
    ],
)
async def test_what_could_not_be_moved_goes_back_and_another_copy_may_try(
    monkeypatch, error: Exception, answer: str
) -> None:
    monkeypatch.setattr(module, "_REFUSAL_PAUSE_S", 0.0)
    monkeypatch.setattr(module, "_SURPRISE_PAUSE_S", 0.0)
    world = World()
    world.publisher.error = error
    world.end(world.resting())
    await world.settled()
    assert (world.channel.answers, world.told[0]) == ([(answer, 1)], False)


async def test_a_handler_that_fails_has_its_event_rejected_to_come_again(monkeypatch) -> None:
    monkeypatch.setattr(module, "_SURPRISE_PAUSE_S", 0.0)
    world = World()
    world.deliver()
    world.handled[-1].set_exception(ValueError("a mistake"))
    await world.settled()
    assert world.channel.answers == [("reject", 1)]


async def test_work_that_was_aborted_is_not_answered() -> None:
    world = World()
    world.deliver()
    world.handled[-1].cancel()
    await world.settled()
    assert world.channel.answers == []


async def test_on_a_lost_link_nothing_is_answered() -> None:
    world = World()
    world.link.lost.set_result("gone")
    world.end(Ack())
    await world.settled()
    assert world.channel.answers == []


@pytest.mark.parametrize("begun", [False, True])
async def test_a_move_that_is_abandoned_is_told_so_that_another_copy_does_it(begun: bool) -> None:
    world = World()
    world.publisher.gate.clear()
    world.end(world.resting())
    while begun and not world.publisher.queues:
        await asyncio.sleep(0)
    await world.consumer._abandon_tasks()
    await asyncio.sleep(0)
    assert (bool(world.publisher.queues), world.told[0]) == (begun, False)
    assert world.channel.answers == []


async def test_what_comes_while_nothing_is_taken_goes_back_as_it_came() -> None:
    world = World()
    world.consumer.hold("a full disk")
    world.deliver(tag=7, lane=Lane.BULK)
    await world.settled()
    assert (world.handled, world.publisher.queues) == ([], [lane_queue(Lane.BULK)])
    assert world.channel.answers == [("ack", 7)]
