"""Copies of one event that are in hand at once: one piece of work, and one of them goes on."""

import asyncio
from itertools import pairwise

import pytest

from worker.delivery.copies import Copy, InHand
from worker.delivery.ports import Ack, Later, Park, Return, Settlement, Tier

REST = Later(Tier.TEN_SECONDS, 10.0, {"x-postbote-hops": 1})


def copies(count: int) -> tuple[InHand, list[Copy]]:
    """`count` copies of one event, whose work is that of the first."""
    waiting: list[Copy] = [asyncio.get_running_loop().create_future() for _ in range(count)]
    in_hand, *others = map(InHand, waiting)
    for each in others:
        in_hand.take_over(each)
    return in_hand, waiting


def told_by(copy: Copy, *, done: bool) -> None:
    settlement = copy.result()
    assert not isinstance(settlement, Ack)
    settlement.told(done)


async def test_all_copies_of_a_finished_event_are_acknowledged() -> None:
    in_hand, found = copies(3)
    in_hand.end(Ack())
    assert [each.result() for each in found] == [Ack()] * 3


@pytest.mark.parametrize("settlement", [REST, Park("in_doubt", "why", ("a@example.com",)), Return({"x": 1})], ids=str)
async def test_one_copy_moves_on_and_the_others_are_done_with_once_it_has(settlement: Settlement) -> None:
    in_hand, found = copies(3)
    in_hand.end(settlement)
    assert [each.done() for each in found] == [True, False, False]
    told_by(found[0], done=True)
    assert [each.result() for each in found] == [settlement, Ack(), Ack()]


async def test_where_the_first_copy_could_not_move_the_next_one_does_instead() -> None:
    in_hand, found = copies(3)
    in_hand.end(REST)
    for mover, following in pairwise(found):
        assert mover.result() == REST
        assert not following.done()
        told_by(mover, done=False)
    assert found[-1].result() == REST


@pytest.mark.parametrize("first", [True, False])
async def test_of_what_is_told_of_a_move_the_first_word_counts(first: bool) -> None:
    in_hand, found = copies(3)
    in_hand.end(REST)
    told_by(found[0], done=first)
    told_by(found[0], done=not first)
    assert found[1].result() == (Ack() if first else REST)
    assert found[2].done() is first


async def test_a_copy_whose_connection_was_lost_is_no_copy_that_could_move() -> None:
    in_hand, (first, second) = copies(2)
    first.cancel()
    in_hand.end(REST)
    assert second.result() is REST


async def test_nobody_is_told_of_a_move_by_a_copy_that_was_lost_meanwhile() -> None:
    in_hand, (first, second, third) = copies(3)
    in_hand.end(REST)
    second.cancel()
    told_by(first, done=False)
    assert third.result() is REST


async def test_a_single_copy_waits_for_nobody() -> None:
    in_hand, (only,) = copies(1)
    in_hand.end(REST)
    assert only.result() is REST


async def test_all_copies_hear_of_a_failure() -> None:
    in_hand, found = copies(2)
    in_hand.fail(ConnectionError("closed"))
    assert [type(each.exception()) for each in found] == [ConnectionError] * 2


async def test_all_copies_are_given_up_with_the_work() -> None:
    in_hand, found = copies(2)
    in_hand.give_up()
    assert all(each.cancelled() for each in found)
