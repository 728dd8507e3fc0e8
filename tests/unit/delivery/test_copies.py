"""Copies of one event that are in hand at once: one piece of work, and one of them goes on."""

import asyncio

import pytest

from worker.delivery.copies import InHand
from worker.delivery.ports import Ack, Later, Park, Return, Settlement, Tier

REST = Later(Tier.TEN_SECONDS, 10.0, {"x-postbote-hops": 1})


def copies(settlement: Settlement, count: int) -> tuple[InHand, asyncio.Event, list["asyncio.Task[Settlement]"]]:
    gate = asyncio.Event()

    async def work() -> Settlement:
        await gate.wait()
        return settlement

    in_hand = InHand(asyncio.ensure_future(work()))
    return in_hand, gate, [asyncio.ensure_future(in_hand.settlement()) for _ in range(count)]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_copies_of_a_finished_event_are_acknowledged() -> None:
    _, gate, found = copies(Ack(), 3)
    await settled()
    gate.set()
    assert await asyncio.gather(*found) == [Ack()] * 3


@pytest.mark.parametrize("settlement", [REST, Park("in_doubt", "why", ("a@example.com",)), Return({"x": 1})], ids=str)
async def test_one_copy_moves_on_and_the_others_are_done_with_once_it_has(settlement: Settlement) -> None:
    _, gate, found = copies(settlement, 3)
    await settled()
    gate.set()
    await settled()
    [moving] = [each for each in found if each.done()]
    assert moving.result() == settlement
    moved = moving.result()
    assert not isinstance(moved, Ack)
    moved.told(True)
    assert sorted(map(repr, await asyncio.gather(*found))) == sorted(map(repr, (settlement, Ack(), Ack())))


async def test_where_the_first_copy_could_not_move_the_next_one_does_instead() -> None:
    _, gate, found = copies(REST, 3)
    await settled()
    gate.set()
    for told in (False, False, True):
        await settled()
        [moving] = [each for each in found if each.done()]
        found.remove(moving)
        moved = moving.result()
        assert isinstance(moved, Later)
        moved.told(told)
    assert found == []


async def test_a_copy_whose_connection_was_lost_is_no_copy_that_could_move() -> None:
    _, gate, (first, second) = copies(REST, 2)
    await settled()
    first.cancel()
    await settled()
    await settled()
    gate.set()
    assert await second == REST


async def test_a_single_copy_waits_for_nobody() -> None:
    in_hand, gate, (only,) = copies(REST, 1)
    await settled()
    gate.set()
    assert await only is in_hand.work.result()
