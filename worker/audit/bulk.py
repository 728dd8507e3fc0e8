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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from schemas.audit import AuditRecord
from worker.audit.duplicates import standings
from worker.audit.entries import Entry, Ticket, Verdict, as_duplicate, as_void, bury, entry_of, judge
from worker.audit.index_template import ensure_template
from worker.audit.link import Call, OpenSearchLink, RequestRefused, backoff_s
from worker.audit.proof_index import ensure_proof_template
from worker.errors import AuditUnavailable
from worker.proof.contested import Standing

log = structlog.get_logger(__name__)

# An answer of statuses alone: the ids are known, in the order they were sent.
_ANSWER = {"filter_path": "errors,items.*.status,items.*.error.type,items.*.error.reason"}
_MAX_REASON_CHARS = 500
# Of a connection that died unnoticed, nothing is heard: the next bulk must not wait behind it for long.
_BULK_TIMEOUT_S = 10.0
# Their writers go on at once, and hundreds in one turn of the loop would keep replies unread meanwhile.
_SETTLED_A_TURN = 50

ItemAnswer = tuple[int, str]
"""An item's HTTP status, and the reason where it was refused."""

Document = tuple[str, str, bytes]
"""A record's id, the month of its index (``YYYY.MM``, or what stands there), and itself as JSON in one line."""


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

    def __init__(
        self,
        link: OpenSearchLink,
        prefix: str,
        limits: BulkLimits | None = None,
        lookup_link: OpenSearchLink | None = None,
    ) -> None:
        """Write to ``PREFIX-YYYY.MM``; the templates are installed before the first record.

        What is there already is read by `lookup_link`, for a `link` whose user may only write.
        """
        self._link = link
        self._lookup_link = lookup_link or link
        self._prefix = prefix
        self._limits = limits or BulkLimits()
        self._template_ensured = False
        self._queue: deque[Entry] = deque()
        self._queued_bytes = 0
        self._unsettled: dict[Entry, None] = {}  # in the order of their coming
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
        if records:
            ticket = self._ticket(len(records))
            await self._hand_in([entry_of(record, self._prefix, ticket) for record in records], ticket)

    async def write_documents(self, documents: Sequence[Document], *, shipped: bool = False) -> None:
        """Like `write`, for records that are documents already.

        `shipped` ones come out of the outbox: they are never `overdue`, and taken back where the
        caller is cancelled.
        """
        if not documents:
            return
        ticket = self._ticket(len(documents), shipped=shipped)
        try:
            await self._hand_in(
                [Entry(self._prefix, month, id_, body, ticket) for id_, month, body in documents], ticket
            )
        except asyncio.CancelledError:
            if shipped:
                self.settle([entry for entry in self._unsettled if entry.ticket is ticket])
            raise

    def overdue(self, seconds: float) -> list[Entry]:
        """The records, oldest first, that have waited for at least so long."""
        horizon = asyncio.get_running_loop().time() - seconds
        found: list[Entry] = []
        for entry in self._unsettled:
            if entry.ticket.shipped:
                continue
            if entry.ticket.since > horizon:
                break
            found.append(entry)
        return found

    def settle(self, entries: Iterable[Entry]) -> None:
        """Count entries as durable: their writers need not wait any longer."""
        for entry in entries:
            if not entry.settled:
                entry.settled = True
                del self._unsettled[entry]
                entry.ticket.settle_one()
        self._settled.set()

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

    def _ticket(self, count: int, *, shipped: bool = False) -> Ticket:
        loop = asyncio.get_running_loop()
        return Ticket(count, loop.create_future(), loop.time(), shipped)

    async def _hand_in(self, entries: Sequence[Entry], ticket: Ticket) -> None:
        if self._door.locked() or self._closed or self._full_with(len(entries)):
            async with self._door:  # whoever came first gets the room first
                await self._room_for(len(entries))
                self._admit(entries)
        else:
            self._admit(entries)
        await ticket.done

    def _admit(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._unsettled[entry] = None
        self._enqueue(entries)

    def _full_with(self, count: int) -> bool:
        # A call that is larger than all the room there is goes alone.
        return bool(self._unsettled) and len(self._unsettled) + count > self._limits.max_waiting

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
            entry.settled = True  # whoever still holds it must not count it
            entry.ticket.fail(AuditUnavailable(reason))
        self._unsettled.clear()
        self._queue.clear()
        self._settled.set()

    async def _room_for(self, count: int) -> None:
        while not self._closed and self._full_with(count):
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
            entry = self._queue.popleft()
            self._queued_bytes -= len(entry.payload)
            if not entry.settled:
                batch.append(entry)
                size += len(entry.payload)
        if not self._queue:
            self._some.clear()
        if not self._over_limits():
            self._full.clear()
        return batch

    async def _deliver(self, batch: Sequence[Entry]) -> None:
        """Send one bulk until it is answered, and act on each item's answer."""
        try:
            answered = await self._post(batch)
        except RequestRefused as refusal:
            await self._deliver_refused(batch, refusal)
            return
        verdicts = [(entry, answer, judge(*answer, dead=entry.dead)) for entry, answer in answered]
        again = [(entry, answer) for entry, answer, verdict in verdicts if verdict is Verdict.AGAIN]
        if len(again) < len(verdicts):
            self._link.health.succeeded(took_records=True)
        await self._settle_in_turns([entry for entry, _, verdict in verdicts if verdict is Verdict.DURABLE])
        for entry, (status, reason), verdict in verdicts:
            if verdict is Verdict.DEAD_LETTER:
                self._bury(entry, f"{status} {reason}")
        if again:
            (status, reason) = again[0][1]
            self._try_again([entry for entry, _ in again], f"{status} {reason}", stuck=len(again) == len(verdicts))
        await self._settle_there([entry for entry, _, verdict in verdicts if verdict is Verdict.THERE_ALREADY])

    async def _settle_in_turns(self, entries: Sequence[Entry]) -> None:
        for start in range(0, len(entries), _SETTLED_A_TURN):
            if start:
                await asyncio.sleep(0)
            self.settle(entries[start : start + _SETTLED_A_TURN])

    async def _settle_there(self, entries: Sequence[Entry]) -> None:
        """Settle what was there already; where something else is, ours is recorded beside it, or its absence is."""
        try:
            found = list(zip(entries, await standings(self._lookup_link, entries), strict=True))
        except AuditUnavailable as error:
            self._lookup_link.health.failed(str(error))
            self._try_again(entries, str(error), stuck=False)
            return
        self.settle(entry for entry, standing in found if standing is Standing.OURS)
        for entry, standing in found:
            if standing is Standing.DUPLICATE:
                log.warning("accepted by another worker too: both are recorded", id=entry.document_id)
                self._replace(entry, as_duplicate(entry))
            elif standing is Standing.VOID:
                log.info("recorded by another worker too: the first record stands", id=entry.document_id)
                self._replace(entry, as_void(entry))
        gone = [entry for entry, standing in found if standing is None]
        if gone:
            self._try_again(gone, "what was there is gone", stuck=False)

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

    async def _post(self, batch: Sequence[Entry]) -> list[tuple[Entry, ItemAnswer]]:
        """Send a bulk until it is answered; what became durable elsewhere meanwhile is left out."""
        failures = 0
        while wanted := [entry for entry in batch if not entry.settled]:
            body = b"".join([entry.payload for entry in wanted])
            call = Call("POST", "/_bulk", body, _ANSWER, _BULK_TIMEOUT_S, "application/x-ndjson")
            try:
                await self._ensure_template()
                items = _read_items(await self._link.request(call), len(wanted))
                return list(zip(wanted, items, strict=True))
            except RequestRefused:
                raise
            except AuditUnavailable as error:
                self._link.health.failed(str(error))
                # What comes back may be another cluster, or one restored without its templates.
                self._template_ensured = False
                failures += 1
                log.debug("bulk was not answered", records=len(wanted), failures=failures, reason=str(error))
            await self._link.pause(backoff_s(failures))
        return []

    async def _ensure_template(self) -> None:
        if not self._template_ensured:
            await ensure_template(self._link, self._prefix)
            await ensure_proof_template(self._link, self._prefix)
            self._template_ensured = True

    def _bury(self, entry: Entry, reason: str) -> None:
        reason = reason[:_MAX_REASON_CHARS]
        log.error("record cannot be indexed: kept as a dead letter", id=entry.document_id, reason=reason)
        self._replace(entry, bury(entry, reason))

    def _replace(self, entry: Entry, successor: Entry) -> None:
        """Let the writer of `entry` wait for its successor instead."""
        if not entry.settled:
            entry.settled = True
            del self._unsettled[entry]
            self._unsettled[successor] = None
            self._enqueue([successor])

    def _try_again(self, entries: Sequence[Entry], reason: str, *, stuck: bool) -> None:
        for entry in entries:
            entry.failures += 1
        if stuck:
            self._link.health.refused(f"OpenSearch takes no record now: {reason}"[:_MAX_REASON_CHARS])
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
