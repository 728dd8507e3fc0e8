"""A pipeline over the real SMTP pool, and the question of every test here: do server and audit agree?"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.audit import AuditRecord
from schemas.smtp_config import CONTROLLER, SmtpConfig, TlsMode
from tests.support.events import body_of, make_event
from worker.delivery.pipeline import Pipeline, PipelinePorts
from worker.delivery.ports import Heard, Incoming, MailEnvelope, RenderedMessage, Settlement, TransactionResult
from worker.delivery.retry import RetryPolicy
from worker.smtp.pool import SmtpPool
from worker.testing import MemoryAudit, StaticConfigs

FROM = "sender@postbote.test"
SHORT = RetryPolicy(budget_s=10, first_wait_s=0.01, doubt_wait_s=0.01)

Delivery = tuple[str, str]
"""(Message-ID, recipient): what a server holds, and what an audit record is about."""


def record_for(port: int, **options: object) -> SmtpConfig:
    """A controller record, which no egress rule concerns; in clear and without a retry unless said otherwise."""
    given = {"tls": TlsMode.NONE, "retries": 1, "timeout_s": 5.0, "from_address": FROM, "max_connections": 1}
    return SmtpConfig(host="127.0.0.1", port=port, **{**given, **options})


class WatchedAudit(MemoryAudit):
    """An audit in memory that tells when something has been written."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Condition()

    async def write(self, records: Sequence[AuditRecord]) -> None:
        await super().write(records)
        async with self.changed:
            self.changed.notify_all()


class Recorder:
    """A mailer that keeps the bytes of every message, then has them sent."""

    def __init__(self, pool: SmtpPool) -> None:
        self._pool = pool
        self.contents: dict[str, bytes] = {}

    async def send(
        self, config: SmtpConfig, envelope: MailEnvelope, message: RenderedMessage, heard: Heard | None = None
    ) -> TransactionResult:
        known = self.contents.setdefault(message.message_id, message.content)
        assert known == message.content, "a further attempt has other bytes"
        return await self._pool.send(config, envelope, message, heard)


@dataclass
class Sender:
    """One pipeline with an audit in memory, sending by one SMTP record; `contents` are the mails by Message-ID."""

    config: SmtpConfig
    pipeline: Pipeline
    audit: WatchedAudit
    contents: Mapping[str, bytes]

    async def send(self, *to: str, **event: object) -> Settlement:
        """Have one event delivered; returns what the queue is told."""
        return await self.pipeline.handle(Incoming(body_of(make_event(*to, **event))))

    async def send_many(self, recipients: Iterable[str], **event: object) -> list[Settlement]:
        """Have one event for each recipient delivered, all at the same time."""
        return list(await asyncio.gather(*(self.send(each, **event) for each in recipients)))

    async def until(self, recipient: str, outcome: str) -> None:
        """Wait until the audit says this about a recipient."""
        async with asyncio.timeout(10), self.audit.changed:
            await self.audit.changed.wait_for(lambda: outcome in self.outcomes(recipient))

    def outcomes(self, recipient: str) -> list[str]:
        """What the audit says about a recipient, oldest first."""
        return [outcome for who, outcome, _ in self.audit.outcomes() if who == recipient]

    def deliveries(self, outcome: str) -> set[Delivery]:
        """The deliveries of which the audit says this."""
        return {(r.message_id or "", r.recipient or "") for r in self.audit.records.values() if r.outcome == outcome}

    def possible_duplicates(self) -> set[Delivery]:
        """The deliveries that the audit says may have been made twice."""
        return {(r.message_id or "", r.recipient or "") for r in self.audit.records.values() if r.possible_duplicate}


@contextlib.asynccontextmanager
async def sender_for(config: SmtpConfig, policy: RetryPolicy = SHORT) -> AsyncIterator[Sender]:
    """A pipeline whose mail goes out by `config`."""
    audit, pool = WatchedAudit(), SmtpPool("client.postbote.test")
    recorder = Recorder(pool)
    ports = PipelinePorts(StaticConfigs({CONTROLLER: config}), recorder, audit, audit)
    sender = Sender(config, Pipeline(ports, worker_id="test", retry=policy), audit, recorder.contents)
    try:
        yield sender
    finally:
        await pool.close()


def disagreements(sender: Sender, kept: Sequence[Delivery]) -> list[str]:
    """Every sentence in which the server's truth contradicts the audit; empty where they agree."""
    held = Counter(kept)
    accepted, doubted = sender.deliveries("accepted"), sender.deliveries("in_doubt")
    allowed_twice = sender.possible_duplicates()
    return [
        *(f"accepted in the audit, not at the server: {each}" for each in sorted(accepted - held.keys())),
        *(f"at the server, not in the audit: {each}" for each in sorted(held.keys() - accepted - doubted)),
        *(
            f"at the server {count} times, the audit knows of no duplicate: {each}"
            for each, count in held.items()
            if count > 1 and each not in allowed_twice
        ),
        *(f"refused and accepted: {each}" for each in sorted(accepted & sender.deliveries("refused"))),
    ]
