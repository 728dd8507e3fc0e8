"""Room on the disk that is kept for the moment when there is none: a file of the journal's that only takes up space.

When a disk is full, mails are under way whose servers may have said 250 already, or are about to.
Their records must be kept all the same, for without them a kill makes second mails. So the reserve
is given up for them, and no further event is taken until there is room for a new one.
"""

import contextlib
import errno
import os
from pathlib import Path

RESERVE_OCTETS = 8 * 1024 * 1024
"""Room for the records of a full prefetch, a few KiB each with SQLite's pages, several times over."""

_CHUNK_OCTETS = 64 * 1024


class Reserve:
    """One file; every method may raise OSError."""

    def __init__(self, path: Path, octets: int) -> None:
        """Touch nothing yet."""
        self._path = path
        self._octets = octets
        self.kept = False

    def keep(self) -> None:
        """Take the room, where it is not taken yet; raises OSError (ENOSPC) where that would leave none."""
        if self.kept:
            return
        # Asked first: to try it out would fill the disk under others who have a journal on it.
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < self._octets:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            self._write()
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        self.kept = True

    def give_up(self) -> bool:
        """Give the room back; False where there is nothing to give."""
        given, self.kept = self.kept, False
        if given:
            self._path.unlink(missing_ok=True)
        return given

    def _write(self) -> None:
        # Written, and at random: of a sparse file, or of zeros on a disk that compresses, no room would come back.
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with contextlib.closing(os.fdopen(handle, "wb")) as file:
            for start in range(0, self._octets, _CHUNK_OCTETS):
                file.write(os.urandom(min(_CHUNK_OCTETS, self._octets - start)))
