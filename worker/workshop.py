"""What a worker over RabbitMQ and OpenSearch consists of, built and taken down in order.

Part of the composition root (see ``app``). The order matters at both ends: what dead workers left in
their journals is shipped before anything is taken, and the audit ends before the publisher and the
journal that it leans on.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from worker.audit.claims import OpenSearchClaims
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.outbox import DurableAudit
from worker.configs import Check, Gauges
from worker.delivery.breakers import BreakerKey, Breakers, Change
from worker.delivery.claims import Claims, Unclaimed
from worker.delivery.course import tell_nobody
from worker.delivery.ports import AuditLookup, AuditSink, Incoming, Settlement
from worker.delivery.trail import Trail
from worker.journal.journal import Journal
from worker.journal.left_behind import ship_left_behind
from worker.proof.heads import Heads
from worker.rabbit.breaker_stream import BreakerStream
from worker.rabbit.consumer import Consumer
from worker.rabbit.declaring import Provision
from worker.rabbit.outbox_queue import RabbitOutbox
from worker.rabbit.publisher import Publisher
from worker.recipients import privacy_of
from worker.recording import chain_of
from worker.settings import Settings

log = structlog.get_logger(__name__)

Handler = Callable[[Incoming], Awaitable[Settlement]]
Consume = Callable[[Handler, asyncio.Event], Awaitable[None]]


def _nothing_missing() -> str | None:
    """One worker alone knows its breakers."""
    return None


@dataclass(frozen=True, slots=True)
class Workshop:
    """What the delivery of one process works with; `consume` returns once it has stopped and settled.

    `breakers_missing` says why `breakers` are not all that the replicas know.
    """

    audit: AuditSink
    lookup: AuditLookup
    consume: Consume
    breakers: Breakers = field(default_factory=Breakers)
    breakers_missing: Check = _nothing_missing
    share: Callable[[Change], None] = tell_nobody
    checks: Mapping[str, Check] = field(default_factory=dict)
    gauges: Gauges = field(default_factory=dict)
    claims: Claims = field(default_factory=Unclaimed)


@dataclass(slots=True)
class _Parts:
    """The opened parts of one worker; the consumer is there once consuming begins."""

    settings: Settings
    publisher: Publisher
    journal: Journal
    audit: DurableAudit
    trail: Trail
    breakers: Breakers
    stream: BreakerStream
    consumer: Consumer | None = None

    async def consume(self, handler: Handler, stop: asyncio.Event) -> None:
        """Take events until `stop`, after what was left behind is on its way and the breakers are known."""
        if not await before(stop, self._prepare()):
            return
        settings = self.settings
        name = f"postbote worker {settings.worker_id}"
        self.consumer = Consumer(
            settings.amqp_url,
            self.publisher,
            handler,
            prefetch=settings.prefetch,
            name=name,
            provision=Provision(settings.topology),
        )
        watching = asyncio.create_task(self._hold_while_the_journal_fails(self.consumer), name="journal watch")
        try:
            await self.consumer.run(stop)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _prepare(self) -> None:
        shipped = await ship_left_behind(self.journal, self.trail.keep_left_behind)
        if shipped:
            log.info("what dead workers left is recorded", records=shipped)
        if not await self.stream.caught_up():
            log.warning("the breakers' stream could not be read: beginning without it")
        record = self.settings.controller_record()
        if record is not None:  # it has no versions, and a restart is how its password is changed
            self.breakers.hasten(BreakerKey.of(record), time.time())

    async def _hold_while_the_journal_fails(self, consumer: Consumer) -> None:
        while True:
            consumer.hold(await self.journal.fails())
            await self.journal.writable()
            consumer.resume()

    def checks(self) -> dict[str, Check]:
        """What readiness asks."""
        return {
            "consumer": self._consumer_missing,
            "audit": self.audit.missing,
            "journal": lambda: self.journal.failing and f"cannot be written: {self.journal.failing}",
        }

    def _consumer_missing(self) -> str | None:
        if self.consumer is None:
            return "not consuming"
        if self.consumer.held is not None:
            return f"takes no events: {self.consumer.held}"
        return None if self.consumer.consuming else "not consuming"


@contextlib.asynccontextmanager
async def open_workshop(
    settings: Settings, publisher: Publisher, opensearch: Mapping[str, Any]
) -> AsyncIterator[Workshop]:
    """RabbitMQ and OpenSearch; either may be away, also at the start, and is then waited for.

    Raises JournalUnavailable where the journal's folder cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        journal = Journal(settings.journal_dir, worker_id=settings.worker_id)
        await journal.open()
        stack.push_async_callback(journal.close)
        outbox = RabbitOutbox(settings.amqp_url, publisher, name=f"postbote outbox {settings.worker_id}")
        stack.push_async_callback(outbox.close)
        server = OpenSearchAudit(**opensearch)
        audit = DurableAudit(server, outbox)
        audit.start()
        stack.push_async_callback(audit.close)
        claims = OpenSearchClaims(server.link, opensearch["index_prefix"], settings.worker_id)
        claims.start()
        stack.push_async_callback(claims.close)
        breakers = Breakers()
        name = f"postbote breakers {settings.worker_id}"
        stream = BreakerStream(settings.amqp_url, publisher, breakers.apply, name=name)
        stream.start()
        stack.push_async_callback(stream.close)
        trail = _open_trail(settings, journal, audit, stack)
        parts = _Parts(settings, publisher, journal, audit, trail, breakers, stream)
        # Alone, a replica goes on well: no reason to be sent nothing, but one to be seen.
        shared = ("1 while the replicas' breakers are shared", lambda: stream.missing() is None)
        gauges = {
            "postbote_breakers_shared": shared,
            **audit.gauges(),
            "postbote_open_breakers": ("SMTP records that rest", lambda: len(breakers.open_now())),
            "postbote_claims": ("Events in hand that were delivered before, and are claimed", lambda: claims.held),
        }
        yield Workshop(
            audit=parts.trail,
            lookup=parts.trail,
            consume=parts.consume,
            breakers=breakers,
            breakers_missing=stream.missing,
            share=stream.share,
            checks=parts.checks(),
            gauges=gauges,
            claims=claims,
        )


def _open_trail(settings: Settings, journal: Journal, audit: DurableAudit, stack: contextlib.AsyncExitStack) -> Trail:
    """The trail, with heads of its chain until the stack unwinds: the last one behind the last record."""
    trail = Trail(journal, audit, chain_of(settings), privacy_of(settings))
    heads = Heads(trail, settings.audit_head_s)
    heads.start()
    stack.push_async_callback(heads.close)
    return trail


async def before(stop: asyncio.Event, starting: Coroutine[Any, Any, None]) -> bool:
    """Run `starting` to its end, or give it up when `stop` is set; True where it ended."""
    started, stopped = asyncio.ensure_future(starting), asyncio.ensure_future(stop.wait())
    both: set[asyncio.Future[Any]] = {started, stopped}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if started.done():
        started.result()
        return True
    started.cancel()
    await asyncio.gather(started, return_exceptions=True)
    return False
