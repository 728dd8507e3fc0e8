"""Which event it is: what makes two messages copies of one, and what names it in every line of the log."""

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, NamedTuple, Self

from schemas.event import EmailEvent
from schemas.smtp_config import shared_scope


class EventKey(NamedTuple):
    """What makes two messages copies of one event."""

    partner: str | None
    org: str | None
    source: str
    event_id: str

    @classmethod
    def of(cls, event: EmailEvent) -> Self:
        """The key of an event."""
        scope, envelope = event.data.scope, event.envelope
        return cls(scope.partner, scope.org, envelope.source, envelope.id)


IN_HAND: ContextVar[EventKey | None] = ContextVar("event in hand", default=None)
"""The event that the current task works on. The key alone: contexts outlive events, which may be large."""


def name_event(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the names of the event in hand before a line's own; a structlog processor.

    Each mail sets `IN_HAND`, and nearly none logs: the names are put together where there is a line.
    """
    key = IN_HAND.get()
    if key is None:
        return line
    names = {"event_id": key.event_id, "source": key.source, "scope": str(shared_scope(key.partner, key.org))}
    return {**names, **line}
