"""What becomes of an event after a round of attempts: nobody is forgotten, and nobody is in two places."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.audit import Outcome
from schemas.cloudevents import parse_event
from schemas.event import EmailEvent
from worker.delivery.attempts import Finished, Judged
from worker.delivery.outcome import decide
from worker.delivery.ports import Ack, Answer, Fault, Lane, Later, Park, Phase, Return, Tier
from worker.delivery.progress import Progress, carried, read_progress
from worker.delivery.retry import RetryPolicy
from worker.delivery.schedule import Limits, rest_towards
from worker.delivery.settling import Decision, Round, settle
from worker.testing import fault, reply

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BUSY = reply(Phase.RCPT, 451, "4.3.0 try again later")
FULL = reply(Phase.RCPT, 552, "5.2.2 mailbox full")
THROTTLED = reply(Phase.MAIL, 421, "4.7.0 too many messages, slow down")
BAD_LOGIN = reply(Phase.AUTH, 535, "5.7.8 authentication failed")
BAD_SENDER = reply(Phase.MAIL, 553, "5.7.1 sender address not owned by user")
IN_DOUBT = fault(Phase.FINAL, Fault.LOST)
A, B = "a@example.com", "b@example.com"


def event(*to: str, **data: object) -> EmailEvent:
    body = {
        "specversion": "1.0",
        "id": "1",
        "source": "/tests",
        "type": "email.requested.v1",
        "time": "2026-11-20T10:00:00Z",
        "data": {"to": list(to), "subject": "s", "text": "t", "scope": {}, **data},
    }
    return parse_event(json.dumps(body).encode(), "application/cloudevents+json", {})


def judged(recipient: str, answer: Answer) -> Judged:
    return Judged(recipient, answer, decide(answer))


def this_round(
    *, of: EmailEvent | None = None, lane: Lane = Lane.TRANSACTIONAL, seen: timedelta = timedelta(), **progress: object
) -> Round:
    come = Progress(**{"first_seen": NOW - seen, "pending": (A, B), **progress})
    return Round(of or event(A, B), lane, come, RetryPolicy(), NOW, jitter=1.0)


def later(decision: Decision) -> tuple[Tier, Progress]:
    settlement = decision.settlement
    assert isinstance(settlement, Later), settlement
    return settlement.tier, read_progress(settlement.headers, [A, B])


@pytest.mark.parametrize(
    ("name", "charged", "tier"),
    [
        ("a minute after the first round", 0, Tier.ONE_MINUTE),
        ("then five", 1, Tier.FIVE_MINUTES),
        ("then half an hour", 2, Tier.THIRTY_MINUTES),
        ("then two hours", 3, Tier.TWO_HOURS),
        ("and two hours from then on", 9, Tier.TWO_HOURS),
    ],
)
def test_a_transient_failure_climbs_the_schedule(name: str, charged: int, tier: Tier) -> None:
    decision = settle(Finished(4, waiting=(judged(A, BUSY),)), this_round(charged=charged))
    found, progress = later(decision)
    assert found is tier
    assert (progress.charged, progress.attempt, progress.pending) == (charged + 1, 4, (A,))
    [told] = decision.to_record
    assert told.outcome is Outcome.DEFERRED
    assert told.next_attempt_at == NOW + timedelta(seconds=tier.seconds)


@pytest.mark.parametrize(
    ("name", "answer", "charged", "hops", "tier", "outcome"),
    [
        ("a throttled mail is not charged", THROTTLED, 0, 0, Tier.TEN_SECONDS, Outcome.THROTTLED),
        ("nor when it was throttled often, but it rests longer", THROTTLED, 2, 6, Tier.ONE_MINUTE, Outcome.THROTTLED),
        ("a record that does not work charges no mail", BAD_LOGIN, 1, 0, Tier.TEN_SECONDS, Outcome.CONFIG_FAULT),
    ],
)
def test_what_is_not_the_mails_fault_costs_it_nothing(name, answer, charged, hops, tier, outcome) -> None:
    one = judged(A, answer)
    finished = Finished(1, broken=(one,)) if answer is BAD_LOGIN else Finished(1, waiting=(one,))
    decision = settle(finished, this_round(charged=charged, hops=hops))
    found, progress = later(decision)
    assert found is tier
    assert (progress.charged, progress.hops) == (charged, hops + 1)
    assert [one.outcome for one in decision.to_record] == [outcome]


@pytest.mark.parametrize(
    ("name", "lane", "seen_h", "answer", "outcome", "end"),
    [
        ("transactional mail ends after a day", Lane.TRANSACTIONAL, 23.5, BUSY, "exhausted", "exhausted"),
        ("bulk mail goes on", Lane.BULK, 23.5, BUSY, "deferred", Tier.TWO_HOURS),
        ("and ends after three", Lane.BULK, 71, BUSY, "exhausted", "exhausted"),
        ("a broken record ends it as well", Lane.TRANSACTIONAL, 24, BAD_LOGIN, "exhausted", "exhausted"),
        ("a full mailbox is tried for a day", Lane.BULK, 23.5, FULL, "deferred", Tier.TWO_HOURS),
        ("and is then a refusal, even where the lane has days left", Lane.BULK, 24.5, FULL, "refused", "done"),
        ("or where the lane has none", Lane.TRANSACTIONAL, 23.5, FULL, "refused", "done"),
    ],
)
def test_the_schedule_ends(name, lane, seen_h, answer, outcome, end) -> None:
    one = judged(A, answer)
    finished = Finished(7, broken=(one,)) if answer is BAD_LOGIN else Finished(7, waiting=(one,))
    decision = settle(finished, this_round(lane=lane, seen=timedelta(hours=seen_h), charged=4))
    assert [one.outcome.value for one in decision.to_record] == [outcome]
    match decision.settlement:
        case Later(tier):
            assert tier is end
        case Park(reason, _, pending):
            assert (reason, pending) == (end, (A,))
        case settlement:
            assert (settlement, end) == (Ack(), "done")


def test_a_mail_that_would_expire_before_its_next_try_expires_now() -> None:
    soon = (NOW + timedelta(seconds=30)).isoformat()
    decision = settle(Finished(4, waiting=(judged(A, BUSY),)), this_round(of=event(A, B, expires_at=soon)))
    assert decision.settlement == Ack()
    assert [one.outcome for one in decision.to_record] == [Outcome.EXPIRED]


def test_the_schedule_of_a_mail_for_later_begins_when_it_may_be_sent() -> None:
    start = (NOW - timedelta(hours=1)).isoformat()
    this = this_round(of=event(A, B, not_before=start), seen=timedelta(hours=60), charged=0)
    assert later(settle(Finished(1, waiting=(judged(A, BUSY),)), this))[0] is Tier.ONE_MINUTE


def test_a_first_doubt_rests_its_time_and_is_remembered() -> None:
    decision = settle(Finished(1, doubtful=(judged(A, IN_DOUBT),)), this_round())
    tier, progress = later(decision)
    assert isinstance(decision.settlement, Later)
    assert (tier, decision.settlement.wait_s) == (Tier.ONE_MINUTE, 60.0)
    assert (progress.pending, progress.doubtful) == ((A,), (A,))
    assert decision.to_record == (), "the doubt has its record already"


def test_a_second_doubt_is_an_operators() -> None:
    finished = Finished(2, doubtful=(judged(A, IN_DOUBT),), in_doubt_before=frozenset({A}))
    decision = settle(finished, this_round(doubtful=(A,)))
    assert isinstance(decision.settlement, Park)
    assert (decision.settlement.reason, decision.settlement.pending) == ("in_doubt", (A,))


def test_who_waits_for_an_operator_travels_with_the_others_until_the_end() -> None:
    finished = Finished(1, waiting=(judged(B, BUSY),), held=(judged(A, BAD_SENDER),))
    _, progress = later(settle(finished, this_round()))
    assert (progress.pending, progress.held, progress.held_reason) == ((B,), (A,), "config_fault")
    last = settle(Finished(2), replace(this_round(), progress=progress))
    assert isinstance(last.settlement, Park)
    assert (last.settlement.reason, last.settlement.pending) == ("config_fault", (A,))


def test_a_stopping_worker_gives_back_who_waits_with_what_was_learned() -> None:
    decision = settle(Finished(3, waiting=(judged(B, BUSY),), interrupted=True), this_round())
    assert isinstance(decision.settlement, Return)
    progress = read_progress(decision.settlement.headers, [A, B])
    assert (progress.attempt, progress.pending) == (3, (B,))
    assert decision.to_record == ()


MANY = [f"r{n}@example.com" for n in range(6)]


@settings(max_examples=300)
@given(
    places=st.lists(st.sampled_from(["waiting", "broken", "doubtful", "held", "done"]), min_size=6, max_size=6),
    answers=st.lists(st.sampled_from([BUSY, FULL, THROTTLED]), min_size=6, max_size=6),
    before=st.sets(st.sampled_from(MANY)),
    hours=st.integers(0, 80),
    interrupted=st.booleans(),
    data=st.fixed_dictionaries(
        {"on_doubt": st.sampled_from(["resend", "hold"])},
        optional={"expires_at": st.integers(1, 8000).map(lambda s: (NOW + timedelta(seconds=s)).isoformat())},
    ),
)
def test_every_recipient_is_in_exactly_one_place(places, answers, before, hours, interrupted, data) -> None:
    groups: dict[str, tuple[Judged, ...]] = {"waiting": (), "broken": (), "doubtful": (), "held": (), "done": ()}
    other = {"broken": BAD_LOGIN, "doubtful": IN_DOUBT, "held": BAD_SENDER, "done": BUSY}
    for recipient, place, answer in zip(MANY, places, answers, strict=True):
        groups[place] += (judged(recipient, other.get(place, answer)),)
    done = {one.recipient for one in groups.pop("done")}
    interrupted = interrupted and bool(groups["waiting"] or groups["broken"])
    this = Round(
        event(*MANY, **data),
        Lane.BULK,
        Progress(first_seen=NOW - timedelta(hours=hours), pending=tuple(MANY)),
        RetryPolicy(limits=Limits()),
        NOW,
        jitter=0.5,
    )
    decision = settle(Finished(1, **groups, interrupted=interrupted, in_doubt_before=frozenset(before)), this)
    progress = getattr(decision.settlement, "headers", {})
    read = read_progress(progress, MANY) if progress else Progress(pending=())
    pending, held = set(read.pending or ()), set(read.held)
    final = {Outcome.REFUSED, Outcome.EXPIRED}
    ended = {one.judged.recipient for one in decision.to_record if one.outcome in final}
    if isinstance(decision.settlement, Park):
        held, pending = set(decision.settlement.pending), set()
    for one, two in ((pending, held), (pending, ended), (held, ended), (done, pending | held | ended)):
        assert not one & two
    assert pending | held | ended | done == set(MANY)


def test_who_was_in_doubt_within_the_round_stays_marked_whatever_was_answered_last() -> None:
    ended = Finished(2, broken=(judged(A, BAD_LOGIN),), waiting=(judged(B, BUSY),), in_doubt_before=frozenset({A}))
    _, progress = later(settle(ended, this_round()))
    assert (set(progress.pending or ()), progress.doubtful) == ({A, B}, (A,))


def test_progress_is_read_as_it_was_written() -> None:
    written = Progress(3, 2, 1, "throttled", (A,), (A,), "second", (B,), "in_doubt", "why", NOW, NOW, suspect=True)
    assert read_progress(written.headers(), [A, B]) == written


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("a recipient that the event does not name", {"x-postbote-pending": ["evil@example.net"]}),
        ("no list", {"x-postbote-pending": "a@example.com"}),
        ("things that are no text", {"x-postbote-pending": [1, None, {}]}),
        ("a count below zero", {"x-postbote-attempt": -4}),
        ("a count that is text", {"x-postbote-attempt": "many"}),
        ("a time that is none", {"x-postbote-due": "tomorrow"}),
        ("a time without a zone", {"x-postbote-due": "2026-11-20T10:00:00"}),
    ],
)
def test_what_a_stranger_writes_into_the_headers_does_no_harm(name: str, headers: dict[str, object]) -> None:
    progress = read_progress(headers, [A, B])
    assert progress.attempt == 0
    assert progress.due is None
    assert progress.pending is None


def test_the_brokers_own_headers_are_left_behind_and_the_publishers_travel_on() -> None:
    come = {"x-death": [{}], "x-delivery-count": 3, "x-postbote-attempt": 1, "cloudEvents:id": "1", "mine": "yes"}
    assert carried(come, {"x-postbote-attempt": 2}) == {"cloudEvents:id": "1", "mine": "yes", "x-postbote-attempt": 2}


@pytest.mark.parametrize(
    ("seconds", "tier"),
    [(11, Tier.TEN_SECONDS), (90, Tier.ONE_MINUTE), (3600, Tier.THIRTY_MINUTES), (1_000_000, Tier.TWO_HOURS)],
)
def test_a_mail_for_later_is_never_brought_late_by_a_tier(seconds: float, tier: Tier) -> None:
    rest = rest_towards(seconds)
    assert (rest.tier, rest.wait_s) == (tier, tier.seconds)
