"""Caps on what is under way: who finds room, who is sent to rest, and that nothing is remembered for ever."""

import heapq
import random

import pytest

from schemas.smtp_config import Scope
from worker.delivery.admission import GRACE_S, LONGEST_REST_S, SHORT_HOPS, Admission, Cap, Refusal, Ticket, hop_tier
from worker.delivery.ports import Lane, Tier

A, B, C = Scope("a"), Scope("b"), Scope("c", "dev")
SLOW, FAST = ("slow.test", 587), ("fast.test", 587)
NOW, LATER = Lane.TRANSACTIONAL, Lane.BULK


def fill(admission: Admission, scope: Scope, provider: tuple[str, int], lane: Lane, count: int = 100) -> list[Ticket]:
    """Enter until refused, `count` times at most."""
    entered = []
    for _ in range(count):
        found = admission.try_enter(scope, provider, lane)
        if isinstance(found, Refusal):
            break
        entered.append(found)
    return entered


def test_a_tenant_gets_its_cap_and_no_more() -> None:
    admission = Admission(per_tenant=4, per_provider=100)
    assert len(fill(admission, A, SLOW, NOW)) == 4
    assert admission.try_enter(A, FAST, NOW) == Refusal(Cap.TENANT, A)
    assert len(fill(admission, B, SLOW, NOW)) == 4


def test_a_provider_gets_its_cap_over_all_tenants() -> None:
    admission = Admission(per_tenant=4, per_provider=6)
    assert [len(fill(admission, each, SLOW, NOW)) for each in (A, B, C)] == [4, 2, 0]
    assert admission.try_enter(C, SLOW, NOW) == Refusal(Cap.PROVIDER, SLOW)
    assert isinstance(admission.try_enter(C, FAST, NOW), Ticket)


@pytest.mark.parametrize(
    ("caps", "bulk", "transactional"),
    [((8, 100), 4, 4), ((100, 8), 4, 4), ((1, 1), 1, 0), ((3, 3), 1, 2)],
    ids=["half of the tenant's", "half of the provider's", "one where the cap is one", "an odd cap rounds down"],
)
def test_bulk_takes_half_and_transactional_finds_the_rest(caps, bulk, transactional) -> None:
    admission = Admission(*caps)
    assert len(fill(admission, A, SLOW, LATER)) == bulk
    assert len(fill(admission, A, SLOW, NOW)) == transactional


@pytest.mark.parametrize("caps", [(4, 100), (100, 4)], ids=["the tenant's cap", "the provider's cap"])
def test_bulk_has_one_even_where_transactional_mail_took_everything(caps) -> None:
    admission = Admission(*caps)
    assert len(fill(admission, A, SLOW, NOW)) == 4
    assert len(fill(admission, A, SLOW, LATER)) == 1
    assert isinstance(admission.try_enter(A, SLOW, NOW), Refusal)


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ends_a_second(admission: Admission, clock: Clock, scope: Scope, rate: int, seconds: int) -> None:
    """Let events of `scope` come and go at an even pace."""
    for _ in range(rate * seconds):
        held = admission.try_enter(scope, SLOW, NOW)
        clock.now += 1 / rate
        assert isinstance(held, Ticket)
        held.leave()


def test_of_a_tenant_whose_server_nobody_knows_yet_fifty_are_begun() -> None:
    admission = Admission(1000, 1000, Clock())
    assert len(fill(admission, A, SLOW, NOW, 1000)) == 50


@pytest.mark.parametrize(
    ("rate", "room"),
    [(1, 15), (10, 150), (50, 750), (200, 1000)],
    ids=["slow", "middling", "fast", "bounded by the cap"],
)
def test_a_cap_is_what_the_server_shows_to_do_in_a_quarter_of_a_minute(rate, room) -> None:
    clock = Clock()
    admission = Admission(1000, 1000, clock)
    admission.try_enter(A, SLOW, NOW)  # so that it is remembered in between
    ends_a_second(admission, clock, A, rate, 30)
    assert len(fill(admission, A, SLOW, NOW, 2000)) == pytest.approx(room, rel=0.12, abs=2)


def test_a_server_that_stands_still_keeps_a_few() -> None:
    clock = Clock()
    admission = Admission(1000, 1000, clock)
    admission.try_enter(A, SLOW, NOW)
    ends_a_second(admission, clock, A, 20, 10)
    clock.now += 120
    assert len(fill(admission, A, SLOW, NOW)) == 3


def test_a_tenant_that_stands_still_is_refused_early_and_another_is_not() -> None:
    clock = Clock()
    admission = Admission(4, 100, clock)
    fill(admission, A, SLOW, NOW)
    assert admission.refuse_early(A, NOW) is None  # it has just begun: it may stand in line
    clock.now += GRACE_S
    assert admission.refuse_early(A, NOW) == Refusal(Cap.TENANT, A)
    assert admission.refuse_early(A, LATER) is None  # bulk may have its one
    assert admission.refuse_early(B, NOW) is None


def test_a_line_that_moves_is_not_refused_early() -> None:
    clock = Clock()
    admission = Admission(20, 100, clock)
    held = fill(admission, A, SLOW, NOW)
    for each in held[:11]:
        clock.now += 0.1
        each.leave()
    fill(admission, A, SLOW, NOW)
    assert admission.refuse_early(A, NOW) is None
    assert admission.line_room(Refusal(Cap.TENANT, A)) == pytest.approx(10, rel=0.15)


def test_a_place_that_is_left_is_another_events_and_leaving_twice_gives_back_one() -> None:
    admission = Admission(2, 2)
    first, _second = fill(admission, A, SLOW, NOW)
    first.leave()
    first.leave()
    assert admission.under_way(A) == 1
    assert len(fill(admission, A, SLOW, NOW)) == 1


def test_a_refused_event_is_counted_nowhere() -> None:
    admission = Admission(per_tenant=5, per_provider=2)
    fill(admission, A, SLOW, NOW)
    assert admission.try_enter(A, SLOW, NOW) == Refusal(Cap.PROVIDER, SLOW)
    assert admission.under_way(A) == 2


def test_a_ticket_is_left_at_the_end_of_its_block_whatever_ends_it() -> None:
    admission = Admission(1, 1)
    ticket = admission.try_enter(A, SLOW, NOW)
    assert isinstance(ticket, Ticket)
    with pytest.raises(KeyError), ticket:
        raise KeyError
    assert len(admission) == 0


def test_nothing_is_remembered_of_whom_nothing_is_under_way() -> None:
    admission = Admission(3, 3)
    rng, held = random.Random(5), []
    for n in range(20_000):
        scope, provider = Scope(f"p{rng.randrange(300)}"), (f"h{n % 50}", 25)
        found = admission.try_enter(scope, provider, rng.choice([NOW, LATER]))
        if isinstance(found, Ticket):
            held.append(found)
        if len(held) > 60:
            held.pop(rng.randrange(len(held))).leave()
    assert len(admission) <= 2 * 61
    for each in held:
        each.leave()
    assert len(admission) == 0


@pytest.mark.parametrize("caps", [(0, 1), (1, 0)])
def test_a_cap_below_one_is_refused(caps) -> None:
    with pytest.raises(ValueError, match="one at least"):
        Admission(*caps)


@pytest.mark.parametrize(
    ("hops", "drawn", "tier", "wait_s"),
    [
        (0, 0.0, Tier.TEN_SECONDS, 5.0),
        (SHORT_HOPS - 1, 0.999, Tier.TEN_SECONDS, 9.995),
        (SHORT_HOPS, 0.0, Tier.ONE_MINUTE, 30.0),
        (1_000_000, 0.999, Tier.ONE_MINUTE, 59.97),
    ],
)
def test_rests_are_short_at_first_then_a_minute_and_always_spread(hops, drawn, tier, wait_s) -> None:
    found, seconds = hop_tier(hops, lambda: drawn)
    assert (found, seconds) == (tier, pytest.approx(wait_s))
    assert seconds <= found.seconds


def simulate(slow_events: int, fast_every_s: float, *, until_s: float) -> tuple[list[float], int, int]:
    """A worker of 50 places: how long tenant B's events waited for one, A's deliveries, and A's rests.

    A's events take 5 s each and come all at once, B's take 0.05 s; whoever finds the worker's 50
    deliveries (its prefetch) taken waits in the lane queue, which is what B may not have to.
    """
    clock = Clock()
    admission, rng, numbers = Admission(20, 20, clock), random.Random(7), iter(range(10**9))
    queue = [(0.0, next(numbers), "a", 0) for _ in range(slow_events)]
    queue += [(0.5 + n * fast_every_s, next(numbers), "b", 0) for n in range(100)]
    heapq.heapify(queue)
    ends: list[tuple[float, int, Ticket]] = []
    waits, delivered, rests = [], 0, 0
    while queue:
        at, _, who, hops = heapq.heappop(queue)
        if at > until_s:
            break
        while ends and ends[0][0] <= at:
            clock.now, _, ended = heapq.heappop(ends)
            ended.leave()
        clock.now = now = max(at, ends[0][0]) if len(ends) >= 50 else at
        found = admission.try_enter(A if who == "a" else B, SLOW if who == "a" else FAST, NOW)
        if isinstance(found, Refusal):
            rests += 1
            heapq.heappush(
                queue,
                (now + admission.turned_away(found).rest_s * rng.uniform(0.8, 1), next(numbers), who, hops + 1),
            )
        else:
            heapq.heappush(ends, (now + (5.0 if who == "a" else 0.05), next(numbers), found))
            waits += [now - at] if who == "b" else []
            delivered += who == "a"
    return waits, delivered, rests


def test_twenty_thousand_events_of_a_slow_tenant_keep_no_event_of_another_waiting() -> None:
    waits, delivered, rests = simulate(20_000, 0.2, until_s=120)
    assert len(waits) == 100
    assert max(waits) == 0.0
    # The slow one has nearly all that its cap lets it have; what came at once is not back before half a minute.
    assert delivered >= 0.8 * 20 * 120 / 5
    # About one each minute, and some more while nobody knew how slow it is; at ten seconds it were 320,000.
    assert rests <= 20_000 * 4


def test_without_caps_the_other_tenant_would_wait_which_is_what_the_simulation_has_to_show(monkeypatch) -> None:
    monkeypatch.setattr("worker.delivery.admission._Bound.has_room", lambda *_, **__: True)
    waits, _, _ = simulate(2_000, 0.2, until_s=1_000)
    assert max(waits, default=1e9) > 1.0


def test_a_backlog_comes_back_as_fast_as_its_server_takes_it() -> None:
    clock = Clock()
    admission = Admission(1000, 1000, clock)
    admission.try_enter(A, SLOW, NOW)
    ends_a_second(admission, clock, A, 20, 10)
    refused = Refusal(Cap.TENANT, A)
    rests = [admission.turned_away(refused).rest_s for _ in range(300)]
    assert rests == sorted(rests)
    assert rests[-1] - rests[99] == pytest.approx(200 / 20, rel=0.2)
    assert max(admission.turned_away(refused).rest_s for _ in range(5000)) == pytest.approx(LONGEST_REST_S)


def test_of_a_server_that_has_ended_nothing_a_backlog_is_spread_over_a_minute() -> None:
    clock = Clock()
    admission = Admission(4, 100, clock)
    fill(admission, A, SLOW, NOW)
    rests = [admission.turned_away(Refusal(Cap.TENANT, A)).rest_s for _ in range(4000)]
    assert rests[0] < 1.0
    assert rests[1000] == pytest.approx(1000 / 50, rel=0.1)
    assert rests[-1] == pytest.approx(LONGEST_REST_S)
