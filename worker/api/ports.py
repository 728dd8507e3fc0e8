"""What the endpoints need from the outside; importing it costs a process none of the HTTP framework."""

from typing import Any, Protocol

from schemas.audit_query import AuditPage, AuditQuery, Continuation
from worker.delivery.ports import Lane


class AuditSearch(Protocol):
    """Answers questions to the audit."""

    async def search(self, query: AuditQuery) -> AuditPage:
        """Return one page; raises AuditUnavailable, and CursorExpired where `query.after` is too old."""
        ...

    async def release(self, after: Continuation) -> None:
        """Nobody will go on from `after`: what is kept for it may go; raises AuditUnavailable."""
        ...


class EventIntake(Protocol):
    """Takes an event into its lane, durably."""

    async def submit(self, body: bytes, *, content_type: str, headers: dict[str, Any], lane: Lane, kind: str) -> None:
        """Return once the event is safe; raises BrokerUnavailable or PublishRefused."""
        ...
