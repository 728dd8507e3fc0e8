"""What the audit knows of an event before it is sent: who has an end already, who is held in doubt.

Record ids are computed from what they record, so knowing is asking whether an id exists.
"""

from collections.abc import Awaitable
from typing import NamedTuple

from schemas.audit import Outcome, document_id, index_month
from schemas.event import EmailEvent, OnDoubt
from worker.delivery.identity import EventKey
from worker.delivery.ports import AuditLookup
from worker.delivery.progress import Progress

# Of a delivery that may have been begun, so many attempts are looked up; a refusal beyond is only refused again.
_ATTEMPTS_OF_A_SUSPECT = 3
# An enum's members are looked up slowly, and every mail asks for these.
_ACCEPTED, _REFUSED, _HOLD = Outcome.ACCEPTED, Outcome.REFUSED, OnDoubt.HOLD


class Known(NamedTuple):
    """`pending` has no end; `in_doubt` is to be held; `anything`: something was recorded of this round."""

    pending: tuple[str, ...]
    in_doubt: tuple[str, ...]
    anything: bool


def look_up(event: EmailEvent, progress: Progress, lookup: AuditLookup, *, suspect: bool) -> Awaitable[Known]:
    """Ask the audit for the recipients that `progress` has as pending.

    An acceptance counts whenever it happened. Of a `suspect` delivery, what the round after
    `progress` may have recorded is asked for, too. Raises AuditUnavailable.
    """
    recipients = progress.pending if progress.pending is not None else event.data.recipients()
    # Whoever asked to hold in doubt must not get a second mail because a worker was restarted.
    holds = event.data.on_doubt is _HOLD
    first = progress.attempt + 1
    if len(recipients) == 1 and not suspect and not holds:
        return _look_up_one(event, recipients[0], first, lookup)
    attempts = range(first, first + (_ATTEMPTS_OF_A_SUSPECT if suspect else 1))
    return _look_up_all(event, recipients, attempts, lookup, holds=holds)


async def _look_up_all(
    event: EmailEvent, recipients: tuple[str, ...], attempts: range, lookup: AuditLookup, *, holds: bool
) -> Known:
    key = EventKey.of(event)
    accepted = {r: _ids(key, r, _ACCEPTED, range(1, 2)) for r in recipients}
    final = {r: accepted[r] | _ids(key, r, _REFUSED, attempts) for r in recipients}
    doubt = {r: _ids(key, r, Outcome.IN_DOUBT, attempts) if holds else frozenset[str]() for r in recipients}
    asked = frozenset[str]().union(*final.values(), *doubt.values())
    known = await lookup.recorded(dict.fromkeys(asked, index_month(event.envelope.time)))
    in_doubt = tuple(r for r in recipients if known & doubt[r] and not known & final[r])
    pending = tuple(r for r in recipients if not known & (final[r] | doubt[r]))
    return Known(pending, in_doubt, anything=bool(known))


async def _look_up_one(event: EmailEvent, recipient: str, attempt: int, lookup: AuditLookup) -> Known:
    """The same for the usual mail, without sets: one recipient, whose round begins now."""
    key = EventKey.of(event)
    ends = (_id(key, recipient, _ACCEPTED, 1), _id(key, recipient, _REFUSED, attempt))
    known = await lookup.recorded(dict.fromkeys(ends, index_month(event.envelope.time)))
    return Known(() if known else (recipient,), (), bool(known))


def _ids(key: EventKey, recipient: str, outcome: Outcome, attempts: range) -> frozenset[str]:
    """The ids that records of this outcome would have in these attempts."""
    return frozenset(_id(key, recipient, outcome, attempt) for attempt in attempts)


def _id(key: EventKey, recipient: str, outcome: Outcome, attempt: int) -> str:
    return document_id(
        partner=key.partner,
        org=key.org,
        source=key.source,
        event_id=key.event_id,
        recipient=recipient,
        outcome=outcome,
        attempt=attempt,
    )
