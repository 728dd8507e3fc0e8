"""The SQLite file of one journal: its tables and every statement.

Plain synchronous code for one thread. Rows are numbered by the writer, upwards, and deleted by
number: inserts go to the end of the one b-tree, and no index has to be kept.

Every call into SQLite gives the GIL up and has to win it back from a busy event loop, which takes
up to the interpreter's switch interval (5 ms). Rows are therefore written with few statements of
many rows; with ``executemany``, which steps once for each row, 20 rows beside a busy thread took
39 ms instead of 0.2.

The connection is exclusive, so no other process can write the file, and SQLite keeps the index of
the WAL in memory instead of in a third file.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from worker.journal.entry import JournalEntry

COLUMNS = 4
# Nobody else opens these files but a curious operator; waiting longer would hold up the journal.
_BUSY_TIMEOUT_S = 1.0
_CHECKPOINT_PAGES = 1000
_WAL_KEPT_OCTETS = 8 * 1024 * 1024
# Free pages are used again; only what a burst has left is worth giving back.
_FREE_PAGES_KEPT = 1024
_PROBE_OCTETS = 64 * 1024
_PROBE_ROW = 0
_SCHEMA = """
BEGIN;
CREATE TABLE IF NOT EXISTS owner (worker_id TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS entries (
    n INTEGER PRIMARY KEY, document_id TEXT NOT NULL, index_month TEXT NOT NULL, document BLOB NOT NULL
) STRICT;
COMMIT;
"""

# How many rows a statement may have: any usual batch is one statement, and few are prepared; see `_chunks`.
_SIZES = (*range(1, 17), 32, 64, 128)
_INSERTS = {rows: "INSERT OR REPLACE INTO entries VALUES" + ", ".join(["(?, ?, ?, ?)"] * rows) for rows in _SIZES}


class JournalFile:
    """The file that this process writes. Every method may raise sqlite3.Error."""

    def __init__(self, path: Path, worker_id: str) -> None:
        """Open or make the file; raises OSError too."""
        # Documents hold addresses. SQLite gives its -wal file the mode of the file itself.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = _connect(path)
        try:
            self._prepare(worker_id)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, worker_id: str) -> None:
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._db.execute("PRAGMA journal_mode=WAL")
        # A killed process loses nothing that was written, synced or not. NORMAL syncs at checkpoints only: a host
        # that loses power keeps a sound file without its last commits, and their events, never acknowledged, come
        # back and are flagged. FULL would close that gap at the price of an fsync in front of every 250's record.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        self._db.execute(f"PRAGMA journal_size_limit={_WAL_KEPT_OCTETS}")
        # Overwriting what is deleted would cost writes, and the whole file goes once it is empty.
        self._db.execute("PRAGMA secure_delete=OFF")
        self._db.executescript(_SCHEMA)
        with self._transaction():
            self._db.execute("DELETE FROM owner")
            self._db.execute("INSERT INTO owner VALUES (?)", (worker_id,))

    def write(self, cells: Sequence[Any], forgotten: Sequence[int]) -> None:
        """Insert rows, all or none, and then delete others.

        `cells` are the rows' number, document id, index month and document, row after row.
        """
        self._insert(list(_chunks(cells)))
        if forgotten:
            self._db.execute(
                "DELETE FROM entries WHERE n IN (SELECT value FROM json_each(?))", (orjson.dumps(forgotten),)
            )

    def _insert(self, chunks: Sequence[Sequence[Any]]) -> None:
        """One statement is a transaction by itself, and on the disk before the GIL has to be won back once."""
        with self._transaction() if len(chunks) > 1 else contextlib.nullcontext():
            for chunk in chunks:
                self._db.execute(_INSERTS[len(chunk) // COLUMNS], chunk)

    def trim(self) -> None:
        """Give back the room that a burst took; to be called while the journal holds nothing."""
        if self._db.execute("PRAGMA freelist_count").fetchone()[0] > _FREE_PAGES_KEPT:
            # As a script, which is stepped to its end; `execute` would stop after the first page.
            self._db.executescript("PRAGMA incremental_vacuum")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def probe(self) -> None:
        """Find out by writing whether as much as a usual batch can be written."""
        try:
            self._write_probe()
        except sqlite3.OperationalError:
            # Where the WAL can be emptied into the file, that alone makes room. Not first: on a disk with
            # little room it would use that up, and the WAL would be as long as before.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._write_probe()

    def _write_probe(self) -> None:
        # Two transactions: of rows that come and go within one, nothing would be written.
        self._db.execute("INSERT OR REPLACE INTO entries VALUES (?, '', '', zeroblob(?))", (_PROBE_ROW, _PROBE_OCTETS))
        self._db.execute("DELETE FROM entries WHERE n = ?", (_PROBE_ROW,))

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # On some errors, a full disk among them, SQLite has rolled back already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file that was left behind says of itself."""

    worker_id: str
    empty: bool
    newest: int = 0
    """The number that was committed last: the newest entry stays until another is there."""


def read_contents(path: Path) -> Contents:
    """Whose file it is and whether it holds anything; raises sqlite3.Error where it cannot be read."""
    with contextlib.closing(_connect(path)) as db:
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            return Contents("", empty=True)  # its owner died before it had made the tables
        owner = db.execute("SELECT worker_id FROM owner").fetchone()
        # Not counted: that would read every page, and a torn one at the end would hide all before it.
        first = db.execute("SELECT n FROM entries WHERE n > ? LIMIT 1", (_PROBE_ROW,)).fetchone()
        newest = db.execute("SELECT n FROM entries ORDER BY n DESC LIMIT 1").fetchone()
    return Contents(owner[0] if owner else "", empty=first is None, newest=newest[0] if newest else 0)


def read_entries(path: Path, after: int, most: int, most_octets: int) -> tuple[int, list[JournalEntry]]:
    """The next entries in the order they were appended, and the number of the last row; raises sqlite3.Error.

    At most `most`, and none further once their documents exceed `most_octets`.
    """
    found: list[JournalEntry] = []
    last, octets = after, 0
    with contextlib.closing(_connect(path)) as db:
        rows = db.execute("SELECT * FROM entries WHERE n > ? ORDER BY n LIMIT ?", (after, most))
        for number, document_id, index_month, document in rows:
            found.append(JournalEntry(document_id, index_month, document))
            last, octets = number, octets + len(document)
            if octets > most_octets:
                break
    return last, found


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    return db


def _chunks(cells: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut rows into as many as a statement has, the most first."""
    start = 0
    while (left := (len(cells) - start) // COLUMNS) > 0:
        size = max(rows for rows in _SIZES if rows <= left) * COLUMNS
        yield cells[start : start + size]
        start += size
