"""What a destination learns, as arithmetic on a clock; and the room that messages wait in."""

import asyncio

import pytest

from worker.smtp.limits import FIRST_PAUSE_S, HOLD_S, MAX_PAUSE_S, RAISE_S, ConnectionLimit, MessageLimit, TokenBucket
from worker.smtp.room import Guest, WaitingRoom

NOW = 1000.0


@pytest.mark.parametrize(("per_minute", "seconds", "most"), [(60, 10.0, 11), (6, 60.0, 7), (600, 3.0, 40)])
def test_a_bucket_never_gives_more_than_its_rate_and_a_second_of_it(per_minute, seconds, most) -> None:
    bucket = TokenBucket(per_minute, NOW)
    steps = int(seconds * 1000)
    taken = sum(bucket.take(NOW + step / 1000) == 0.0 for step in range(steps + 1))
    assert most - 1 <= taken <= most


def test_a_bucket_says_when_the_next_token_is_there() -> None:
    bucket = TokenBucket(60, NOW)
    assert bucket.take(NOW) == 0
    wait = bucket.take(NOW)
    assert wait == pytest.approx(1.0)
    assert bucket.take(NOW + wait) == 0


def test_a_refused_connection_lowers_the_limit_to_what_is_up_and_it_rises_by_one_a_minute() -> None:
    limit = ConnectionLimit(10)
    limit.refused(3, NOW)
    assert limit.allowed(NOW) == 3
    assert limit.allowed(NOW + RAISE_S - 1) == 3
    assert limit.allowed(NOW + RAISE_S) == 4
    assert limit.allowed(NOW + RAISE_S + 1) == 4
    assert limit.allowed(NOW + 2 * RAISE_S) == 5


def test_the_limit_never_rises_beyond_the_record() -> None:
    limit = ConnectionLimit(2)
    limit.refused(1, NOW)
    assert [limit.allowed(NOW + n * RAISE_S) for n in (1, 2, 3)] == [2, 2, 2]


def test_throttling_halves_once_for_the_replies_that_were_on_their_way() -> None:
    limit = ConnectionLimit(8)
    for delay in (0, 0.1, 0.2):
        limit.throttled(NOW + delay)
    assert limit.allowed(NOW + 0.3) == 4
    limit.throttled(NOW + HOLD_S)
    assert limit.allowed(NOW + HOLD_S) == 2


def test_at_one_connection_throttling_pauses_longer_each_time_until_a_message_is_accepted() -> None:
    limit = ConnectionLimit(1)
    now, pauses = NOW, []
    for _ in range(8):
        limit.throttled(now)
        pauses.append(limit.paused_until - now)
        now = limit.paused_until + HOLD_S
    assert pauses == [1, 2, 4, 8, 16, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]
    limit.accepted()
    limit.throttled(now)
    assert limit.paused_until - now == FIRST_PAUSE_S


def test_a_limit_of_messages_is_believed_when_two_connections_ended_after_as_many() -> None:
    limit = MessageLimit()
    limit.closed_after(5)
    limit.closed_after(7)
    assert limit.value is None
    limit.closed_after(5)
    assert limit.value == 5


async def test_the_room_is_bounded_by_count_and_lets_in_in_order() -> None:
    room, guests = WaitingRoom(4, 1000), [Guest(), Guest(), Guest()]
    assert [room.enters(guests[n // 2], 1) for n in range(4)] == [True] * 4
    assert not room.enters(guests[2], 1)
    waiting = [asyncio.ensure_future(room.wait(guests[2], 1)) for _ in range(2)]
    await asyncio.sleep(0)
    room.leaves(guests[0], 1)
    await waiting[0]
    assert not waiting[1].done()
    room.leaves(guests[0], 1)
    await waiting[1]


async def test_one_destination_fills_half_of_the_room_and_who_waits_for_it_holds_up_nobody() -> None:
    room, slow, other = WaitingRoom(10, 1000), Guest(), Guest()
    assert sum(room.enters(slow, 100) for _ in range(10)) == 5
    waiting = asyncio.ensure_future(room.wait(slow, 100))
    await asyncio.sleep(0)
    assert room.enters(other, 100)
    room.leaves(other, 100)
    assert not waiting.done()
    waiting.cancel()


async def test_a_message_larger_than_the_share_is_let_in_alone() -> None:
    room, guest = WaitingRoom(10, 1000), Guest()
    assert room.enters(guest, 5000)
    assert not room.enters(guest, 1)


async def test_who_is_let_in_and_cancelled_in_the_same_turn_leaves_no_trace() -> None:
    room, first, second = WaitingRoom(1, 1000), Guest(), Guest()
    room.enters(first, 1)
    waiting = asyncio.ensure_future(room.wait(second, 1))
    await asyncio.sleep(0)
    room.leaves(first, 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert room.enters(first, 1)
