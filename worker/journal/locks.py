"""Who owns which journal: names of files, and locks that die with their process.

A lock counts only while its file still stands at its path: between opening it and locking it,
another process may have taken it, finished with the journal and removed both. Whoever makes a new
journal starts over with another name then; whoever looks for old ones has nothing left to do.
"""

import errno
import fcntl
import os
import secrets
import weakref
from io import FileIO
from pathlib import Path

_PREFIX = "journal-"
_NAME_OCTETS = 16
_BROKEN = ".broken"


class Claim:
    """The lock of one journal, held until `release`, or until this process ends."""

    def __init__(self, folder: Path, name: str, handle: FileIO) -> None:
        """Take over `handle`, which is locked."""
        self.database = folder / f"{name}.db"
        self.reserve = folder / f"{name}.reserve"
        self.ahead = folder / f"{name}.ahead"
        self._lock = _lock_path(folder, name)
        self._handle = handle
        _claims.add(self)

    @property
    def _beside(self) -> tuple[Path, ...]:
        return tuple(self.database.with_name(self.database.name + suffix) for suffix in ("-wal", "-shm", "-journal"))

    def clear(self) -> None:
        """Remove the database, if it is there, and keep the lock."""
        for path in (self.database, *self._beside):  # without its WAL a database would be an older state of itself
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the journal and let go; the lock's file goes last, so that whoever comes next can finish this."""
        self.clear()
        self._let_go()

    def set_aside(self) -> Path:
        """Keep a broken database under another name, with its WAL, for whoever can read it; let go."""
        kept = self.database.with_name(self.database.name + _BROKEN)
        for path in (self.ahead, *self._beside, self.database):
            if path.exists():
                path.rename(path.with_name(path.name + _BROKEN))
        self._let_go()
        return kept

    def _let_go(self) -> None:
        self.reserve.unlink(missing_ok=True)
        self.ahead.unlink(missing_ok=True)
        self._lock.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of the lock, also twice; the journal stays."""
        self._handle.close()


_claims: weakref.WeakSet[Claim] = weakref.WeakSet()


def _release_in_child() -> None:
    # A forked child shares its parent's locks: one that outlives the parent would keep the journal from being shipped.
    for claim in _claims:
        claim.release()


os.register_at_fork(after_in_child=_release_in_child)


def claim_new(folder: Path) -> Claim:
    """Claim a journal that nobody has had before; raises OSError."""
    while True:
        name = _PREFIX + secrets.token_hex(_NAME_OCTETS)
        claim = _locked(folder, name, os.O_CREAT | os.O_EXCL)
        if claim is not None:
            return claim


def claim_left_behind(folder: Path, name: str) -> Claim | None:
    """Claim a journal whose owner is dead; None where one lives, or another process was first. Raises OSError."""
    return _locked(folder, name, os.O_CREAT)


def names_in(folder: Path) -> list[str]:
    """The names of all journals, their owners alive or dead; raises OSError."""
    return sorted({path.stem for ending in ("db", "lock") for path in folder.glob(f"{_PREFIX}*.{ending}")})


def _locked(folder: Path, name: str, how: int) -> Claim | None:
    path = _lock_path(folder, name)
    handle = FileIO(os.open(path, os.O_RDWR | os.O_CLOEXEC | how, 0o600), "r+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _stands_at(path, handle):
            return Claim(folder, name, handle)
    except BlockingIOError:
        handle.close()
        return None
    except OSError:
        handle.close()
        raise
    handle.close()
    return None


def _stands_at(path: Path, handle: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise


def _lock_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"
