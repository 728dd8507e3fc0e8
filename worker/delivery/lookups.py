"""What the audit knows of an event before it is sent: who has an end already, who is held in doubt.

Record ids are computed from what they record, so knowing is asking whether an id exists.
"""

from dataclasses import dataclass
from datetime import UTC

from schemas.audit import Outcome, document_id
from schemas.event import EmailEvent, OnDoubt
from worker.delivery.ports import AuditLookup
from worker.delivery.progress import Progress

# Of a delivery that may have been begun, so many attempts are looked up; a refusal beyond is only refused again.
_ATTEMPTS_OF_A_SUSPECT = 3


@dataclass(frozen=True, slots=True)
class Known:
    """`pending` has no end; `in_doubt` is to be held; `anything`: something was recorded of this round."""

    pending: tuple[str, ...]
    in_doubt: tuple[str, ...]
    anything: bool


async def look_up(event: EmailEvent, progress: Progress, lookup: AuditLookup, *, suspect: bool) -> Known:
    """Ask the audit for the recipients that `progress` has as pending.

    An acceptance counts whenever it happened. Of a `suspect` delivery, what the round after
    `progress` may have recorded is asked for, too. Raises AuditUnavailable.
    """
    recipients = progress.pending if progress.pending is not None else event.data.recipients()
    moment = event.envelope.time.astimezone(UTC)
    month = f"{moment.year:04}.{moment.month:02}"
    if len(recipients) == 1 and not suspect and event.data.on_doubt is not OnDoubt.HOLD:
        return await _look_up_one(event, recipients[0], progress.attempt + 1, month, lookup)
    attempts = range(progress.attempt + 1, progress.attempt + 1 + (_ATTEMPTS_OF_A_SUSPECT if suspect else 1))
    # Whoever asked to hold in doubt must not get a second mail because a worker was restarted.
    holds = event.data.on_doubt is OnDoubt.HOLD
    accepted = {r: _ids(event, r, Outcome.ACCEPTED, range(1, 2)) for r in recipients}
    final = {r: accepted[r] | _ids(event, r, Outcome.REFUSED, attempts) for r in recipients}
    doubt = {r: _ids(event, r, Outcome.IN_DOUBT, attempts) if holds else frozenset[str]() for r in recipients}
    asked = frozenset[str]().union(*final.values(), *doubt.values())
    known = await lookup.recorded(dict.fromkeys(asked, month))
    in_doubt = tuple(r for r in recipients if known & doubt[r] and not known & final[r])
    pending = tuple(r for r in recipients if not known & (final[r] | doubt[r]))
    return Known(pending, in_doubt, anything=bool(known))


async def _look_up_one(event: EmailEvent, recipient: str, attempt: int, month: str, lookup: AuditLookup) -> Known:
    """The same for the usual mail, without sets: one recipient, whose round begins now."""
    ends = (_id(event, recipient, Outcome.ACCEPTED, 1), _id(event, recipient, Outcome.REFUSED, attempt))
    known = await lookup.recorded(dict.fromkeys(ends, month))
    return Known(() if known else (recipient,), (), anything=bool(known))


def _ids(event: EmailEvent, recipient: str, outcome: Outcome, attempts: range) -> frozenset[str]:
    """The ids that records of this outcome would have in these attempts."""
    return frozenset(_id(event, recipient, outcome, attempt) for attempt in attempts)


def _id(event: EmailEvent, recipient: str, outcome: Outcome, attempt: int) -> str:
    scope, envelope = event.scope, event.envelope
    return document_id(
        partner=scope.partner,
        org=scope.org,
        source=envelope.source,
        event_id=envelope.id,
        recipient=recipient,
        outcome=outcome,
        attempt=attempt,
    )
