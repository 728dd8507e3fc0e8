"""How a record fares: whether its breaker is open, and when it last sent a mail and last failed to.

Both come from elsewhere, the breakers' stream and the audit, and either may be away: then it is not known,
which is another thing than "closed" or "never".
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from schemas.audit import Outcome
from schemas.audit_query import AuditPage, AuditQuery
from schemas.smtp_config import Scope, SmtpConfig
from worker.delivery.breakers import PROBE_LIMIT_S, BreakerKey, Breakers, State, backoff_s
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

LAST_LIMIT_S = 2.0
FAILURES = (Outcome.CONFIG_FAULT, Outcome.REFUSED, Outcome.DEFERRED, Outcome.IN_DOUBT, Outcome.EXHAUSTED)
"""The outcomes that say that a mail did not go out by the record, though it was tried."""
# What a name leads to in the operator's network is not said to tenants; see worker.smtp.probe.
_OUT_OF_REACH = {"egress-denied", "host-not-found"}
_UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class BreakerState:
    """What is known of a record's breaker: ``closed``, ``open`` or ``probing``.

    `until`: the next mail is tried no earlier. `reason` is the name of the outcome rule that opened it.
    """

    state: str
    until: datetime | None = None
    reason: str | None = None

    def for_tenant(self) -> "BreakerState":
        """The same, with one reason for whatever cannot be reached."""
        return replace(self, reason=_UNREACHABLE) if self.reason in _OUT_OF_REACH else self

    def without_reason(self) -> "BreakerState":
        """What they may know whose mail rests for a fault in somebody else's record."""
        return replace(self, reason=None)

    def to_json(self) -> dict[str, Any]:
        """One object for JSON."""
        until = None if self.until is None else self.until.isoformat()
        return {"state": self.state, "until": until, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class LastEnd:
    """When a mail last ended one way, and what the server said: `code` is None where nothing was said."""

    at: str
    outcome: str
    code: int | None = None
    enhanced: str | None = None

    def to_json(self) -> dict[str, Any]:
        """One object for JSON."""
        return {"at": self.at, "outcome": self.outcome, "code": self.code, "enhanced": self.enhanced}


@dataclass(frozen=True, slots=True)
class LastEnds:
    """The last success and the last failure in the audit; None: there is none."""

    success: LastEnd | None
    failure: LastEnd | None

    def to_json(self) -> dict[str, Any]:
        """One object for JSON."""
        return {
            "success": None if self.success is None else self.success.to_json(),
            "failure": None if self.failure is None else self.failure.to_json(),
        }


ReadBreaker = Callable[[SmtpConfig], BreakerState | None]
"""Tells the state of a record's breaker, None where it is not known."""

ReadLast = Callable[[SmtpConfig, Scope], Awaitable[LastEnds | None]]
"""Tells the last ends of mails of a scope, and of those below it, by a record; None where that is not known."""


class Searches(Protocol):
    """Answers questions to the audit."""

    async def search(self, query: AuditQuery) -> AuditPage:
        """Return one page, newest first; raises AuditUnavailable."""
        ...


def breaker_reader(breakers: Breakers, missing: Callable[[], str | None]) -> ReadBreaker:
    """Read from `breakers`; while `missing` says why they are not the replicas', nothing is known."""

    def read(config: SmtpConfig) -> BreakerState | None:
        return None if missing() is not None else state_in(breakers, config)

    return read


def breakers_unknown(_config: SmtpConfig) -> BreakerState | None:
    """Stands for breakers that nobody can be asked about."""
    return None


async def last_unknown(_config: SmtpConfig, _scope: Scope) -> LastEnds | None:
    """Stands for an audit that nobody can be asked about."""
    return None


def state_in(breakers: Breakers, config: SmtpConfig) -> BreakerState:
    """Return the state of the record's breaker; one that nothing was heard of is closed."""
    last = breakers.last(BreakerKey.of(config))
    if last is None or last.state is State.CLOSED:
        return BreakerState("closed")
    # Each replica draws a somewhat longer wait of its own: this is the earliest of them.
    wait_s = PROBE_LIMIT_S if last.state is State.PROBING else backoff_s(last.failures)
    until = datetime.fromtimestamp(last.at + wait_s, UTC)
    return BreakerState(last.state.name.lower(), until, last.reason or None)


class LastInAudit:
    """Reads the last ends from the audit, within `limit_s` seconds."""

    def __init__(self, search: Searches, limit_s: float = LAST_LIMIT_S) -> None:
        """Take the audit to ask."""
        self._search = search
        self._limit_s = limit_s

    async def __call__(self, config: SmtpConfig, scope: Scope) -> LastEnds | None:
        """See `ReadLast`."""
        asked = AuditQuery(
            limit=1,
            config=config.display_name,
            config_scope=str(config.scope),
            partner=scope.partner,
            org=scope.org,
        )
        try:
            async with asyncio.timeout(self._limit_s):
                success, failure = await asyncio.gather(
                    self._search.search(replace(asked, outcomes=(Outcome.ACCEPTED,))),
                    self._search.search(replace(asked, outcomes=FAILURES)),
                )
        except (AuditUnavailable, TimeoutError) as error:
            log.info("the last ends of a record are not known: the audit does not answer", reason=str(error))
            return None
        return LastEnds(_first(success), _first(failure))


def _first(page: AuditPage) -> LastEnd | None:
    return _end(page.records[0]) if page.records else None


def _end(record: Mapping[str, Any]) -> LastEnd:
    reply = record.get("reply") or {}
    return LastEnd(
        str(record.get("@timestamp", "")), str(record.get("outcome", "")), reply.get("code"), reply.get("enhanced")
    )
