"""The journal as the event loop sees it: append, forget, what is held, and whether it can be written.

An entry is kept as soon as it stands in memory that outlives the process (see `ahead`): that is in the
call itself, and nobody waits for a disk or a thread. Nearly every entry is forgotten a tenth of a second
later, when the audit has it. Only what is held for longer is worth the file: it is written every
`WRITE_WITHIN_S`, and when half of that memory is full. Where there is no such memory, or no room in it,
an entry is kept once it is committed: the thread gets it at once, and what comes meanwhile goes together.

The newest entry stays until another is there, so that whoever finds the journal knows where its
writer's chain ended. Of what is forgotten and was never written, whoever finds the journal may ship
some again, more of it where the file is torn: the audit has it already, and says so.

A disk that fills up stops the journal, but not at once: the records of what is under way go into
room that was reserved for them, and it is `failing` from then on, so that nothing more is taken.

Every entry has a number, given upwards as it arrives, and one batch at a time is written, so everything
up to the number at which a batch was put together is in the file, or forgotten, once that is committed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from worker.errors import JournalUnavailable
from worker.journal.ahead import Ahead
from worker.journal.entry import JournalEntry
from worker.journal.fault import Fault, fault_of, sentence
from worker.journal.left_behind import Orphan, claim_next
from worker.journal.locks import names_in
from worker.journal.own import OwnJournal
from worker.journal.reserve import RESERVE_OCTETS
from worker.journal.thread import JournalThread

log = structlog.get_logger(__name__)

WRITE_WITHIN_S = 0.25
_FORGET_AT_ONCE = 512
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_WITHOUT_RESERVE = "journal: disk is full: its reserve is used for what is under way"


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is to be written at once: rows by number, numbers to delete, and who waits for the rows.

    Once it is, everything up to `upto` is in the file or forgotten.
    """

    rows: dict[int, JournalEntry]
    forgotten: list[int]
    upto: int
    waiting: list[asyncio.Future[None]]


class Journal:
    """This process' journal, and the way to those that dead processes left in the same folder.

    Memory holds one number for each entry that is held, and the entry until it is written. That is bounded
    because what is in flight is bounded: an event's entries are forgotten before the event is settled.
    """

    def __init__(self, folder: Path, *, worker_id: str, reserve_octets: int = RESERVE_OCTETS) -> None:
        """Take the folder, made (mode 0700) where it is missing; `worker_id` tells whose file it was."""
        self._folder = folder
        self._worker_id = worker_id
        self._reserve_octets = reserve_octets
        self._numbers: dict[str, int] = {}
        self._next = 1
        self._committed = 0
        self._rows: dict[int, JournalEntry] = {}  # not handed over yet
        self._unnoted: set[int] = set()  # kept by their commit alone
        self._waiting: list[asyncio.Future[None]] = []
        self._forgotten: list[int] = []
        self._writing = False
        self._full_halves = 0
        self._works, self._fails_now = asyncio.Event(), asyncio.Event()
        self._probing = asyncio.Lock()
        self._failing: str | None = None
        self._ahead: Ahead | None = None
        self._thread: JournalThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._soon: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Start the journal.

        Raises JournalUnavailable where the folder cannot be used. A full disk is not that: the
        journal opens as `failing`, so that what was left behind can be shipped and make room.
        """
        thread = JournalThread(self._folder, self._worker_id, self._reserve_octets)
        try:
            self._ahead = await thread.call(lambda own: own.open())
        except Exception as error:
            if fault_of(error) is not Fault.FULL:
                thread.stop()
                raise JournalUnavailable(f"journal: {self._folder}: {sentence(error)}") from error
            self._fails(f"journal: {sentence(error)}")
        self._loop = asyncio.get_running_loop()
        self._thread = thread

    async def close(self) -> None:
        """Write what is pending and close; the file is deleted if all was forgotten, else it stays. May be repeated."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._soon is not None:
            self._soon.cancel()
        await thread.call(lambda _: None)  # behind the batch that is being written: the loop has heard of its end then
        thread.post(partial(self._write, self._batch(self._forgotten)))
        await thread.call(lambda _: None)
        empty = not self._numbers
        try:
            await thread.call(lambda own: own.close(empty=empty))
        except Exception:
            # The file stays for the next start, and that is all that matters now.
            log.exception("journal could not be closed", folder=str(self._folder))
        thread.stop()

    @property
    def failing(self) -> str | None:
        """Why no more should be taken, as one line: it cannot be written, or has no reserve; None where all is well."""
        return self._failing

    async def fails(self) -> str:
        """Return why, as soon as the journal is failing."""
        while self._failing is None:
            await self._fails_now.wait()
        return self._failing

    def holds(self, document_ids: Iterable[str]) -> frozenset[str]:
        """Those of `document_ids` that are kept and not forgotten; from memory."""
        return frozenset(each for each in document_ids if self._keeps(self._numbers.get(each, 0)))

    def append(self, entries: Sequence[JournalEntry]) -> asyncio.Future[None]:
        """Take entries in the call itself; the future is done once all are kept, mostly at once.

        It raises JournalUnavailable where some could not be: those are not held then.
        """
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._thread is None:
            kept.set_exception(_not_open())
        elif self._note_all(entries):
            kept.set_result(None)
            self._write_soon()
        else:
            self._waiting.append(kept)
            self._write_now()
        return kept

    def forget(self, document_ids: Iterable[str]) -> None:
        """Drop entries: at once from `holds`, soon after from the disk. Unknown ids are fine."""
        for each in document_ids:
            number = self._numbers.pop(each, None)
            if number is not None:
                self._forgotten.append(number)
        if len(self._forgotten) >= _FORGET_AT_ONCE:
            self._write_now()
        else:
            self._write_soon()

    async def writable(self) -> None:
        """Return once the journal can be written, at once if it can; meanwhile try, less and less often.

        Raises JournalUnavailable if the journal is closed.
        """
        async with self._probing:
            pause = _FIRST_PAUSE_S
            while self._failing is not None and not await self._probe():
                await _first_of(self._works, pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def left_behind(self) -> AsyncIterator[Orphan]:
        """Claim and yield, one after the other, the journals in this folder whose owners are dead.

        None that another process has claimed. One that is not `done` when the next is asked for
        is left for the next start. Broken ones are set aside and logged, empty ones removed.
        """
        thread = self._opened()
        try:
            names = await thread.call(lambda _: names_in(self._folder))
        except OSError as error:
            raise JournalUnavailable(f"journal: {self._folder}: {sentence(error)}") from error
        for name in names:
            orphan = await claim_next(thread, self._folder, name)
            if orphan is None:
                continue
            try:
                yield orphan
            finally:
                orphan.release()

    def _opened(self) -> JournalThread:
        if self._thread is None:
            raise _not_open()
        return self._thread

    def _keeps(self, number: int) -> bool:
        return number > 0 and (number <= self._committed or number not in self._unnoted)

    def _note_all(self, entries: Sequence[JournalEntry]) -> bool:
        """Take entries; whether all are kept already."""
        kept = True
        for entry in entries:
            kept = self._note(entry) and kept
        return kept

    def _note(self, entry: JournalEntry) -> bool:
        known = self._numbers.get(entry.document_id, 0)
        if 0 < known <= self._committed:  # its row is replaced
            self._rows[known] = entry
            self._unnoted.add(known)
            return False
        if known:
            self._forgotten.append(known)
        number, self._next = self._next, self._next + 1
        self._numbers[entry.document_id] = number
        self._rows[number] = entry
        if self._ahead is not None and self._ahead.note(number, entry, self._committed):
            return True
        self._unnoted.add(number)
        return False

    def _write_soon(self) -> None:
        """Write within `WRITE_WITHIN_S`; now, where half of the mapped memory is full."""
        if self._ahead is not None and self._ahead.full_halves != self._full_halves:
            self._full_halves = self._ahead.full_halves
            self._write_now()
        elif self._soon is None and self._thread is not None and self._something_to_write():
            self._soon = asyncio.get_running_loop().call_later(WRITE_WITHIN_S, self._write_at_last)

    def _something_to_write(self) -> bool:
        newest = self._next - 1
        return bool(self._rows) or any(each != newest for each in self._forgotten)

    def _write_at_last(self) -> None:
        self._soon = None
        self._write_now()

    def _write_now(self) -> None:
        """Write what there is, unless something is being written: its end leads here again."""
        if self._thread is None or self._writing:
            return
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._writing = True
        self._thread.post(partial(self._write, self._batch(self._to_forget())))

    def _to_forget(self) -> list[int]:
        """What is to be deleted now: all but the newest entry, by which a successor knows where the chain ended."""
        newest = self._next - 1
        taken, self._forgotten = self._forgotten, []
        if newest in taken:
            taken.remove(newest)
            self._forgotten.append(newest)
        return taken

    def _batch(self, forgotten: Sequence[int]) -> _Batch:
        """Take what is to be written; what is forgotten before it was, never is."""
        rows, self._rows = self._rows, {}
        written = [each for each in forgotten if rows.pop(each, None) is None or each <= self._committed]
        self._unnoted.difference_update(forgotten)
        waiting, self._waiting = self._waiting, []
        return _Batch(rows, written, self._next - 1, waiting)

    def _write(self, batch: _Batch, own: OwnJournal) -> None:
        """Write one batch; on the thread."""
        cells = [cell for number, entry in batch.rows.items() for cell in (number, *entry)]
        error: Exception | None = None
        try:
            if cells or batch.forgotten:
                own.write(cells, batch.forgotten, empty=not self._numbers)
        except Exception as raised:  # noqa: BLE001 - whatever it is, those who wait must be told and the next batch tried
            error = raised
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._settle, batch, error, own.reserved, own.ahead)

    def _settle(
        self,
        batch: _Batch,
        error: Exception | None,
        reserved: bool,  # noqa: FBT001 - a callback's
        ahead: Ahead | None,
    ) -> None:
        self._writing = False
        if error is None:
            self._written(batch, reserved=reserved)
        else:
            self._not_written(batch, error)
        if ahead is not self._ahead:  # the file was set aside, and what it was ahead of with it
            self._ahead, self._full_halves = ahead, 0
            self._unnoted.update(self._rows)
        if ahead is not None:
            ahead.settle(self._committed)
        if self._waiting:
            self._write_now()
        else:
            self._write_soon()

    def _written(self, batch: _Batch, *, reserved: bool) -> None:
        self._committed = batch.upto
        self._unnoted.difference_update(batch.rows)
        if not reserved:
            self._fails(_WITHOUT_RESERVE)
        elif batch.rows:
            self._writes()
        for each in batch.waiting:
            if not each.done():
                each.set_result(None)

    def _not_written(self, batch: _Batch, error: Exception) -> None:
        """Keep for the next batch what was noted; whoever waits for the rest hears that it is not kept."""
        for number, entry in batch.rows.items():
            if number in self._unnoted and number > self._committed and self._numbers.get(entry.document_id) == number:
                del self._numbers[entry.document_id]
        self._rows = {n: entry for n, entry in batch.rows.items() if n not in self._unnoted} | self._rows
        self._unnoted.difference_update(batch.rows)
        self._forgotten += batch.forgotten
        self._fails(f"journal: {sentence(error)}")
        for each in batch.waiting:
            if not each.done():
                each.set_exception(JournalUnavailable(self._failing))

    async def _probe(self) -> bool:
        thread, empty, newest = self._opened(), not self._numbers, self._next - 1
        try:
            await thread.call(lambda own: own.probe(empty=empty))
        except Exception as error:  # noqa: BLE001 - whatever it is, the journal goes on failing for it
            self._fails(f"journal: {sentence(error)}")
            return False
        if empty and self._ahead is not None:  # the file may have begun anew, without the number of what was forgotten
            self._ahead.settle(newest)
        self._writes()
        return True

    def _fails(self, reason: str) -> None:
        if self._failing is None:
            log.error("journal cannot be written", folder=str(self._folder), error=reason)
        self._failing = reason
        self._works.clear()
        self._fails_now.set()

    def _writes(self) -> None:
        if self._failing is not None:
            log.info("journal can be written again", folder=str(self._folder))
        self._failing = None
        self._works.set()
        self._fails_now.clear()


def _not_open() -> JournalUnavailable:
    return JournalUnavailable("journal: not open")


async def _first_of(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, `seconds` at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
