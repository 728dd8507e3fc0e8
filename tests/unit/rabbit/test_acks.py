"""Acknowledgements: a frame for many never covers a delivery that is not done, and none waits long."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.rabbit.acks import ROUND_S, Acks


class Channel:
    """A broker's side: the tags it still waits for, and the frames it got."""

    def __init__(self) -> None:
        self.unacked: set[int] = set()
        self.frames: list[tuple[int, bool]] = []
        self.alive = True
        self.acks = Acks(self.basic_ack, lambda: self.alive)

    def deliver(self, *tags: int) -> None:
        for tag in tags:
            self.unacked.add(tag)
            self.acks.delivered(tag)

    def basic_ack(self, tag: int, multiple: bool = False) -> None:  # as pika has it
        covered = {each for each in self.unacked if each <= tag} if multiple else {tag} & self.unacked
        assert covered, f"PRECONDITION_FAILED: unknown delivery tag {tag}"
        self.unacked -= covered
        self.frames.append((tag, multiple))


@pytest.fixture
def channel() -> Channel:
    return Channel()


async def all_rounds(channel: Channel) -> None:
    """Return once nothing is done that another round would acknowledge."""
    while channel.acks._timer is not None:
        await asyncio.sleep(ROUND_S)


@pytest.mark.parametrize(
    ("sentence", "done", "frames", "left"),
    [
        ("one is acknowledged by itself", [1], [(1, False)], {2, 3, 4}),
        ("all of them need one frame", [1, 2, 3, 4], [(4, True)], set()),
        ("the order in which they end does not matter", [3, 1, 2], [(3, True)], {4}),
        ("one behind a slow one goes alone, a round later", [2, 3], [(2, False), (3, False)], {1, 4}),
        ("a frame for many ends before the slow one", [1, 2, 4], [(2, True), (4, False)], {3}),
    ],
)
async def test_frames(channel: Channel, sentence, done, frames, left) -> None:
    channel.deliver(1, 2, 3, 4)
    for tag in done:
        channel.acks.done(tag)
    await all_rounds(channel)
    assert (channel.frames, channel.unacked) == (frames, left), sentence


async def test_what_was_rejected_is_not_acknowledged_and_holds_nobody_up(channel: Channel) -> None:
    channel.deliver(1, 2, 3)
    channel.unacked.discard(1)
    channel.acks.settled_otherwise(1)
    channel.acks.done(2)
    channel.acks.done(3)
    await all_rounds(channel)
    assert channel.frames == [(3, True)]


async def test_flush_acknowledges_everything_that_is_done_at_once(channel: Channel) -> None:
    channel.deliver(1, 2, 3, 4)
    for tag in (1, 3, 4):
        channel.acks.done(tag)
    channel.acks.flush()
    assert channel.unacked == {2}


async def test_nothing_is_sent_on_a_channel_that_is_gone(channel: Channel) -> None:
    channel.deliver(1, 2)
    channel.acks.done(1)
    channel.alive = False
    await all_rounds(channel)
    channel.acks.flush()
    assert channel.frames == []


def _any_course() -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(["done", "reject", "deliver", "round"]), st.integers(0, 30)), max_size=80)


@given(_any_course())
def test_whatever_the_order_no_delivery_is_acknowledged_before_it_is_done(steps) -> None:
    asyncio.run(_go(Channel(), steps))


async def _go(channel: Channel, steps: list[tuple[str, int]]) -> None:
    next_tag, pending, finished = 1, set[int](), set[int]()

    def check() -> None:
        assert pending <= channel.unacked, "acknowledged before it was done"

    for what, number in steps:
        chosen = sorted(pending)[number % len(pending)] if pending else None
        if what == "deliver":
            channel.deliver(next_tag)
            pending.add(next_tag)
            next_tag += 1
        elif what == "round":
            _turn(channel.acks)
        elif chosen is not None:
            pending.discard(chosen)
            _end(channel, chosen, finished, rejected=what == "reject")
        check()
    channel.acks.flush()
    check()
    assert not finished & channel.unacked, "what is done is acknowledged in the end"


def _end(channel: Channel, tag: int, finished: set[int], *, rejected: bool) -> None:
    if rejected:
        channel.unacked.discard(tag)
        channel.acks.settled_otherwise(tag)
    else:
        finished.add(tag)
        channel.acks.done(tag)


def _turn(acks: Acks) -> None:
    turn: Callable[[], None] = acks._next_round  # the timer's callback, at a moment of the test's choosing
    turn()
