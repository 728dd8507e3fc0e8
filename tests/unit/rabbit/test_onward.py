"""Where a settled event goes, as a table of values."""

from typing import Any

import pytest

from worker.delivery.ports import Ack, Incoming, Lane, Later, Park, Return, Settlement, Tier
from worker.delivery.progress import ATTEMPT, FIRST_SEEN, HOPS, SUSPECT
from worker.rabbit.onward import Onward, onward, untouched

BROKERS = {"x-death": [{"count": 3}], "x-first-death-queue": "q", "x-delivery-count": 2, "x-opt-x": 1}
OWN: dict[str, Any] = {"traceparent": "00-1", "cloudEvents:id": "7"}
CAME = Incoming(b"{}", "application/json", {**OWN, **BROKERS, ATTEMPT: 1, HOPS: 4, FIRST_SEEN: "then"}, Lane.BULK)
NEXT = {ATTEMPT: 2}

WAYS: list[tuple[str, Settlement, Onward | None]] = [
    ("done: nothing is published", Ack(), None),
    ("returned: its lane, as if new", Return(NEXT), Onward("postbote.lane.bulk", OWN | NEXT)),
    ("returned without progress: none is kept", Return(), Onward("postbote.lane.bulk", OWN)),
    ("later: the tier", Later(Tier.TEN_SECONDS, 0.3, NEXT), Onward("postbote.retry.bulk.10s", OWN | NEXT, 300)),
    ("later, the whole tier", Later(Tier.TWO_HOURS, 7200, NEXT), Onward("postbote.retry.bulk.2h", OWN | NEXT, 7200000)),
    ("later than the tier lasts: the tier", Later(Tier.ONE_MINUTE, 61), Onward("postbote.retry.bulk.1m", OWN, 60_000)),
    (
        "at once: not 0, which means something else",
        Later(Tier.TEN_SECONDS, 0),
        Onward("postbote.retry.bulk.10s", OWN, 1),
    ),
    ("in the past", Later(Tier.TEN_SECONDS, -5), Onward("postbote.retry.bulk.10s", OWN, 1)),
]


@pytest.mark.parametrize(("settlement", "goes"), [way[1:] for way in WAYS], ids=[way[0] for way in WAYS])
def test_an_event_goes(settlement: Settlement, goes: Onward | None) -> None:
    assert onward(CAME, settlement) == goes


def test_a_parked_event_says_why_since_when_and_how_far_it_came() -> None:
    progress = {ATTEMPT: 7, FIRST_SEEN: "2026-01-01T00:00:00+00:00"}
    parked = onward(CAME, Park("exhausted", "the schedule has ended", ("a@example.com",), progress))
    assert parked == Onward(
        "postbote.parked",
        OWN
        | progress
        | {
            "x-postbote-reason": "exhausted",
            "x-postbote-detail": "the schedule has ended",
            "x-postbote-pending": ["a@example.com"],
            "x-postbote-lane": "bulk",
        },
    )


def test_a_park_that_knows_no_progress_keeps_what_the_event_came_with() -> None:
    parked = onward(CAME, Park("handler_error", "x"))
    assert parked
    assert {name: parked.headers[name] for name in (ATTEMPT, HOPS, FIRST_SEEN)} == {
        ATTEMPT: 1,
        HOPS: 4,
        FIRST_SEEN: "then",
    }
    assert not any(name in parked.headers for name in BROKERS)


@pytest.mark.parametrize("attempt", ["forged", None, [1], 1.5])
def test_an_attempt_that_is_no_number_is_parked_as_none(attempt: object) -> None:
    parked = onward(CAME._replace(headers={ATTEMPT: attempt}), Park("invalid", "x"))
    assert parked
    assert parked.headers[ATTEMPT] == 0
    assert parked.headers[FIRST_SEEN]


@pytest.mark.parametrize(("redelivered", "suspicion"), [(False, {}), (True, {SUSPECT: 1})])
def test_an_event_that_nobody_handled_keeps_its_progress_and_its_suspicion(
    redelivered: bool, suspicion: dict[str, int]
) -> None:
    back = untouched(CAME._replace(redelivered=redelivered))
    assert back.headers == {ATTEMPT: 1, HOPS: 4, FIRST_SEEN: "then", **suspicion}
