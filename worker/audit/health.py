"""Whether OpenSearch answers and takes records, for whoever waits for it and for one log line per change.

Two things can fail: the link (no answer at all), and the writing (every record is refused for now,
as when a disk is full, while lookups work). A lookup that was answered says nothing of the second.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

log = structlog.get_logger(__name__)

_LOGGED_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class AuditState:
    """What readiness shows: `failing_since` is None while all is well, `waiting` counts records."""

    last_success: datetime | None
    failing_since: datetime | None
    reason: str | None
    waiting: int


class Health:
    """Remembers when OpenSearch last worked, and since when and why it doesn't.

    `answering` is set from its first answer on, `away` from a failure of the link on, each until
    the other one is; before either, neither is set.
    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.answering, self.away = asyncio.Event(), asyncio.Event()
        self._last_success: datetime | None = None
        self._failing_since: datetime | None = None
        self._reason: str | None = None
        self._refusing = False
        self._last_failure = float("-inf")
        self._logged, self._logged_at = "", float("-inf")

    @property
    def failing(self) -> bool:
        """Whether the link or the writing fails."""
        return self._failing_since is not None

    def failed_within(self, seconds: float) -> bool:
        """Whether the link fails, as seen at most `seconds` ago: asking once more is no use yet."""
        return self.away.is_set() and time.monotonic() - self._last_failure < seconds

    def succeeded(self, *, took_records: bool = False) -> None:
        """Note that OpenSearch answered, and whether it took what it was given to keep."""
        self._last_success = datetime.now(UTC)
        self.away.clear()
        self.answering.set()
        self._refusing = self._refusing and not took_records
        if self._failing_since is not None and not self._refusing:
            log.info("OpenSearch is back", was_away_since=self._failing_since.isoformat())
            self._failing_since = self._reason = None

    def failed(self, reason: str) -> None:
        """Note that OpenSearch gave no answer."""
        self._last_failure = time.monotonic()
        self.answering.clear()
        self.away.set()
        self._note(reason)

    def refused(self, reason: str) -> None:
        """Note that OpenSearch answered and took no record."""
        self._refusing = True
        self._note(reason)

    def _note(self, reason: str) -> None:
        """Keep the reason; the first failure of a row is logged, and a new reason, but no flood of them."""
        self._reason = reason
        now = time.monotonic()
        if self._failing_since is None or (reason != self._logged and now - self._logged_at >= _LOGGED_EVERY_S):
            self._failing_since = self._failing_since or datetime.now(UTC)
            self._logged, self._logged_at = reason, now
            log.warning("OpenSearch is away: what needs it waits", reason=reason)

    def state(self, waiting: int = 0) -> AuditState:
        """Return the state of this moment."""
        return AuditState(self._last_success, self._failing_since, self._reason, waiting)
