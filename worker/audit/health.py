"""Whether OpenSearch takes and answers, for readiness and for one log line per change."""

from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AuditState:
    """What readiness shows: `failing_since` is None while all is well, `waiting` counts records."""

    last_success: datetime | None
    failing_since: datetime | None
    reason: str | None
    waiting: int


class Health:
    """Remembers when OpenSearch last worked, and since when and why it doesn't."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._last_success: datetime | None = None
        self._failing_since: datetime | None = None
        self._reason: str | None = None

    def succeeded(self) -> None:
        """Note that OpenSearch did what it was asked."""
        self._last_success = datetime.now(UTC)
        if self._failing_since is not None:
            log.info("OpenSearch is back", was_away_since=self._failing_since.isoformat())
        self._failing_since = self._reason = None

    def failed(self, reason: str) -> None:
        """Note that OpenSearch did not; only the first failure of a row is logged."""
        self._reason = reason
        if self._failing_since is None:
            self._failing_since = datetime.now(UTC)
            log.warning("OpenSearch is away: what needs it waits", reason=reason)

    def state(self, waiting: int = 0) -> AuditState:
        """Return the state of this moment."""
        return AuditState(self._last_success, self._failing_since, self._reason, waiting)
