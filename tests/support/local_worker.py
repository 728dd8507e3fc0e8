"""A worker in the test's own process: real consumer, publisher and pipeline, and fakes of all but the broker."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from schemas.audit import AuditRecord, Outcome
from schemas.smtp_config import Scope, SmtpConfig, TlsMode
from tests.support.events import body_of, make_event
from worker.delivery.pipeline import Pipeline, PipelinePorts
from worker.delivery.ports import Answer, Incoming, Lane, Settlement
from worker.delivery.retry import RetryPolicy
from worker.errors import BrokerUnavailable, PublishRefused
from worker.rabbit import topology
from worker.rabbit.consumer import Consumer
from worker.rabbit.publisher import Publisher
from worker.testing import FakeMailer, MemoryAudit, StaticConfigs

CONTROLLER = SmtpConfig(host="mx.example.com", port=25, tls=TlsMode.NONE, from_address="noreply@example.com")
PATIENCE_S = 60


class LocalWorker:
    """Consumes at `url` until `end`; keeps what was delivered, mailed and recorded."""

    def __init__(
        self,
        url: str,
        *,
        prefetch: int = 50,
        scripts: Mapping[str, Iterable[Answer]] | None = None,
        mailer: FakeMailer | None = None,
        audit: MemoryAudit | None = None,
    ) -> None:
        self.mailer = mailer or FakeMailer(scripts or {})
        self.audit = audit or MemoryAudit()
        self.delivered: list[Incoming] = []
        self.delivered_at: list[float] = []
        self.publisher = Publisher(url, "worker's publisher")
        retry = RetryPolicy(budget_s=0, first_wait_s=0.01, doubt_wait_s=0.01)
        ports = PipelinePorts(StaticConfigs({Scope(): CONTROLLER}), self.mailer, self.audit, self.audit)
        self.pipeline = Pipeline(ports, worker_id="w", retry=retry)
        self.consumer = Consumer(url, self.publisher, self._handle, prefetch=prefetch, name="worker")
        self._stop = asyncio.Event()

    async def start(self) -> None:
        await self.publisher.start(declare=True)
        self._running = asyncio.ensure_future(self.consumer.run(self._stop))
        await until(lambda: self.consumer.consuming)

    async def end(self) -> None:
        self._stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await self._running
        await self.publisher.close()

    async def _handle(self, incoming: Incoming) -> Settlement:
        self.delivered.append(incoming)
        self.delivered_at.append(time.monotonic())
        return await self.pipeline.handle(incoming)

    def mails(self) -> Counter[str]:
        """How often each recipient was sent a mail."""
        return Counter(r for sent in self.mailer.sent for r in sent.envelope.recipients)

    def accepted(self) -> dict[str, AuditRecord]:
        """The record of each recipient whose mail was accepted."""
        found = self.audit.records.values()
        return {str(r.recipient): r for r in found if r.outcome is Outcome.ACCEPTED}


@contextlib.asynccontextmanager
async def local_worker(url: str, **options: Any) -> AsyncIterator[LocalWorker]:
    """A worker that consumes; what it has in hand at the end is settled."""
    worker = LocalWorker(url, **options)
    await worker.start()
    try:
        yield worker
    finally:
        if worker.mailer.gate is not None:
            worker.mailer.gate.set()
        await worker.end()


def mail(recipient: str) -> bytes:
    """An event for one recipient, whose id is the recipient."""
    return body_of(make_event(recipient, id=recipient))


async def submit(publisher: Publisher, body: bytes) -> None:
    """Publish an event to the transactional lane, once."""
    key = topology.routing_key(Lane.TRANSACTIONAL, "test")
    content_type = "application/cloudevents+json"
    await publisher.publish(topology.EVENTS_EXCHANGE, key, body, content_type=content_type, headers={})


async def submit_surely(publisher: Publisher, body: bytes) -> None:
    """Publish an event until it is confirmed, as an upstream service does: perhaps twice."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await submit(publisher, body)
            except (BrokerUnavailable, PublishRefused):
                await asyncio.sleep(0.05)  # it announces to nobody when it would take the event


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for something that announces itself to nobody."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.01)
