"""Journals whose owners are dead: claimed by one, shipped in bounded batches, then removed.

Shipping may be cut short at any moment. The file stays whole until everything in it was written,
and what is written twice has the same id, which the audit store refuses as already there.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from worker.errors import JournalUnavailable
from worker.journal.ahead import read_ahead
from worker.journal.entry import JournalEntry
from worker.journal.fault import Fault, fault_of, sentence
from worker.journal.file import Contents, read_contents, read_entries
from worker.journal.locks import Claim, claim_left_behind
from worker.journal.thread import JournalThread

log = structlog.get_logger(__name__)

BATCH_ENTRIES = 500
_BATCH_OCTETS = 4 * 1024 * 1024

Write = Callable[[Sequence[JournalEntry]], Awaitable[None]]
"""Returns once every entry is durable elsewhere."""


class Orphan:
    """One journal of a dead worker, claimed: no other process touches it until it is done or released."""

    def __init__(self, thread: JournalThread, claim: Claim, found: "_Found") -> None:
        """Take over the claim, and what a first look found."""
        self._thread = thread
        self._claim = claim
        self.worker_id = found.contents.worker_id
        self._no_more_rows = found.contents.empty
        self._ahead = found.ahead
        self._fault = found.fault
        self._read_up_to = 0

    async def read(self) -> Sequence[JournalEntry]:
        """The next entries in the order they were appended, bounded in number and octets; empty after the last.

        Raises JournalUnavailable where the file is torn (it was set aside then) or cannot be read
        now (it stays), after all that can be read.
        """
        rows = () if self._no_more_rows else await self._rows()
        if rows:
            return rows
        found, self._ahead = self._ahead[:BATCH_ENTRIES], self._ahead[BATCH_ENTRIES:]
        if not found and self._fault is not None:
            await self._thread.call(partial(_after_failed_reading, self._claim, self._fault))
            msg = f"journal: {self._claim.database}: {sentence(self._fault)}"
            raise JournalUnavailable(msg) from self._fault
        return found

    async def _rows(self) -> Sequence[JournalEntry]:
        path, after = self._claim.database, self._read_up_to
        rows: Sequence[JournalEntry] = ()
        try:
            self._read_up_to, rows = await self._thread.call(
                lambda _: read_entries(path, after, BATCH_ENTRIES, _BATCH_OCTETS)
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, what is ahead of the file can be read
            self._fault = error
        self._no_more_rows = not rows
        return rows

    async def done(self) -> None:
        """Remove the file: all of its entries are durable elsewhere."""
        await self._thread.call(lambda _: self._claim.remove())

    def release(self) -> None:
        """Let go of what is not done, for the next start; nothing after `done`."""
        self._claim.release()


class LeftBehind(Protocol):
    """What knows of the orphans: the journal."""

    def left_behind(self) -> AsyncIterator[Orphan]:
        """Yield them, claimed, one after the other."""
        ...


async def claim_next(thread: JournalThread, folder: Path, name: str) -> Orphan | None:
    """Claim the journal of that name if its owner is dead and it holds anything to ship; never raises for its sake."""
    claimed = await thread.call(lambda _: _claim(folder, name))
    return Orphan(thread, *claimed) if claimed else None


async def ship_left_behind(journal: LeftBehind, write: Write) -> int:
    """Hand everything that dead workers left to `write`, and remove their files; returns the number of entries.

    A file that cannot be read is logged and left, or set aside where it is torn, after what could
    be read was written. What `write` raises goes through; the file at hand stays then.
    """
    shipped = 0
    async with aclosing(journal.left_behind()) as orphans:  # type: ignore[type-var]
        async for orphan in orphans:
            shipped += await _ship(orphan, write)
    return shipped


async def _ship(orphan: Orphan, write: Write) -> int:
    shipped = 0
    while batch := await _read(orphan):
        await write(batch)
        shipped += len(batch)
    if batch is not None:
        await orphan.done()
    log.info("journal of a dead worker was shipped", worker=orphan.worker_id, entries=shipped, whole=batch is not None)
    return shipped


async def _read(orphan: Orphan) -> Sequence[JournalEntry] | None:
    """The next batch, an empty one at the end, None where the rest cannot be read."""
    try:
        return await orphan.read()
    except JournalUnavailable as error:
        log.error("journal of a dead worker cannot be read", error=str(error))  # noqa: TRY400 - the text says it all
        return None


@dataclass(frozen=True, slots=True)
class _Found:
    """What a first look at a journal found: rows, entries ahead of them, or why the file cannot be read."""

    contents: Contents
    ahead: Sequence[JournalEntry]
    fault: Exception | None = None


def _claim(folder: Path, name: str) -> tuple[Claim, _Found] | None:
    try:
        claim = claim_left_behind(folder, name)
    except OSError as error:
        log.error("journal cannot be claimed", journal=name, error=sentence(error))  # noqa: TRY400 - the text says it all
        return None
    if claim is None:
        return None
    try:
        found = _look_at(claim)
        if found is None:
            claim.remove()
    except Exception as error:  # noqa: BLE001 - no file may keep a worker from starting
        _after_failed_reading(claim, error)
        return None
    return (claim, found) if found else None


def _look_at(claim: Claim) -> _Found | None:
    """What there is to ship, None for nothing; raises what reading raises where nothing at all can be read."""
    contents, fault = Contents("", empty=True), None
    try:
        if claim.database.exists():
            contents = read_contents(claim.database)
    except Exception as error:  # noqa: BLE001 - what is ahead of the file can be read all the same
        fault = error
    ahead = read_ahead(claim.ahead, contents.newest)
    if fault is not None and not ahead:
        raise fault
    return _Found(contents, ahead, fault) if ahead or not contents.empty else None


def _after_failed_reading(claim: Claim, error: Exception, _: object = None) -> None:
    """Set a torn file aside; anything else stays, for the next start."""
    if fault_of(error) is not Fault.BROKEN:
        log.error("journal is left where it is", path=str(claim.database), error=sentence(error))
        claim.release()
        return
    try:
        log.error("journal is broken and was set aside", path=str(claim.set_aside()), error=sentence(error))
    except OSError:
        log.exception("journal is broken and could not be renamed", path=str(claim.database))
        claim.release()
