"""The journal that this process writes: claimed, made, made again where it broke, removed when empty.

Plain synchronous code for the journal's thread; every method may raise OSError or sqlite3.Error.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from worker.journal.fault import Fault, fault_of
from worker.journal.file import JournalFile
from worker.journal.locks import Claim, claim_new

log = structlog.get_logger(__name__)


class OwnJournal:
    """At most one claim and one open file; both are made when they are first needed."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        """Touch nothing yet."""
        self._folder = folder
        self._worker_id = worker_id
        self._claim: Claim | None = None
        self._file: JournalFile | None = None

    def open(self) -> JournalFile:
        """Return the open file; makes the folder, the claim and the file where they are missing."""
        if self._claim is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._claim = claim_new(self._folder)
        if self._file is None:
            self._file = JournalFile(self._claim.database, self._worker_id)
        return self._file

    def write(self, cells: Sequence[Any], forgotten: Sequence[int], *, empty: bool) -> None:
        """Write a batch (see `JournalFile.write`); `empty`: nothing is held after it."""
        try:
            file = self.open()
            file.write(cells, forgotten)
            if empty:
                file.trim()
        except Exception as error:
            self._give_up_broken(error)
            raise

    def probe(self, *, empty: bool) -> None:
        """Write for the sake of knowing whether it works; `empty`: nothing is held, and the file may start over."""
        if empty and self._claim is not None:
            self._start_over(self._claim)
        try:
            self.open().probe()
        except Exception as error:
            self._give_up_broken(error)
            raise

    def close(self, *, empty: bool) -> None:
        """Close the file; it stays for the next worker unless it is empty."""
        claim, self._claim = self._claim, None
        if claim is not None and empty:
            claim.remove()
        self._close_file()
        if claim is not None:
            claim.release()

    def _start_over(self, claim: Claim) -> None:
        # On a disk that is full of the journal itself there is no room for the deletes either.
        claim.clear()
        self._close_file()

    def _give_up_broken(self, error: Exception) -> None:
        if self._claim is None or fault_of(error) is not Fault.BROKEN:
            return
        claim, self._claim = self._claim, None
        self._close_file()
        log.error("journal is broken and was set aside", path=str(claim.set_aside()), error=str(error))

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
