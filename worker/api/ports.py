"""What the endpoints need from the outside; importing it costs a process none of the HTTP framework."""

from typing import Any, Protocol

from schemas.audit_query import AuditPage, AuditQuery
from worker.delivery.ports import Lane


class AuditSearch(Protocol):
    """Answers questions to the audit."""

    async def search(self, query: AuditQuery) -> AuditPage:
        """Return one page, newest first; raises AuditUnavailable."""
        ...


class EventIntake(Protocol):
    """Takes an event into its lane, durably."""

    async def submit(self, body: bytes, *, content_type: str, headers: dict[str, Any], lane: Lane, kind: str) -> None:
        """Return once the event is safe; raises BrokerUnavailable or PublishRefused."""
        ...
