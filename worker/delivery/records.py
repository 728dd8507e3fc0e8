"""Audit records of one event: what is the same for all its recipients is put together once."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from schemas.audit import CATEGORY, TYPE, AuditRecord, ConfigUsed, Outcome, Reply, Timings
from schemas.cloudevents import InvalidEvent
from schemas.event import EmailEvent
from schemas.smtp_config import SmtpConfig, shared_scope
from schemas.trusted import trusted
from worker.delivery.outcome import Verdict
from worker.delivery.ports import Answer, TransactionResult
from worker.delivery.replies import clean_text, parse_enhanced, remote_queue_id

UNKNOWN_SOURCE = "unknown"
_MAX_REASON_CHARS = 1000


@dataclass(slots=True)
class Stopwatch:
    """Milliseconds of the parts of one event's way, filled in as it goes."""

    received: datetime
    queued_ms: float | None = None
    resolve_ms: float | None = None
    render_ms: float | None = None

    def timings(self, now: datetime, result: TransactionResult | None) -> Timings:
        """The timings as a record holds them; `total_ms` runs from reception to `now`."""
        return trusted(
            Timings,
            {
                "queued_ms": _rounded(self.queued_ms),
                "resolve_ms": _rounded(self.resolve_ms),
                "render_ms": _rounded(self.render_ms),
                "connect_ms": _rounded(result.connect_ms) if result else None,
                "transaction_ms": _rounded(result.transaction_ms) if result else None,
                "total_ms": _rounded((now - self.received).total_seconds() * 1000),
            },
        )


@dataclass(slots=True)
class RecordWriter:
    """Makes the records of one event; `config` and `message_id` are set once they are known."""

    event: EmailEvent
    worker_id: str
    stopwatch: Stopwatch
    config: SmtpConfig | None = None
    message_id: str | None = None
    possible_duplicate: bool = False
    doubtful: frozenset[str] = frozenset()
    """Who may have the mail already, where not all do."""

    def of_verdict(
        self,
        recipient: str,
        verdict: Verdict,
        answer: Answer,
        result: TransactionResult,
        attempt: int,
        *,
        outcome: Outcome | None = None,
        next_attempt_at: datetime | None = None,
    ) -> AuditRecord:
        """Record what one attempt said about a recipient; `outcome` overrides the verdict's own."""
        detail = f" ({clean_text(answer.detail)})" if answer.detail else ""
        decided = outcome or verdict.outcome
        return self.plain(
            decided,
            f"{verdict.rule}: {verdict.reason}{detail}",
            recipient,
            attempt,
            result=result,
            reply=_reply(answer),
            remote_queue_id=remote_queue_id(answer.reply) if answer.reply and decided is Outcome.ACCEPTED else None,
            next_attempt_at=next_attempt_at,
        )

    def plain(
        self,
        outcome: Outcome,
        reason: str,
        recipient: str | None,
        attempt: int = 1,
        *,
        result: TransactionResult | None = None,
        reply: Reply | None = None,
        remote_queue_id: str | None = None,
        next_attempt_at: datetime | None = None,
    ) -> AuditRecord:
        """Record an outcome that no SMTP reply stands behind, or fill in one that has it."""
        event = self.event
        envelope, scope, now = event.envelope, event.scope, datetime.now(UTC)
        values = {
            "timestamp": now,
            "category": CATEGORY,
            "type": TYPE,
            "outcome": outcome,
            "reason": reason[:_MAX_REASON_CHARS],
            "partner": scope.partner,
            "org": scope.org,
            "event_id": envelope.id,
            "event_source": envelope.source,
            "event_type": envelope.type,
            "event_category": event.data.category,
            "event_time": envelope.time,
            "recipient": recipient,
            "recipient_hash": None,
            "attempt": attempt,
            "config": config_used(self.config) if self.config else None,
            "tls": result.tls if result else None,
            "reply": reply,
            "remote_queue_id": remote_queue_id,
            "message_id": self.message_id,
            "possible_duplicate": self.possible_duplicate or recipient in self.doubtful,
            "timings": self.stopwatch.timings(now, result),
            "worker_id": self.worker_id,
            "trace_id": envelope.traceparent.split("-")[1] if envelope.traceparent else None,
            "next_attempt_at": next_attempt_at,
        }
        return trusted(AuditRecord, values)


def of_invalid(error: InvalidEvent, body: bytes, worker_id: str) -> AuditRecord:
    """Record an event that cannot be read, under whatever identity could be made out.

    A body without an id is known by its hash, so that a redelivery does not record it twice.
    """
    known = error.known
    return AuditRecord(
        timestamp=datetime.now(UTC),
        outcome=Outcome.INVALID,
        reason="; ".join(str(e) for e in error.errors)[:_MAX_REASON_CHARS],
        partner=known.scope.partner,
        org=known.scope.org,
        event_id=known.id or id_of_unnamed(body),
        event_source=known.source or UNKNOWN_SOURCE,
        event_type=known.type,
        event_time=known.time,
        worker_id=worker_id,
    )


def id_of_unnamed(body: bytes) -> str:
    """The id under which an event is known that has none of its own: ``sha256:`` and 32 hex digits of its body's."""
    return f"sha256:{hashlib.sha256(body).hexdigest()[:32]}"


def config_used(config: SmtpConfig) -> ConfigUsed:
    """The winning record as the audit names it."""
    return _config_used(
        config.partner, config.org, config.display_name, config.version, config.fingerprint, config.host, config.port
    )


@lru_cache(maxsize=1024)
def _config_used(  # noqa: PLR0917 # one for each thing named
    partner: str | None, org: str | None, name: str, version: int, fingerprint: str, host: str, port: int
) -> ConfigUsed:
    scope = str(shared_scope(partner, org))
    return ConfigUsed(scope=scope, name=name, version=version, fingerprint=fingerprint, host=host, port=port)


def _reply(answer: Answer) -> Reply:
    reply, phase = answer.reply, answer.phase.value
    if reply is None:
        return Reply(phase=phase)
    enhanced, text = parse_enhanced(reply), clean_text(reply.text)
    return trusted(Reply, {"code": reply.code, "enhanced": enhanced, "text": text, "phase": phase})


def _rounded(value: float | None) -> float | None:
    """To whole microseconds, in a third of the time that `round` takes."""
    return None if value is None else (value * 1000 + 0.5) // 1 / 1000
