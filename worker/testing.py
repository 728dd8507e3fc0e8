"""Fakes of the core's ports, shipped for the tests of whoever builds on the core.

They keep what they were given and answer from a script; the contract tests run against them and
against the real adapters alike where both exist.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.audit import AuditRecord
from schemas.smtp_config import Scope, SmtpConfig
from worker.delivery.claims import EventKey
from worker.delivery.ports import (
    Answer,
    Fault,
    Heard,
    MailEnvelope,
    Phase,
    RenderedMessage,
    ScopedConfigs,
    SmtpReply,
    TransactionResult,
)
from worker.embedded.claims import ClaimBook, MemoryClaims
from worker.errors import AuditUnavailable

ACCEPT = Answer(Phase.FINAL, SmtpReply(250, "2.0.0 Ok: queued as 4F1A22C0DE"))


def reply(phase: Phase, code: int, text: str) -> Answer:
    """Build an answer that a reply decided."""
    return Answer(phase, SmtpReply(code, text))


def fault(phase: Phase, what: Fault) -> Answer:
    """Build an answer that no reply stands behind."""
    return Answer(phase, fault=what)


@dataclass(frozen=True, slots=True)
class Sent:
    """One transaction as the fake mailer saw it."""

    config: SmtpConfig
    envelope: MailEnvelope
    message: RenderedMessage


@dataclass(slots=True)
class FakeMailer:
    """Answers each recipient from its own script, then with `ACCEPT`; keeps what was sent.

    `hosts`: what a record's server answers to all recipients alike, before any script's turn.
    """

    scripts: Mapping[str, Iterable[Answer]] = field(default_factory=dict)
    hosts: Mapping[str, Iterable[Answer]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    gate: asyncio.Event | None = None
    _left: dict[str, deque[Answer]] = field(default_factory=dict)

    async def send(
        self, config: SmtpConfig, envelope: MailEnvelope, message: RenderedMessage, heard: Heard | None = None
    ) -> TransactionResult:
        """Record the transaction and answer every recipient; waits for `gate` where one is set."""
        self.sent.append(Sent(config, envelope, message))
        if self.gate is not None:
            await self.gate.wait()
        of_host = self._next(config.host, self.hosts)
        result = TransactionResult({r: of_host or self._next(r, self.scripts) or ACCEPT for r in envelope.recipients})
        if heard is not None:
            heard(result)
        return result

    def _next(self, key: str, scripts: Mapping[str, Iterable[Answer]]) -> Answer | None:
        if key not in scripts:
            return None
        left = self._left.setdefault(key, deque(scripts[key]))
        return left.popleft() if left else None


@dataclass(slots=True)
class MemoryAudit:
    """An audit sink and lookup in memory; `hold` makes writers wait, as a dead server does."""

    records: dict[str, AuditRecord] = field(default_factory=dict)
    hold: asyncio.Event | None = None
    complete: bool = True
    away: bool = False

    async def write(self, records: Sequence[AuditRecord]) -> None:
        """Keep the records, the first of each id, once `hold` is set or None."""
        if self.hold is not None:
            await self.hold.wait()
        for record in records:
            self.records.setdefault(record.document_id, record)

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids`, those that are kept; raises AuditUnavailable while `away`."""
        if self.away:
            raise AuditUnavailable("the audit is away")
        return frozenset(ids) & frozenset(self.records)

    def outcomes(self) -> list[tuple[str | None, str, int]]:
        """Recipient, outcome and attempt of every record, in the order of writing."""
        return [(r.recipient, r.outcome.value, r.attempt) for r in self.records.values()]


class FakeClaims(MemoryClaims):
    """Claims in memory that keep what they were asked, can be `away`, and lose what is put into `lost`."""

    def __init__(self, holder: str = "w1", book: ClaimBook | None = None) -> None:
        """Claim as `holder`; fakes that share a `book` see each other's claims."""
        super().__init__(holder, book)
        self.asked: list[EventKey] = []
        self.released: list[EventKey] = []
        self.left: list[EventKey] = []
        self.lost: set[EventKey] = set()
        self.away = False

    async def claim(self, key: EventKey) -> bool:
        """See `MemoryClaims`; raises AuditUnavailable while `away`."""
        if self.away:
            raise AuditUnavailable("the claims are away")
        self.asked.append(key)
        return await super().claim(key)

    def holds(self, key: EventKey) -> bool:
        """Whether the claim lasts and is not `lost`."""
        return key not in self.lost and super().holds(key)

    async def release(self, key: EventKey) -> None:
        """Give it back."""
        self.released.append(key)
        await super().release(key)

    def leave(self, key: EventKey) -> None:
        """Let it end by itself."""
        self.left.append(key)
        super().leave(key)


@dataclass(slots=True)
class StaticConfigs:
    """A config source over a dictionary; `before` runs ahead of each answer and may raise."""

    records: dict[Scope, SmtpConfig] = field(default_factory=dict)
    org_enabled: bool = True
    before: Callable[[], None] | None = None
    fallbacks: dict[Scope, tuple[SmtpConfig, ...]] = field(default_factory=dict)

    async def configs_for(self, scope: Scope) -> ScopedConfigs:
        """The records of the scope's lineage."""
        if self.before is not None:
            self.before()
        found = {s: self.records[s] for s in scope.lineage() if s in self.records}
        fallbacks = {s: self.fallbacks[s] for s in scope.lineage() if s in self.fallbacks}
        return ScopedConfigs(found, org_enabled=self.org_enabled, fallbacks=fallbacks)
