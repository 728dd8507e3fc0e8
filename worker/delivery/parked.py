"""Parked events: what an operator sees of one, picks it by, and what it carries when it goes on its way again.

A parked message is an event that nobody will work on before an operator has decided. Replaying it
keeps its identity (body, content type and the publisher's headers, byte for byte) and what is known
of its recipients, so that nobody who has the mail already is sent another; only its place on the
retry schedule begins anew. What is here are decisions; the shelves that hold such messages are
`worker.rabbit.parked` and `worker.embedded.parked`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from schemas.audit import Outcome
from schemas.cloudevents import InvalidEvent, parse_event
from schemas.event import EmailEvent
from schemas.smtp_config import Scope
from worker.delivery.ports import Lane
from worker.delivery.progress import Progress, carried, read_progress
from worker.delivery.records import UNKNOWN_SOURCE, id_of_unnamed

UNROUTED = "unrouted"
"""The reason of a message for whose routing key no queue is bound."""
DELIVERY_LIMIT = "delivery_limit"
"""The reason of a message that was delivered again and again without an end."""
TOO_LARGE = "too_large"
"""The reason of a message that nobody can publish any more, as it has more bytes than the broker takes now."""
_NOBODY_SAID = frozenset({DELIVERY_LIMIT, TOO_LARGE})
"""Reasons of a broker, which knows nothing of what a worker did last: recipients may have the mail."""


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """One message as it was set aside.

    `headers` are all that it carries. `pending` are the recipients without an end, empty for all or
    unknown. `lane` is None where it never was in one; `first_seen` is None where nobody wrote it down.
    """

    body: bytes
    content_type: str | None
    headers: Mapping[str, Any]
    reason: str
    detail: str = ""
    pending: tuple[str, ...] = ()
    lane: Lane | None = None
    first_seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A parked message that this operator holds: nobody else can take it. `token` is its shelf's own."""

    token: int
    message: ParkedMessage


class ParkedShelf(Protocol):
    """Where parked messages are, for one operator at a time or for several at once.

    Every method raises BrokerUnavailable where the shelf cannot be reached.
    """

    async def count(self) -> int:
        """How many could be taken now; what another operator holds doesn't count."""
        ...

    async def take(self) -> Held | None:
        """Hold the next one, oldest first, or None at the end; none comes twice before `give_back`."""
        ...

    async def replay(self, held: Held, headers: Mapping[str, Any], lane: Lane) -> bool:
        """Publish into the lane with `headers`, and only then remove; False where it was gone.

        Raises PublishRefused where the lane did not take it: it stays parked.
        """
        ...

    async def drop(self, held: Held) -> bool:
        """Remove it for good; False where it was gone."""
        ...

    async def give_back(self) -> None:
        """Let go of all that are held, and return once they can be taken again."""
        ...


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """What is known of a parked message; an event that cannot be read may lack everything but its id.

    `attempts` counts the tries made, `size` the octets of the body; `fingerprint` tells two messages
    with one id apart.
    """

    id: str
    source: str
    type: str | None
    scope: Scope
    reason: str
    detail: str
    lane: Lane | None
    first_seen: datetime | None
    attempts: int
    pending: tuple[str, ...]
    doubtful: tuple[str, ...]
    size: int
    fingerprint: bytes = field(repr=False)

    def age(self, now: datetime) -> timedelta | None:
        """How long ago it was first seen."""
        return None if self.first_seen is None else max(timedelta(), now - self.first_seen)


def describe(message: ParkedMessage) -> ParkedEvent:
    """Read what an operator picks a parked message by; never raises, whatever the body is."""
    try:
        event = parse_event(message.body, message.content_type, message.headers)
    except InvalidEvent as error:
        known = error.known
        named = (known.id, known.source, known.type, known.time, known.scope)
        return _described(message, named, message.pending)
    envelope = event.envelope
    named = (envelope.id, envelope.source, envelope.type, envelope.time, event.scope)
    return _described(message, named, event.data.recipients())


_Named = tuple[str | None, str | None, str | None, datetime | None, Scope]


def _described(message: ParkedMessage, named: _Named, recipients: tuple[str, ...]) -> ParkedEvent:
    event_id, source, kind, time, scope = named
    progress = read_progress(message.headers, recipients)
    return ParkedEvent(
        id=event_id or id_of_unnamed(message.body),
        source=source or UNKNOWN_SOURCE,
        type=kind,
        scope=scope,
        reason=message.reason,
        detail=message.detail,
        lane=message.lane,
        first_seen=message.first_seen or time,
        attempts=progress.attempt,
        pending=_open_ends(message, progress, recipients),
        doubtful=progress.doubtful,
        size=len(message.body),
        fingerprint=hashlib.blake2b(
            b"\0".join((str(source).encode(), str(event_id).encode(), message.body)), digest_size=16
        ).digest(),
    )


@dataclass(frozen=True, slots=True)
class ParkedFilter:
    """What to pick; whatever is empty or None picks by nothing.

    `partner` alone picks its orgs' events, too. An event whose first sight nobody knows is neither
    older nor newer than anything.
    """

    ids: frozenset[str] = frozenset()
    source: str | None = None
    reason: str | None = None
    partner: str | None = None
    org: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None

    def matches(self, event: ParkedEvent, now: datetime) -> bool:
        """Whether every condition holds."""
        return (
            (not self.ids or event.id in self.ids)
            and self.source in (None, event.source)
            and self.reason in (None, event.reason)
            and self.partner in (None, event.scope.partner)
            and self.org in (None, event.scope.org)
            and self._of_age(event.age(now))
        )

    def _of_age(self, age: timedelta | None) -> bool:
        if self.older_than is None and self.newer_than is None:
            return True
        if age is None:
            return False
        return (self.older_than is None or age >= self.older_than) and (
            self.newer_than is None or age < self.newer_than
        )


EVERYTHING = ParkedFilter()


def replayed_headers(message: ParkedMessage, now: datetime) -> dict[str, Any]:
    """The headers under which a parked message goes back to its lane.

    The publisher's own stay. The number of attempts goes on, since records are named by it; who has
    an end keeps it, who was held is pending again, who may have the mail stays doubtful: all of them
    where that is why it was parked. What came of the last delivery may be unknown: then a second mail is marked.
    The schedule begins anew.
    """
    event = _parsed(message)
    recipients = message.pending if event is None else event.data.recipients()
    progress = read_progress(message.headers, recipients)
    pending = _open_ends(message, progress, recipients)
    fresh = Progress(
        attempt=progress.attempt,
        pending=pending or None,
        doubtful=(pending or recipients) if message.reason == Outcome.IN_DOUBT else progress.doubtful,
        doubtful_by=progress.doubtful_by,
        first_seen=now,
        suspect=message.reason in _NOBODY_SAID,
    )
    return carried(message.headers, fresh.headers())


def _open_ends(message: ParkedMessage, progress: Progress, recipients: tuple[str, ...]) -> tuple[str, ...]:
    """Who has no end yet, in the event's order; empty for all or unknown."""
    if not message.pending:
        return ()
    waiting = {*message.pending, *progress.held}
    return tuple(each for each in recipients if each in waiting)


def _parsed(message: ParkedMessage) -> EmailEvent | None:
    try:
        return parse_event(message.body, message.content_type, message.headers)
    except InvalidEvent:
        return None
