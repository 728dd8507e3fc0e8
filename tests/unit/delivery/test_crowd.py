"""A flood is turned away by its scope alone; nobody else is, and nobody for ever."""

import json
from typing import Any

import pytest

from schemas.smtp_config import Scope
from worker.delivery.admission import GRACE_S, Admission
from worker.delivery.crowd import turn_away
from worker.delivery.lines import Lines
from worker.delivery.ports import Incoming, Lane, Later, Tier

A = Scope("acme", "dev")
SERVER = ("mx.test", 587)


def crowded() -> Lines:
    """Lines of a server that takes one mail and ends none."""
    now = [0.0]
    of = Lines(Admission(1, 10, lambda: now[0]))
    of._admission.try_enter(A, SERVER, Lane.TRANSACTIONAL)
    now[0] = GRACE_S
    assert of.refuse_early(A, Lane.TRANSACTIONAL)
    assert of.crowded
    return of


def structured(scope: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "data": {"scope": scope}}).encode()


OF_A = structured({"partner": "acme", "org": "dev"})


async def test_an_event_of_the_crowd_rests_with_what_it_brought_along() -> None:
    come = {"x-postbote-attempt": 2, "x-postbote-pending": ["a@example.com"], "cloudEvents:id": "1"}
    found = turn_away(Incoming(OF_A, headers=come, redelivered=True), crowded(), lambda: 1.0)
    assert isinstance(found, Later)
    assert found.tier is Tier.TEN_SECONDS
    assert found.wait_s < 1.0, "the first of them is soon back"
    assert found.headers.pop("x-postbote-first-seen")
    assert found.headers == {
        "x-postbote-attempt": 2,
        "x-postbote-pending": ["a@example.com"],
        "x-postbote-hops": 1,
        "x-postbote-suspect": 1,
    }


@pytest.mark.parametrize(
    ("name", "hops", "resting", "tier"),
    [
        ("the first times it goes by a look", 1, "", Tier.TEN_SECONDS),
        ("then it goes the whole way, to be recorded", 2, "", None),
        ("and is turned away again", 3, "throttled", Tier.TEN_SECONDS),
        ("but not for ever: it may have expired", 20, "throttled", None),
        ("what rests for another reason goes the whole way", 3, "config_fault", None),
    ],
)
async def test_how_often_an_event_is_turned_away_by_a_look(name, hops, resting, tier) -> None:
    headers = {"x-postbote-hops": hops, "x-postbote-resting": resting}
    found = turn_away(Incoming(OF_A, headers=headers), crowded(), lambda: 1.0)
    assert (found.tier if found else None) is tier


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("another tenant", structured({"partner": "acme"})),
        ("the controller", structured(None)),
        ("no JSON", b"\xff{"),
        ("a list", b"[]"),
        ("a scope that is none", structured("acme")),
        ("an org without a partner", structured({"org": "dev"})),
        ("names that are none", structured({"partner": 1, "org": 2})),
        ("a large event", OF_A + b" " * 70_000),
    ],
)
async def test_whatever_is_not_plainly_of_the_crowd_goes_the_whole_way(name: str, body: bytes) -> None:
    assert turn_away(Incoming(body), crowded(), lambda: 1.0) is None


async def test_a_binary_event_is_seen_as_well() -> None:
    body = json.dumps({"scope": {"partner": "acme", "org": "dev"}, "to": []}).encode()
    assert isinstance(turn_away(Incoming(body), crowded(), lambda: 1.0), Later)


async def test_bulk_has_its_own_place() -> None:
    assert turn_away(Incoming(OF_A, lane=Lane.BULK), crowded(), lambda: 1.0) is None
