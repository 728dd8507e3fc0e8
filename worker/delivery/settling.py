"""What becomes of an event after the attempts in this process: a decision over values, no IO.

Everybody who was reached or refused has a record already. Of the others it is decided together,
since they travel on as one message: who waits for the next round and how long, who has no further
round, and what the queue is told.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from schemas.audit import Outcome
from schemas.event import EmailEvent, OnDoubt
from worker.delivery.attempts import Finished, Judged
from worker.delivery.outcome import Retry
from worker.delivery.ports import Ack, Lane, Later, Park, Return, Settlement
from worker.delivery.progress import Progress
from worker.delivery.retry import RetryPolicy
from worker.delivery.schedule import DAY, Expired, Rest, TooLate, charged_rest, hop_rest, rest_of, too_late


@dataclass(frozen=True, slots=True)
class Round:
    """What a decision depends on beside the attempts' end.

    `progress` is that of the round that ended, `jitter` from 0 to 1.
    """

    event: EmailEvent
    lane: Lane
    progress: Progress
    policy: RetryPolicy
    now: datetime
    jitter: float

    @property
    def since(self) -> datetime:
        """When the schedule began: at the first taking, or when the mail might first be sent."""
        first = self.progress.first_seen or self.now
        start = self.event.data.not_before
        return first if start is None else max(first, start)

    def too_late(self, at: datetime) -> TooLate | None:
        """Whether a try at `at` would come too late."""
        limit = self.policy.limits.of(self.lane)
        return too_late(at, since=self.since, limit=limit, expires_at=self.event.data.expires_at)


@dataclass(frozen=True, slots=True)
class ToRecord:
    """One record that the decision asks for, before the queue is told."""

    judged: Judged
    outcome: Outcome
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to record, and then to tell the queue."""

    settlement: Settlement
    to_record: tuple[ToRecord, ...] = ()


def settle(finished: Finished, this: Round) -> Decision:
    """Decide what becomes of an event whose attempts have ended."""
    if finished.leaves_nobody and not this.progress.held:
        return Decision(Ack())
    resend, given_up = _doubts(finished, this)
    # Who was in doubt within this round stays marked in the next, also where its last answer was none of a doubt.
    doubtful = (*this.progress.doubtful, *sorted(finished.in_doubt_before.difference(this.progress.doubtful)))
    tried = this.progress._replace(attempt=finished.attempt, resting="", due=None, doubtful=doubtful)
    after = _with_held(tried, finished.held)
    after = _with_held(after, given_up)
    if finished.interrupted:
        return Decision(Return(_next_round(after, (*finished.waiting, *finished.broken), resend).headers()))
    refused = tuple(one for one in finished.waiting if _has_had_its_day(one, this))
    waiting = tuple(one for one in finished.waiting if one not in refused)
    final = tuple(ToRecord(one, Outcome.REFUSED) for one in refused)
    if not (waiting or finished.broken or resend):
        return Decision(end_of(after), final)
    return _another_round(waiting, finished.broken, resend, after, this, final)


def end_of(progress: Progress) -> Settlement:
    """How an event ends of whom nobody waits any more but, perhaps, for an operator."""
    if not progress.held:
        return Ack()
    doubtful = tuple(each for each in progress.held if each in progress.doubtful)
    left = progress._replace(pending=progress.held, doubtful=doubtful)
    return Park(progress.held_reason, progress.held_detail, progress.held, left.headers())


def _another_round(
    waiting: tuple[Judged, ...],
    broken: tuple[Judged, ...],
    resend: tuple[Judged, ...],
    after: Progress,
    this: Round,
    final: tuple[ToRecord, ...],
) -> Decision:
    rest, charged = _rest(waiting, broken, resend, this)
    at = rest.until(this.now)
    match this.too_late(at):
        case None:
            hops = 0 if charged else after.hops + 1
            told = after._replace(charged=after.charged + charged, hops=hops)
            ahead = tuple(ToRecord(one, one.verdict.outcome, at) for one in (*waiting, *broken))
            return Decision(_later(rest, _next_round(told, (*waiting, *broken), resend)), (*final, *ahead))
        case Expired():
            over = tuple(ToRecord(one, Outcome.EXPIRED) for one in (*waiting, *broken))
            return Decision(end_of(_with_held(after, resend)), (*final, *over))
        case _:
            over = tuple(ToRecord(one, _last_word(one)) for one in (*waiting, *broken))
            exhausted = tuple(one.judged for one in over if one.outcome is Outcome.EXHAUSTED)
            left = _with_held(_with_held(after, exhausted, Outcome.EXHAUSTED), resend)
            return Decision(end_of(left), (*final, *over))


def _last_word(one: Judged) -> Outcome:
    """What is recorded at the schedule's end: a refusal that was given a day is one now."""
    return Outcome.REFUSED if one.verdict.retry is Retry.DAY_THEN_PERMANENT else Outcome.EXHAUSTED


def _rest(
    waiting: tuple[Judged, ...], broken: tuple[Judged, ...], resend: tuple[Judged, ...], this: Round
) -> tuple[Rest, bool]:
    """The longest of the rests that somebody needs, and whether it counts as a round of the schedule."""
    charged = any(one.verdict.retry is not Retry.UNCHARGED for one in waiting)
    wanted = []
    if charged:
        wanted.append(charged_rest(this.progress.charged, this.jitter))
    elif waiting or broken:  # a record that doesn't work is tried again by whoever comes first after its backoff
        wanted.append(hop_rest(this.progress.hops, this.jitter))
    if resend:
        wanted.append(rest_of(this.policy.doubt_wait_s))
    return max(wanted, key=lambda rest: rest.wait_s), charged


def _doubts(finished: Finished, this: Round) -> tuple[tuple[Judged, ...], tuple[Judged, ...]]:
    """Part those in doubt: who is sent the same again, and who is an operator's."""
    if this.event.data.on_doubt is OnDoubt.HOLD:
        return (), finished.doubtful
    before = finished.in_doubt_before
    again = tuple(one for one in finished.doubtful if one.recipient not in before)
    return again, tuple(one for one in finished.doubtful if one.recipient in before)


def _has_had_its_day(one: Judged, this: Round) -> bool:
    """Some refusals call themselves transient and rarely are: after a day they are believed no more."""
    return one.verdict.retry is Retry.DAY_THEN_PERMANENT and this.now - this.since > DAY


def _with_held(progress: Progress, held: Iterable[Judged], outcome: Outcome | None = None) -> Progress:
    """Add recipients for an operator; the first one's reason stands for all, and a doubt is not forgotten."""
    for one in held:
        reason = (outcome or one.verdict.outcome).value
        detail = f"{one.verdict.rule}: {one.verdict.reason}"
        doubt = (one.recipient,) if one.verdict.outcome is Outcome.IN_DOUBT else ()
        progress = progress._replace(
            doubtful=(*(each for each in progress.doubtful if each not in doubt), *doubt),
            held=(*progress.held, one.recipient),
            held_reason=progress.held_reason or reason,
            held_detail=progress.held_detail or detail,
        )
    return progress


def _next_round(progress: Progress, waiting: tuple[Judged, ...], resend: tuple[Judged, ...]) -> Progress:
    pending = tuple(one.recipient for one in (*waiting, *resend))
    known = {*progress.doubtful, *(one.recipient for one in resend)}
    doubtful = tuple(each for each in (*pending, *progress.held) if each in known)
    return progress._replace(pending=pending, doubtful=doubtful)


def _later(rest: Rest, progress: Progress) -> Settlement:
    return Later(rest.tier, rest.wait_s, progress.headers())
