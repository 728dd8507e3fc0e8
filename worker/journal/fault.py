"""What an error of the disk or of SQLite means for a journal, decided by its code."""

import errno
import sqlite3
from enum import Enum, auto

_PRIMARY_CODE = 0xFF


class Fault(Enum):
    """What is to be done about it."""

    FULL = auto()
    """Wait for room."""
    BROKEN = auto()
    """The file is torn, or no journal: set it aside."""
    IN_USE = auto()
    """Somebody else has it: leave it alone."""
    OTHER = auto()
    """Not now; the file may be sound."""


_BY_ERRNO = {errno.ENOSPC: Fault.FULL, errno.EDQUOT: Fault.FULL}
_BY_CODE = {
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_NOTADB: Fault.BROKEN,
    sqlite3.SQLITE_CORRUPT: Fault.BROKEN,
    sqlite3.SQLITE_FORMAT: Fault.BROKEN,
    sqlite3.SQLITE_ERROR: Fault.BROKEN,  # a sound database without our tables or columns
    sqlite3.SQLITE_BUSY: Fault.IN_USE,
    sqlite3.SQLITE_LOCKED: Fault.IN_USE,
}


def fault_of(error: Exception) -> Fault:
    """Classify an OSError or sqlite3.Error; anything else is `OTHER`."""
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, Fault.OTHER)
    code = getattr(error, "sqlite_errorcode", None)
    return Fault.OTHER if code is None else _BY_CODE.get(code & _PRIMARY_CODE, Fault.OTHER)


def sentence(error: Exception) -> str:
    """One line for an operator: what is wrong, then the system's own words."""
    words = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    match fault_of(error):
        case Fault.FULL:
            return f"disk is full: {words}"
        case Fault.BROKEN:
            return f"file is broken: {words}"
        case Fault.IN_USE:
            return f"file is in use by another program: {words}"
        case Fault.OTHER:
            return f"cannot be written: {words}"
