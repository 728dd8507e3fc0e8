"""What the journal's thread has not written yet, in memory that outlives the process: a small file, mapped.

A store into a shared mapping is the kernel's as soon as it is made (mmap(2), MAP_SHARED), so what is
noted here a kill does not take away, and nothing is waited for: no thread, no disk. A host that loses
power loses it, as it loses the journal's last commits.

Two halves are filled in turn. One is used again when everything in it is committed or forgotten; where
neither has room, entries go to the thread alone, as if this were not here. A record is its length, a
checksum and itself; zero ends a half.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from worker.journal.entry import JournalEntry

HALF_OCTETS = 512 * 1024
_HEAD = struct.Struct("<II")  # octets of what follows, its CRC-32
_NAMES = struct.Struct("<QHH")  # the entry's number, octets of its id and of its month
_END = bytes(_HEAD.size)


class Ahead:
    """The mapping of one journal; used by the loop alone once it is made."""

    def __init__(self, path: Path) -> None:
        """Make the file; raises OSError, ENOSPC where the disk has no room for it."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, 2 * HALF_OCTETS)  # a store into a hole of a full disk would be a SIGBUS
            self._pages = mmap.mmap(handle, 2 * HALF_OCTETS)
        finally:
            os.close(handle)
        self._pages[:] = bytes(2 * HALF_OCTETS)  # so that no first store waits for the disk
        self._half = 0
        self._at = 0
        self._newest = [0, 0]
        self.full_halves = 0
        """How often a half was full: what it holds has to be committed before the other one is."""

    def note(self, number: int, entry: JournalEntry, committed: int) -> bool:
        """Keep an entry until its number is committed, and return whether there was room; numbers go upwards."""
        record = _packed(number, entry)
        end = self._at + len(record)
        if end > HALF_OCTETS:
            other = 1 - self._half
            if len(record) > HALF_OCTETS or self._newest[other] > committed:
                return False
            self._half, self._at, end = other, 0, len(record)
            self.full_halves += 1
        start = self._half * HALF_OCTETS + self._at
        self._pages[start : start + len(record)] = record
        self._at = end - len(_END)
        self._newest[self._half] = number
        return True

    def settle(self, committed: int) -> None:
        """Begin anew where everything is committed."""
        if self._at and max(self._newest) <= committed:
            for half in (0, 1):
                self._pages[half * HALF_OCTETS : half * HALF_OCTETS + len(_END)] = _END
            self._half = self._at = 0

    def close(self) -> None:
        """Let go of the mapping; the file stays."""
        self._pages.close()


def read_ahead(path: Path, after: int) -> list[JournalEntry]:
    """What a dead worker noted with numbers above `after`, in their order, where there is a file; raises OSError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    halves = (content[:HALF_OCTETS], content[HALF_OCTETS:])
    return [entry for number, entry in sorted(each for half in halves for each in _unpacked(half)) if number > after]


def _packed(number: int, entry: JournalEntry) -> bytes:
    document_id, month = entry.document_id.encode(), entry.index_month.encode()
    names = _NAMES.pack(number, len(document_id), len(month)) + document_id + month
    checksum = zlib.crc32(entry.document, zlib.crc32(names))  # that of both together
    return b"".join((_HEAD.pack(len(names) + len(entry.document), checksum), names, entry.document, _END))


def _unpacked(half: bytes) -> Iterator[tuple[int, JournalEntry]]:
    """The records up to the end, or to one that a kill has cut short."""
    at = 0
    while at + _HEAD.size <= len(half):
        octets, checksum = _HEAD.unpack_from(half, at)
        body = half[at + _HEAD.size : at + _HEAD.size + octets]
        if octets == 0 or len(body) < octets or zlib.crc32(body) != checksum:
            return
        number, of_id, of_month = _NAMES.unpack_from(body)
        document_id, month = _NAMES.size + of_id, _NAMES.size + of_id + of_month
        texts = body[_NAMES.size : document_id].decode(), body[document_id:month].decode()
        yield number, JournalEntry(*texts, body[month:])
        at += _HEAD.size + octets
