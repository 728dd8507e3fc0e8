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
    attempts = range(progress.attempt + 1, progress.attempt + 1 + (_ATTEMPTS_OF_A_SUSPECT if suspect else 1))
    # Whoever asked to hold in doubt must not get a second mail because a worker was restarted.
    holds = event.data.on_doubt is OnDoubt.HOLD
    accepted = {r: _ids(event, r, Outcome.ACCEPTED, range(1, 2)) for r in recipients}
    final = {r: accepted[r] | _ids(event, r, Outcome.REFUSED, attempts) for r in recipients}
    doubt = {r: _ids(event, r, Outcome.IN_DOUBT, attempts) if holds else frozenset[str]() for r in recipients}
    month = event.envelope.time.astimezone(UTC).strftime("%Y.%m")
    asked = frozenset[str]().union(*final.values(), *doubt.values())
    known = await lookup.recorded(dict.fromkeys(asked, month))
    in_doubt = tuple(r for r in recipients if known & doubt[r] and not known & final[r])
    pending = tuple(r for r in recipients if not known & (final[r] | doubt[r]))
    return Known(pending, in_doubt, anything=bool(known))


def _ids(event: EmailEvent, recipient: str, outcome: Outcome, attempts: range) -> frozenset[str]:
    """The ids that records of this outcome would have in these attempts."""
    return frozenset(
        document_id(
            partner=event.scope.partner,
            org=event.scope.org,
            source=event.envelope.source,
            event_id=event.envelope.id,
            recipient=recipient,
            outcome=outcome,
            attempt=attempt,
        )
        for attempt in attempts
    )
