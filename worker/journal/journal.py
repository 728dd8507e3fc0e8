"""The journal as the event loop sees it: append, forget, what is held, and whether it can be written.

The disk is the thread's, and so is the choice of what goes into one transaction: everything that
has been handed over by then. Under load batches grow by themselves, and a single record never waits
for a timer. Nor does it wait for the loop: between a server's 250 and the disk lies the time in
which a kill makes a second mail, and a loop with hundreds of mails takes a tenth of a second for
one turn. What is forgotten rides along with the next batch, or goes alone after `FORGET_WITHIN_S`; the
newest entry stays until another is there, so that whoever finds the journal knows where its writer's
chain ended.

A disk that fills up stops the journal, but not at once: the records of what is under way go into
room that was reserved for them, and it is `failing` from then on, so that nothing more is taken.

Every entry has a number, given upwards as it arrives and committed in that order, so an entry is
durable exactly when its number is not above the last committed one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from worker.errors import JournalUnavailable
from worker.journal.entry import JournalEntry
from worker.journal.fault import Fault, fault_of, sentence
from worker.journal.file import COLUMNS
from worker.journal.left_behind import Orphan, claim_next
from worker.journal.locks import names_in
from worker.journal.own import OwnJournal
from worker.journal.reserve import RESERVE_OCTETS
from worker.journal.thread import JournalThread

log = structlog.get_logger(__name__)

FORGET_WITHIN_S = 0.2
_FORGET_AT_ONCE = 512
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_WITHOUT_RESERVE = "journal: disk is full: its reserve is used for what is under way"


@dataclass(frozen=True, slots=True)
class _Share:
    """What one call wants done: rows as flat cells, numbers to delete, and who waits for it."""

    cells: list[Any]
    forgotten: list[int]
    written: asyncio.Future[None] | None = None


class Journal:
    """This process' journal, and the way to those that dead processes left in the same folder.

    Memory holds one number for each entry that is held. That is bounded because what is in flight
    is bounded: an event's entries are forgotten before the event is settled.
    """

    def __init__(self, folder: Path, *, worker_id: str, reserve_octets: int = RESERVE_OCTETS) -> None:
        """Take the folder, made (mode 0700) where it is missing; `worker_id` tells whose file it was."""
        self._folder = folder
        self._worker_id = worker_id
        self._reserve_octets = reserve_octets
        self._numbers: dict[str, int] = {}
        self._next = 1
        self._committed = 0
        self._forgotten: list[int] = []
        # The loop appends on the right, the thread takes from the left; a deque needs no lock for that.
        self._handed_over: deque[_Share] = deque()
        self._thread_knows = False
        self._works, self._fails_now = asyncio.Event(), asyncio.Event()
        self._probing = asyncio.Lock()
        self._failing: str | None = None
        self._thread: JournalThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lazily: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Start the journal.

        Raises JournalUnavailable where the folder cannot be used. A full disk is not that: the
        journal opens as `failing`, so that what was left behind can be shipped and make room.
        """
        thread = JournalThread(self._folder, self._worker_id, self._reserve_octets)
        try:
            await thread.call(lambda own: own.open())
        except Exception as error:
            if fault_of(error) is not Fault.FULL:
                thread.stop()
                raise JournalUnavailable(f"journal: {self._folder}: {sentence(error)}") from error
            self._fails(f"journal: {sentence(error)}")
        self._loop = asyncio.get_running_loop()
        self._thread = thread

    async def close(self) -> None:
        """Write what is pending and close; the file is deleted if all was forgotten, else it stays. May be repeated."""
        thread = self._thread
        if thread is None:
            return
        if self._lazily is not None:
            self._lazily.cancel()
        self._hand_over(thread, _Share([], self._forgotten))
        self._thread = None
        await thread.call(lambda _: None)  # behind what was handed over, whose end the loop has heard of then
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
        """Those of `document_ids` whose append was committed and that are not forgotten; from memory."""
        numbers, committed = self._numbers, self._committed
        return frozenset(each for each in document_ids if 0 < numbers.get(each, 0) <= committed)

    async def append(self, entries: Sequence[JournalEntry]) -> None:
        """Return once all entries are committed; of a caller that is cancelled they are kept all the same.

        Raises JournalUnavailable where they could not be written; none of them is held then.
        """
        if not entries:
            return
        thread = self._opened()
        cells: list[Any] = []
        for entry in entries:
            cells += (self._number_for(entry.document_id), entry.document_id, entry.index_month, entry.document)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hand_over(thread, _Share(cells, self._take_forgotten(), written))
        await written

    def forget(self, document_ids: Iterable[str]) -> None:
        """Drop entries: at once from `holds`, soon after from the disk. Unknown ids are fine."""
        for each in document_ids:
            number = self._numbers.pop(each, None)
            if number is not None:
                self._forgotten.append(number)
        if self._thread is None or not self._forgotten:
            return
        if len(self._forgotten) >= _FORGET_AT_ONCE:
            self._forget_now()
        elif self._lazily is None:
            self._lazily = asyncio.get_running_loop().call_later(FORGET_WITHIN_S, self._forget_now)

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
            raise JournalUnavailable("journal: not open")
        return self._thread

    def _number_for(self, document_id: str) -> int:
        """A row for an entry: a new one, or that of the same entry where it is committed."""
        known = self._numbers.get(document_id)
        if known is not None and known <= self._committed:
            return known
        if known is not None:  # its commit may still fail, so it cannot be counted on
            self._forgotten.append(known)
        number, self._next = self._next, self._next + 1
        self._numbers[document_id] = number
        return number

    def _forget_now(self) -> None:
        self._lazily = None
        if self._thread is not None:
            self._hand_over(self._thread, _Share([], self._take_forgotten()))

    def _take_forgotten(self) -> list[int]:
        """What is to be deleted now: all but the newest entry, by which a successor knows where the chain ended."""
        newest = self._next - 1
        taken, self._forgotten = self._forgotten, []
        if newest in taken:
            taken.remove(newest)
            self._forgotten.append(newest)
        return taken

    def _hand_over(self, thread: JournalThread, share: _Share) -> None:
        self._handed_over.append(share)
        if not self._thread_knows:
            self._thread_knows = True
            thread.post(self._write_what_came)

    def _write_what_came(self, own: OwnJournal) -> None:
        """Write all that was handed over, in one transaction; on the thread."""
        self._thread_knows = False  # before it is taken: whatever comes later is announced again
        shares = list(_drained(self._handed_over))
        cells = [cell for share in shares for cell in share.cells]
        forgotten = [number for share in shares for number in share.forgotten]
        error: Exception | None = None
        try:
            if cells or forgotten:
                own.write(cells, forgotten, empty=not self._numbers)
        except Exception as raised:  # noqa: BLE001 - whatever it is, those who wait must be told and the next batch tried
            error = raised
        if shares and self._loop is not None:
            self._loop.call_soon_threadsafe(self._settle, shares, error, own.reserved)

    def _settle(self, shares: Sequence[_Share], error: Exception | None, reserved: bool) -> None:  # noqa: FBT001 - a callback's
        for share in shares:
            if error is None:
                self._written(share, reserved=reserved)
            else:
                self._not_written(share, error)

    def _written(self, share: _Share, *, reserved: bool) -> None:
        if share.cells:
            self._committed = max(self._committed, *share.cells[::COLUMNS])
        if not reserved:
            self._fails(_WITHOUT_RESERVE)
        elif share.cells:
            self._writes()
        if share.written is not None and not share.written.done():
            share.written.set_result(None)

    def _not_written(self, share: _Share, error: Exception) -> None:
        for number, document_id in zip(share.cells[::COLUMNS], share.cells[1::COLUMNS], strict=True):
            if number > self._committed and self._numbers.get(document_id) == number:
                del self._numbers[document_id]
        self._forgotten += share.forgotten
        self._fails(f"journal: {sentence(error)}")
        if share.written is not None and not share.written.done():
            share.written.set_exception(JournalUnavailable(self._failing))

    async def _probe(self) -> bool:
        thread, empty = self._opened(), not self._numbers
        try:
            await thread.call(lambda own: own.probe(empty=empty))
        except Exception as error:  # noqa: BLE001 - whatever it is, the journal goes on failing for it
            self._fails(f"journal: {sentence(error)}")
            return False
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


async def _first_of(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, `seconds` at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _drained(shares: "deque[_Share]") -> Iterator[_Share]:
    """Take what is there, and what comes while it is taken."""
    while shares:
        yield shares.popleft()
