"""The audit that doesn't hold mail up: records that OpenSearch leaves waiting go to a durable queue.

    write ──► BulkWriter ──────────────────────► OpenSearch
                  │ overdue                          ▲
                  ▼                                  │ shipping, while it answers
              OutboxQueue.put (confirmed) ──► outbox ┘

Every record waits in the BulkWriter, and whichever takes it first, OpenSearch or the queue, lets
its writer go on; one that no journal keeps goes both ways at once. Nothing is decided twice: a
record that went both ways has one id. Where neither takes records, they wait, at most as many as
the BulkWriter has room for, and nothing is acknowledged.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import structlog

from schemas.audit import AuditRecord
from worker.audit.bulk import Document
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.outbox_messages import UnreadableMessage, pack, poison_letter, unpack
from worker.errors import AuditUnavailable, BrokerUnavailable, PublishRefused

log = structlog.get_logger(__name__)

_GRACE_S = 5.0
# A mistake of ours must neither end the rest nor fill the log.
_SURPRISE_PAUSE_S = 1.0
# What is put in one go; the next go follows at once.
_AT_ONCE = 2000

Gauges = Mapping[str, tuple[str, Callable[[], float | None]]]
"""By metric name: what it says, and how it is read (None: not known now)."""


class OutboxQueue(Protocol):
    """A durable queue of messages that many workers share."""

    async def put(self, bodies: Sequence[bytes]) -> None:
        """Return once every message is confirmed; raises BrokerUnavailable or PublishRefused."""
        ...

    async def ship(self, write: Callable[[bytes], Awaitable[None]], stop: asyncio.Event) -> None:
        """Hand messages to `write`, a few at a time, and forget each once that returns.

        Returns when `stop` is set: what is in hand is cancelled and returned to the queue. A message
        whose `write` raises AuditUnavailable is returned, too. Raises BrokerUnavailable.
        """
        ...

    async def depth(self) -> int | None:
        """Count the messages that nobody has in hand; None where that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class OutboxTimes:
    """Seconds: patience with an unanswered write, and how often each thing is looked after.

    `relieve_s` applies while OpenSearch is known to fail, and bounds what that costs each event.
    RabbitMQ counts only the messages that nobody has in hand. So nobody keeps one for longer than
    `ship_s`, and returns it for longer than `measure_s`: an outbox that was seen empty for
    `empty_s`, more than both together, is empty.
    """

    after_s: float = 1.0
    relieve_s: float = 0.05
    probe_s: float = 0.5
    measure_s: float = 2.0
    retry_s: float = 0.5
    ship_s: float = 5.0
    empty_s: float = 8.0


class DurableAudit:
    """Fulfils the core's AuditSink and AuditLookup over OpenSearch and an outbox."""

    def __init__(self, audit: OpenSearchAudit, queue: OutboxQueue, times: OutboxTimes | None = None) -> None:
        """Nothing runs before `start`. `audit` is closed with this, `queue` by whoever opened it, later."""
        self._audit = audit
        self._queue = queue
        self._times = times or OutboxTimes()
        self._depth: int | None = None
        self._empty_since: float | None = None
        self._in_hand = 0
        self._urgent = 0
        self._hurry = asyncio.Event()
        self._outbox_refuses: str | None = None
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look after the records; waits for nothing, whoever is away."""
        loops = {"relieve": self._relieve, "probe": self._probe, "ship": self._ship, "measure": self._measure}
        self._tasks = [asyncio.create_task(_forever(step), name=f"audit {name}") for name, step in loops.items()]

    async def write(self, records: Sequence[AuditRecord]) -> None:
        """Return once every record is durable, in OpenSearch or in the outbox.

        Raises AuditUnavailable only where this closes first: then nothing is known of the records.
        """
        await self._audit.write(records)

    async def write_documents(self, documents: Sequence[Document], *, urgent: bool = False) -> None:
        """Like `write`, for documents: id, month (``YYYY.MM``) and JSON of each record.

        `urgent` ones are kept nowhere else: they don't wait to become overdue.
        """
        if not urgent:
            await self._audit.write_documents(documents)
            return
        self._urgent += 1
        self._hurry.set()
        try:
            await self._audit.write_documents(documents)
        finally:
            self._urgent -= 1

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> ``YYYY.MM``), those that OpenSearch has; raises AuditUnavailable."""
        return await self._audit.recorded(ids)

    @property
    def complete(self) -> bool:
        """False while records may be in the outbox, where nobody finds them."""
        if self._empty_since is None or self._in_hand or self._audit.health.failing:
            return False
        return time.monotonic() - self._empty_since >= self._times.empty_s

    @property
    def depth(self) -> int | None:
        """Messages in the outbox, as last counted."""
        return self._depth

    def missing(self) -> str | None:
        """One line for readiness on what fails now, or None where all is well."""
        state = self._audit.state
        if state.failing_since is None:
            return None
        holds = "an unknown number of" if self._depth is None else self._depth
        outbox = f"outbox holds {holds} messages"
        if self._outbox_refuses is not None:
            outbox = f"{outbox} and takes none now ({self._outbox_refuses})"
        since = f"OpenSearch failing since {state.failing_since:%H:%M:%S}Z"
        # Behind a colon nobody outside would see it; what explains the reason is behind its own.
        return f"{since}, {outbox}, {state.waiting} records wait; {state.reason}"

    def gauges(self) -> Gauges:
        """What there is to measure; read at scrape, so that a record costs nothing."""
        return {
            "postbote_audit_outbox_messages": (
                "Messages of audit records in the outbox that nobody ships yet",
                lambda: self._depth,
            ),
            "postbote_audit_waiting_records": (
                "Audit records that neither OpenSearch nor the outbox has taken yet",
                lambda: self._audit.writer.waiting,
            ),
            "postbote_audit_failing": (
                "1 while OpenSearch does not answer or takes no records",
                lambda: self._audit.health.failing,
            ),
        }

    async def close(self, grace_s: float = _GRACE_S) -> None:
        """Let OpenSearch or the outbox take what waits, for up to `grace_s` seconds; what is left raises."""
        self._closing = True
        relieving, others = self._tasks[:1], self._tasks[1:]
        await _end(others)
        await self._audit.close(grace_s)
        await _end(relieving)

    async def _relieve(self) -> None:
        """Put into the outbox what has waited for too long."""
        failing = self._audit.health.failing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._times.relieve_s if failing or self._closing else self._times.after_s / 4):
                await self._hurry.wait()
        self._hurry.clear()
        patience_s = 0.0 if self._audit.health.failing or self._urgent else self._times.after_s
        overdue = self._audit.writer.overdue(patience_s)[:_AT_ONCE]
        if overdue:
            bodies = list(pack(overdue))
            if await self._put(bodies):
                self._audit.writer.settle(overdue)

    async def _put(self, bodies: Sequence[bytes]) -> bool:
        self._empty_since = None  # from here on, something of ours may be there
        try:
            await self._queue.put(bodies)
        except (BrokerUnavailable, PublishRefused) as error:
            if self._outbox_refuses is None:
                log.warning("neither OpenSearch nor the outbox takes records: they wait", reason=str(error))
            self._outbox_refuses = str(error)
            await asyncio.sleep(self._times.retry_s)
            return False
        self._outbox_refuses = None
        self._depth = (self._depth or 0) + len(bodies)
        return True

    async def _probe(self) -> None:
        """Find out whether OpenSearch answers again, whoever else needs it or not."""
        health = self._audit.health
        if not health.answering.is_set():
            with contextlib.suppress(AuditUnavailable):  # noted by the health, which is what this is for
                await self._audit.ready()
        elif health.failing and self._depth == 0 and not self._audit.writer.waiting:
            # It refused records before, and other workers have shipped since.
            health.succeeded(took_records=True)
        await asyncio.sleep(self._times.probe_s)

    async def _ship(self) -> None:
        """Write what the outbox holds, while OpenSearch answers and takes it."""
        health = self._audit.health
        await health.answering.wait()
        stop = asyncio.Event()
        away = asyncio.ensure_future(health.away.wait())
        away.add_done_callback(lambda _: stop.set())
        try:
            await self._queue.ship(partial(self._ship_message, stop), stop)
            await asyncio.sleep(0.0 if away.done() else self._times.measure_s * 1.5)  # seen by whoever counts
        except BrokerUnavailable as error:
            log.debug("the outbox is not shipped now", reason=str(error))
            await asyncio.sleep(self._times.retry_s)
        finally:
            away.cancel()

    async def _ship_message(self, stop: asyncio.Event, body: bytes) -> None:
        self._in_hand += 1
        try:
            async with asyncio.timeout(self._times.ship_s):
                await self._audit.writer.write_documents(_documents(body), shipped=True)
        except TimeoutError:
            stop.set()
            raise AuditUnavailable("OpenSearch does not take what the outbox holds") from None
        finally:
            self._in_hand -= 1

    async def _measure(self) -> None:
        self._depth = await self._queue.depth()
        if self._depth != 0 or self._in_hand:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = time.monotonic()
        await asyncio.sleep(self._times.measure_s)


def _documents(body: bytes) -> list[Document]:
    try:
        return unpack(body)
    except UnreadableMessage as error:
        log.error("message of the outbox cannot be read: kept as a dead letter", reason=str(error), size=len(body))  # noqa: TRY400 # no bug to trace
        return [poison_letter(body, str(error), datetime.now(UTC))]


async def _forever(step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except Exception:
            log.exception("looking after the audit surprised")
            await asyncio.sleep(_SURPRISE_PAUSE_S)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
