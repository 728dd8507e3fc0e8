"""The count itself: each way in which the three books can differ is told for what it is."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.chaos.count import SINK, Evidence, Kept, Kill, Published, judge

EVENT = Published("e1", "org01", ("r@x.example",), "<m1@x.example>")
PAIR = ("e1", "r@x.example")
WORKER, LINK = "worker-0.chaos.example.com", "1-1"


def kept(at: float, *, replied: bool = True, message_id: str = EVENT.message_id, content: str = "c") -> Kept:
    """A mail whose reply is octets 87 to 100 of its connection."""
    return Kept(message_id, EVENT.recipients, at, WORKER, replied, content, LINK, 100)


def record(outcome: str, *, flagged: bool = False) -> dict[str, Any]:
    return {"event_id": "e1", "recipient": "r@x.example", "outcome": outcome, "possible_duplicate": flagged}


@dataclass(frozen=True)
class Case:
    """What was seen, and every count that is then not zero."""

    says: str
    mails: tuple[Kept, ...] = ()
    records: tuple[dict[str, Any], ...] = ()
    queues: dict[str, frozenset[str]] = field(default_factory=dict)
    kills: tuple[Kill, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    red: bool = True
    copies: int = 1


ACCEPTED, FLAGGED = record("accepted"), record("accepted", flagged=True)
CASES = [
    Case("received once and accepted: all is well", (kept(1),), (ACCEPTED,), red=False),
    Case("nobody knows of it: lost", counts={"lost": 1}),
    Case("deferred and in no queue: lost", records=(record("deferred"),), counts={"lost": 1}),
    Case(
        "deferred and in a tier: found",
        (),
        (record("deferred"),),
        {"tier": frozenset({"e1"})},
        (),
        {"queued": 1},
        False,
    ),
    Case("refused: an end", records=(record("refused"),), red=False),
    Case("accepted and never received", records=(ACCEPTED,), counts={"accepted_not_received": 1}),
    Case("received with 250, and no record", (kept(1),), counts={"received_not_accepted": 1}),
    Case(
        "received with 250, and recorded as refused",
        (kept(1),),
        (record("refused"),),
        counts={"received_not_accepted": 1},
    ),
    Case("received, its reply withheld, and no record: lost", (kept(1, replied=False),), counts={"lost": 1}),
    Case(
        "received, its reply withheld, in doubt and held: found",
        (kept(1, replied=False),),
        (record("in_doubt"),),
        {"parked": frozenset({"e1"})},
        counts={"queued": 1},
        red=False,
    ),
    Case("twice and unflagged", (kept(1), kept(2)), (ACCEPTED,), counts={"duplicated": 1, "unflagged": 1}),
    Case("twice and flagged, without an excuse", (kept(1), kept(2)), (FLAGGED,), counts={"duplicated": 1}),
    Case(
        "twice and flagged, the first reply withheld: excused",
        (kept(1, replied=False), kept(2)),
        (FLAGGED,),
        counts={"lost_replies": 1},
        red=False,
    ),
    Case(
        "twice and flagged, the first reply unread in the killed worker's socket: excused, however old it was",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 4.0, 4.1, {LINK: 99}),),
        counts={"lost_replies": 1},
        red=False,
    ),
    Case(
        "twice and flagged, the first reply sent when the worker ran no more: excused",
        (kept(1.05), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 1.0, 1.1),),
        counts={"lost_replies": 1},
        red=False,
    ),
    Case(
        "twice and flagged, the first reply read just before the kill: excused, and counted apart",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 1.02, 1.1, {LINK: 100}),),
        counts={"not_noted": 1},
        red=False,
    ),
    Case(
        "twice and flagged, the first reply read well before the kill: it should have been on the disk",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 1.2, 1.25, {LINK: 100}),),
        counts={"duplicated": 1},
    ),
    Case(
        "twice and flagged, the first reply read by a worker that had no core since: excused, and counted apart",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 1.9, 2.0, {LINK: 100}, ((0.9, 5.0), (1.0, 5.04), (1.9, 5.06))),),
        counts={"not_noted": 1},
        red=False,
    ),
    Case(
        "twice and flagged, the first reply read by a worker that has run for long since",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 1.9, 2.0, {LINK: 100}, ((0.9, 5.0), (1.0, 5.04), (1.9, 5.15))),),
        counts={"duplicated": 1},
    ),
    Case(
        "twice and flagged, the first reply read long ago by a worker that hardly ran of late",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 7.9, 8.0, {LINK: 100}, ((3.0, 5.0), (7.9, 5.01))),),
        counts={"duplicated": 1},
    ),
    Case(
        "what another connection left unread excuses nothing",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 1.2, 1.25, {"1-2": 0}),),
        counts={"duplicated": 1},
    ),
    Case(
        "three mails, of which one reply was unread and one was read in time",
        (kept(1), kept(4), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 1.2, 1.25, {LINK: 99}), Kill(WORKER, 6.0, 6.1, {LINK: 100})),
        counts={"duplicated": 1},
    ),
    Case(
        "twice and flagged, the server killed just after the first reply: excused",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(SINK, 1.01, 1.02),),
        counts={"lost_replies": 1},
        red=False,
    ),
    Case(
        "twice and flagged, of an event that had to be published again",
        (kept(1), kept(2)),
        (FLAGGED,),
        counts={"published_again": 1},
        red=False,
        copies=2,
    ),
    Case(
        "an excused copy without its flag is red",
        (kept(1, replied=False), kept(2)),
        (ACCEPTED,),
        counts={"lost_replies": 1, "unflagged": 1},
    ),
    Case(
        "another worker's kill excuses nothing",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill("worker-1.chaos.example.com", 1.1, 1.2),),
        counts={"duplicated": 1},
    ),
    Case(
        "a kill long after the reply excuses nothing",
        (kept(1), kept(9)),
        (FLAGGED,),
        kills=(Kill(WORKER, 2.0, 2.1),),
        counts={"duplicated": 1},
    ),
    Case(
        "a second copy of other bytes",
        (kept(1, replied=False), kept(2, content="other")),
        (FLAGGED,),
        counts={"lost_replies": 1, "changed": 1},
    ),
    Case("a mail that nobody published", (kept(1), kept(2, message_id="<m2@x>")), (ACCEPTED,), counts={"strange": 1}),
]
COUNTED = (
    "lost",
    "duplicated",
    "unflagged",
    "lost_replies",
    "not_noted",
    "accepted_not_received",
    "received_not_accepted",
    "published_again",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_what_was_seen_is_called_by_its_name(case: Case) -> None:
    verdict = judge(
        Evidence({"e1": replace(EVENT, copies=case.copies)}, case.mails, case.records, case.queues, case.kills)
    )
    found = {name: len(getattr(verdict, name)) for name in (*COUNTED, "changed", "strange")} | {
        "queued": verdict.queued
    }
    assert {name: count for name, count in found.items() if count} == case.counts
    assert verdict.red == case.red
