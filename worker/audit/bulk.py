"""Records on their way into OpenSearch: collected for a moment, created in bulk, each answered for.

A writer waits until every one of its records is durable. What becomes of a record is decided item
by item from the bulk's answer (see `entries.judge`): a busy item alone is tried again, an item that
cannot be indexed goes to the dead letters, and neither holds up the rest. A bulk that got no
answer at all is sent again, word for word, for as long as it takes: every record has an id of its
own, so what an unanswered bulk did create answers 409 the second time.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from schemas.audit import AuditRecord
from worker.audit.entries import Entry, Ticket, Verdict, bury, entry_of, judge
from worker.audit.index_template import ensure_template
from worker.audit.link import Call, OpenSearchLink, RequestRefused, backoff_s
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

# An answer of statuses alone: the ids are known, in the order they were sent.
_ANSWER = {"filter_path": "errors,items.*.status,items.*.error.type,items.*.error.reason"}
_MAX_REASON_CHARS = 500

ItemAnswer = tuple[int, str]
"""An item's HTTP status, and the reason where it was refused."""


@dataclass(frozen=True, slots=True)
class BulkLimits:
    """When a bulk is sent, and how many records may wait (further writers do, outside).

    `flush_ms` after its first record, or at `flush_docs` records or `flush_bytes` bytes.
    """

    flush_ms: float = 50.0
    flush_docs: int = 500
    flush_bytes: int = 5_000_000
    max_waiting: int = 10_000


class BulkWriter:
    """Collects the records of all writers and creates them in bulk; one flusher task."""

    def __init__(self, link: OpenSearchLink, prefix: str, limits: BulkLimits | None = None) -> None:
        """Write to ``PREFIX-YYYY.MM``; the template is installed before the first record."""
        self._link = link
        self._prefix = prefix
        self._limits = limits or BulkLimits()
        self._template_ensured = False
        self._queue: deque[Entry] = deque()
        self._queued_bytes = 0
        self._unsettled: set[Entry] = set()
        self._door = asyncio.Lock()
        self._some, self._full, self._settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._flushing = False

    @property
    def waiting(self) -> int:
        """Records that are not durable yet."""
        return len(self._unsettled)

    async def write(self, records: Sequence[AuditRecord]) -> None:
        """Return once every record is durable. Raises AuditUnavailable once the writer closes."""
        if not records:
            return
        ticket = Ticket(len(records), asyncio.get_running_loop().create_future())
        entries = [entry_of(record, self._prefix, ticket) for record in records]
        async with self._door:  # whoever came first gets the room first
            await self._room_for(len(entries))
            self._unsettled.update(entries)
            self._enqueue(entries)
        await ticket.done

    async def start(self) -> None:
        """Return once the template is installed, however long OpenSearch is away."""
        failures = 0
        while not self._template_ensured:
            try:
                await self._ensure_template()
            except AuditUnavailable as error:
                self._link.health.failed(str(error))
                failures += 1
                await self._link.pause(backoff_s(failures))
        self._link.health.succeeded()

    async def close(self, grace_s: float) -> None:
        """Send what waits, within the grace; then fail the writers of what is left."""
        self._closed = True
        for event in (self._full, self._settled):  # nobody waits for more records or for room now
            event.set()
        self._link.begin_close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._all_settled()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_all("this worker stops, and OpenSearch has not taken the record yet")

    def _fail_all(self, reason: str) -> None:
        for entry in self._unsettled:
            entry.ticket.fail(AuditUnavailable(reason))
        self._unsettled.clear()
        self._queue.clear()
        self._settled.set()

    async def _room_for(self, count: int) -> None:
        # A call that is larger than all the room there is goes alone.
        while not self._closed and self._unsettled and len(self._unsettled) + count > self._limits.max_waiting:
            self._settled.clear()
            await self._settled.wait()
        if self._closed:
            msg = "this worker stops: the audit takes no more records"
            raise AuditUnavailable(msg)

    async def _all_settled(self) -> None:
        while self._unsettled:
            self._settled.clear()
            await self._settled.wait()

    def _enqueue(self, entries: Sequence[Entry]) -> None:
        self._queue.extend(entries)
        self._queued_bytes += sum(len(entry.payload) for entry in entries)
        self._some.set()
        if self._over_limits():
            self._full.set()
        if not self._flushing:
            self._flushing = True
            self._spawn(self._flush_forever())

    def _over_limits(self) -> bool:
        return len(self._queue) >= self._limits.flush_docs or self._queued_bytes >= self._limits.flush_bytes

    async def _flush_forever(self) -> None:
        try:
            while True:
                await self._some.wait()
                await self._linger()
                await self._deliver(self._take())
        finally:
            self._flushing = False
            if not self._closed:  # a mistake of ours: no writer is left waiting for nobody
                self._fail_all("the audit's flusher ended")

    async def _linger(self) -> None:
        if self._closed:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.flush_ms / 1000):
                await self._full.wait()

    def _take(self) -> list[Entry]:
        batch: list[Entry] = []
        size = 0
        while self._queue and len(batch) < self._limits.flush_docs and size < self._limits.flush_bytes:
            batch.append(self._queue.popleft())
            size += len(batch[-1].payload)
        self._queued_bytes -= size
        if not self._queue:
            self._some.clear()
        if not self._over_limits():
            self._full.clear()
        return batch

    async def _deliver(self, batch: Sequence[Entry]) -> None:
        """Send one bulk until it is answered, and act on each item's answer."""
        try:
            items = await self._post(batch)
        except RequestRefused as refusal:
            await self._deliver_refused(batch, refusal)
            return
        again: list[Entry] = []
        settled = 0
        for entry, (status, reason) in zip(batch, items, strict=True):
            match judge(status, dead=entry.dead):
                case Verdict.DURABLE:
                    settled += 1
                    self._settle(entry)
                case Verdict.AGAIN:
                    again.append(entry)
                case Verdict.DEAD_LETTER:
                    self._bury(entry, f"{status} {reason}")
        if settled or not again:
            self._link.health.succeeded()
        if again:
            busy = next(item for item, entry in zip(items, batch, strict=True) if entry is again[0])
            self._try_again(again, f"{busy[0]} {busy[1]}", stuck=not settled)

    async def _deliver_refused(self, batch: Sequence[Entry], refusal: RequestRefused) -> None:
        # The whole request was refused (413, say): halves are smaller, and one of them may be blameless.
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._deliver(batch[:middle])
            await self._deliver(batch[middle:])
        elif batch[0].dead:
            self._try_again(batch, str(refusal), stuck=True)
        else:
            self._bury(batch[0], str(refusal))

    async def _post(self, batch: Sequence[Entry]) -> list[ItemAnswer]:
        body = b"".join([entry.payload for entry in batch])
        call = Call("POST", "/_bulk", body, _ANSWER, content_type="application/x-ndjson")
        failures = 0
        while True:
            try:
                await self._ensure_template()
                return _read_items(await self._link.request(call), len(batch))
            except RequestRefused:
                raise
            except AuditUnavailable as error:
                self._link.health.failed(str(error))
                # What comes back may be another cluster, or one restored without its templates.
                self._template_ensured = False
                failures += 1
                log.debug("bulk was not answered", records=len(batch), failures=failures, reason=str(error))
            await self._link.pause(backoff_s(failures))

    async def _ensure_template(self) -> None:
        if not self._template_ensured:
            await ensure_template(self._link, self._prefix)
            self._template_ensured = True

    def _settle(self, entry: Entry) -> None:
        self._unsettled.discard(entry)
        entry.ticket.settle_one()
        self._settled.set()

    def _bury(self, entry: Entry, reason: str) -> None:
        reason = reason[:_MAX_REASON_CHARS]
        log.error("record cannot be indexed: kept as a dead letter", id=entry.document_id, reason=reason)
        letter = bury(entry, self._prefix, reason)
        self._unsettled.discard(entry)
        self._unsettled.add(letter)
        self._enqueue([letter])

    def _try_again(self, entries: Sequence[Entry], reason: str, *, stuck: bool) -> None:
        for entry in entries:
            entry.failures += 1
        if stuck:
            self._link.health.failed(f"OpenSearch takes no record now: {reason}"[:_MAX_REASON_CHARS])
        self._spawn(self._enqueue_later(entries, backoff_s(max(entry.failures for entry in entries))))

    async def _enqueue_later(self, entries: Sequence[Entry], seconds: float) -> None:
        await self._link.pause(seconds)
        self._enqueue(entries)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _read_items(answer: Any, count: int) -> list[ItemAnswer]:
    """Read the items of a bulk's answer; anything else than one item for each record is no answer."""
    if isinstance(answer, dict) and answer.get("errors") is False:
        return [(201, "")] * count
    try:
        items = [_read_item(item["create"]) for item in answer["items"]]
    except (KeyError, TypeError) as error:
        msg = "OpenSearch's answer to a bulk has no items"
        raise AuditUnavailable(msg) from error
    if len(items) != count:
        msg = f"OpenSearch answered {len(items)} of {count} records"
        raise AuditUnavailable(msg)
    return items


def _read_item(item: Any) -> ItemAnswer:
    error = item.get("error") or {}
    return int(item["status"]), f"{error.get('type', '')}: {error.get('reason', '')}" if error else ""
