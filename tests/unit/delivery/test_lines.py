"""Lines before the caps: who waits for a moment, who is sent to rest, and that nobody is forgotten."""

import asyncio

import pytest

from schemas.smtp_config import Scope
from worker.delivery.admission import GRACE_S, Admission, Refusal, Ticket
from worker.delivery.lines import Lines
from worker.delivery.ports import Lane

A, B = Scope("a"), Scope("b")
SERVER, OTHER = ("mx.test", 587), ("mx2.test", 587)
NOW = Lane.TRANSACTIONAL


class Clock:
    """Seconds that pass when they are told to; the loop's own timers are not touched."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(cap: int = 2) -> tuple[Lines, Clock]:
    clock = Clock()
    return Lines(Admission(cap, 100, clock)), clock


async def entered(of: Lines, scope: Scope = A, provider: tuple[str, int] = SERVER) -> Ticket:
    found = await of.enter(scope, provider, NOW)
    assert isinstance(found, Ticket)
    return found


async def test_whoever_waits_gets_the_next_place_in_the_order_of_coming() -> None:
    of, _ = lines()
    places = [await entered(of), await entered(of)]
    waiting = [asyncio.ensure_future(of.enter(A, SERVER, NOW)) for _ in range(2)]
    await asyncio.sleep(0)
    assert len(of) == 2
    places[0].leave()
    assert isinstance(await waiting[0], Ticket)
    assert not waiting[1].done()
    places[1].leave()
    assert isinstance(await waiting[1], Ticket)
    assert len(of) == 0


async def test_another_tenant_does_not_stand_in_that_line() -> None:
    of, _ = lines()
    await entered(of)
    await entered(of)
    waiting = asyncio.ensure_future(of.enter(A, SERVER, NOW))
    assert isinstance(await of.enter(B, SERVER, NOW), Ticket)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_line_that_stands_still_is_sent_to_rest_after_a_moment() -> None:
    of, clock = lines()
    await entered(of)
    await entered(of)
    waiting = [asyncio.ensure_future(of.enter(A, SERVER, NOW)) for _ in range(5)]
    await asyncio.sleep(0)
    clock.now = GRACE_S
    assert {type(found) for found in await asyncio.gather(*waiting)} == {Refusal}
    assert isinstance(await of.enter(A, SERVER, NOW), Refusal), "from then on, at once"
    assert of.refuse_early(A, NOW) is not None
    assert of.refuse_early(B, NOW) is None


async def test_a_line_that_moves_may_be_as_long_as_a_second_takes() -> None:
    of, clock = lines(cap=4)
    places = [await entered(of) for _ in range(4)]
    for step in range(1, 101):  # twenty ends a second, for five seconds
        clock.now = step * 0.05
        places.pop(0).leave()
        places.append(await entered(of))
    waiting = [asyncio.ensure_future(of.enter(A, SERVER, NOW)) for _ in range(40)]
    await asyncio.sleep(0)
    turned_away = sum(each.done() for each in waiting)
    assert 15 <= turned_away <= 25
    assert len(of) == 40 - turned_away
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_cancelled_event_takes_no_place() -> None:
    of, _ = lines(cap=1)
    place = await entered(of)
    first, second = (asyncio.ensure_future(of.enter(A, SERVER, NOW)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    place.leave()
    assert isinstance(await second, Ticket)


async def test_a_place_given_to_an_event_that_is_cancelled_at_that_moment_is_given_on() -> None:
    of, _ = lines(cap=1)
    place = await entered(of)
    first, second = (asyncio.ensure_future(of.enter(A, SERVER, NOW)) for _ in range(2))
    await asyncio.sleep(0)
    place.leave()
    first.cancel()
    assert isinstance(await second, Ticket)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_event_whose_provider_is_full_stands_in_the_providers_line() -> None:
    clock = Clock()
    of = Lines(Admission(10, 1, clock))
    place = await entered(of, A)
    waiting = asyncio.ensure_future(of.enter(B, SERVER, NOW))
    await asyncio.sleep(0)
    assert isinstance(await of.enter(B, OTHER, NOW), Ticket)
    place.leave()
    assert isinstance(await waiting, Ticket)


async def test_a_slow_server_has_no_more_in_hand_than_it_ends_in_a_quarter_of_a_minute() -> None:
    clock = Clock()
    admission = Admission(500, 1000, clock)
    places = []
    while isinstance(found := admission.try_enter(A, SERVER, NOW), Ticket):
        places.append(found)
    assert len(places) == 50, "as long as nothing has ended, nobody knows"
    for second in range(1, 21):  # one end a second
        clock.now = float(second)
        places.pop().leave()
    while isinstance(found := admission.try_enter(A, SERVER, NOW), Ticket):
        places.append(found)
    assert 28 <= len(places) <= 32, "thirty were under way: no more came in"
    for _ in range(20):
        clock.now += 1.0
        places.pop().leave()
    while isinstance(found := admission.try_enter(A, SERVER, NOW), Ticket):
        places.append(found)
    assert 13 <= len(places) <= 17


async def test_bulk_that_has_its_half_stands_in_no_transactional_mails_way() -> None:
    of, _ = lines(cap=4)
    places = [await of.enter(A, SERVER, lane) for lane in (Lane.BULK, Lane.BULK, NOW, NOW)]
    bulk = asyncio.ensure_future(of.enter(A, SERVER, Lane.BULK))
    await asyncio.sleep(0)
    waited_for = asyncio.ensure_future(of.enter(A, SERVER, NOW))
    await asyncio.sleep(0)
    last = places[-1]
    assert isinstance(last, Ticket)
    last.leave()
    assert isinstance(await waited_for, Ticket)
    assert not bulk.done()
    bulk.cancel()
    await asyncio.gather(bulk, return_exceptions=True)
