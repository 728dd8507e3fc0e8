"""The journal that this process writes: claimed, made, made again where it broke, removed when empty.

Where the disk is full, the reserve makes room for what is under way (see `reserve`).

Plain synchronous code for the journal's thread; every method may raise OSError or sqlite3.Error.
"""

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from worker.journal.ahead import Ahead
from worker.journal.fault import Fault, fault_of
from worker.journal.file import JournalFile
from worker.journal.locks import Claim, claim_new
from worker.journal.reserve import RESERVE_OCTETS, Reserve

log = structlog.get_logger(__name__)

# mmap(2) of a file system without shared mappings, some network and FUSE ones; and fallocate(2) where libc makes do
# with what the system offers.
_CANNOT_MAP = frozenset({errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class OwnJournal:
    """At most one claim, one open file and one reserve; all are made when they are first needed."""

    def __init__(self, folder: Path, worker_id: str, reserve_octets: int = RESERVE_OCTETS) -> None:
        """Touch nothing yet."""
        self._folder = folder
        self._worker_id = worker_id
        self._reserve_octets = reserve_octets
        self._claim: Claim | None = None
        self._file: JournalFile | None = None
        self._reserve: Reserve | None = None
        self.ahead: Ahead | None = None
        self._maps = True

    @property
    def reserved(self) -> bool:
        """False while a disk that fills up would leave no room for what is under way."""
        return self._reserve is not None and self._reserve.kept

    def open(self) -> Ahead | None:
        """Make the folder, the claim, the file and the reserve where they are missing."""
        self._opened()
        if self._reserve is not None:
            self._reserve.keep()
        return self.ahead

    def write(self, cells: Sequence[Any], forgotten: Sequence[int], *, empty: bool) -> None:
        """Write a batch (see `JournalFile.write`), into the reserve's room where there is no other.

        `empty`: nothing is held after it.
        """
        try:
            self._write(cells, forgotten, empty=empty)
        except Exception as error:
            if fault_of(error) is not Fault.FULL or self._reserve is None or not self._reserve.give_up():
                raise
            log.warning("disk is full: the journal's reserve is used for what is under way", folder=str(self._folder))
            self._write(cells, forgotten, empty=empty)

    def probe(self, *, empty: bool) -> None:
        """Write for the sake of knowing whether it works; `empty`: nothing is held, and the file may start over.

        Nothing works without the reserve: what is taken without it might not be kept.
        """
        if empty and self._claim is not None:
            self._start_over(self._claim)
        try:
            self.open()
            self._opened().probe()
        except Exception as error:
            self._give_up_broken(error)
            raise

    def close(self, *, empty: bool) -> None:
        """Close the file; it stays for the next worker unless it is empty."""
        claim, self._claim = self._claim, None
        if self._reserve is not None:
            self._reserve.give_up()  # what is left behind takes no more room than it needs
        if claim is not None and empty:
            claim.remove()
        self._close_file()
        if self.ahead is not None:
            self.ahead.close()
        if claim is not None:
            claim.release()

    def _opened(self) -> JournalFile:
        if self._claim is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._claim = claim_new(self._folder)
            self._reserve = Reserve(self._claim.reserve, self._reserve_octets)
        if self.ahead is None and self._maps:
            self.ahead = self._mapped(self._claim)
        if self._file is None:
            self._file = JournalFile(self._claim.database, self._worker_id)
        return self._file

    def _mapped(self, claim: Claim) -> Ahead | None:
        try:
            return Ahead(claim.ahead)
        except OSError as error:
            if error.errno not in _CANNOT_MAP:
                raise
        self._maps = False  # the journal works without it
        claim.ahead.unlink(missing_ok=True)
        log.warning(
            "journal: this file system maps no files: a kill within milliseconds of a 250 leaves the mail unrecorded",
            folder=str(self._folder),
        )
        return None

    def _write(self, cells: Sequence[Any], forgotten: Sequence[int], *, empty: bool) -> None:
        try:
            file = self._opened()
            file.write(cells, forgotten)
            if empty:
                file.trim()
        except Exception as error:
            self._give_up_broken(error)
            raise

    def _start_over(self, claim: Claim) -> None:
        # On a disk that is full of the journal itself there is no room for the deletes either.
        claim.clear()
        self._close_file()

    def _give_up_broken(self, error: Exception) -> None:
        if self._claim is None or fault_of(error) is not Fault.BROKEN:
            return
        claim, self._claim, self._reserve, self.ahead = self._claim, None, None, None
        self._close_file()
        log.error("journal is broken and was set aside", path=str(claim.set_aside()), error=str(error))

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
