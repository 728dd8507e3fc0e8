"""Reading and rewriting, in the embedded audit's file, whatever may name an address; the core decides what it becomes.

The embedded form may run meanwhile: each page is one short transaction. What is overwritten is overwritten with
zeros (`secure_delete`), and the write-ahead log, which still has it, is cut at the end.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import orjson

from worker.control.forgetting import PAGE, Document, Found, Page
from worker.errors import AuditUnavailable

T = TypeVar("T")

_BUSY_S = 10.0
_PAGE = """
    SELECT rowid, document FROM record
    WHERE rowid > ? AND (recipient = ? OR instr(lower(CAST(document AS TEXT)), ?) > 0)
    ORDER BY rowid LIMIT ?"""
_REPLACE = "UPDATE record SET document = ?, recipient = ? WHERE rowid = ? AND document = ?"


class _Place(NamedTuple):
    row: int
    document: bytes


class SqliteForgetting:
    """Fulfils `worker.control.forgetting.Forgetting`."""

    def __init__(self, path: Path) -> None:
        """Prepare; the file is there already."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, "forgetting-sqlite")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> Self:
        """Open the file. Raises AuditUnavailable."""
        self._connection = await self._in_thread(lambda: _connect(self._path))
        return self

    async def page(self, address: str, after: int | None) -> Page:
        """See `Forgetting.page`."""
        lowered = address.lower()
        spelt = json.dumps(lowered, ensure_ascii=False)[1:-1]
        values = (after or 0, lowered, spelt, PAGE)
        rows = await self._run(lambda c: c.execute(_PAGE, values).fetchall())
        found = [Found(_Place(row, document), orjson.loads(document)) for row, document in rows]
        return Page(found, rows[-1][0] if len(rows) == PAGE else None)

    async def replace(self, changes: Sequence[tuple[Found, Document]]) -> int:
        """See `Forgetting.replace`."""
        rows = [
            (orjson.dumps(fresh), _recipient(fresh), found.place.row, found.place.document) for found, fresh in changes
        ]
        return await self._run(lambda c: _replace(c, rows))

    async def close(self) -> None:
        """Cut the log, as far as nobody reads in it, and close. Raises AuditUnavailable."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._in_thread(lambda: _end(connection))
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            msg = f"the audit file {self._path} is not open"
            raise AuditUnavailable(msg)
        return await self._in_thread(lambda: work(connection))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            msg = f"the audit file {self._path}: {error}"
            raise AuditUnavailable(msg) from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def _replace(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    with connection:  # commits at its end, and rolls back where that or anything before it failed
        connection.execute("BEGIN IMMEDIATE")
        return sum(connection.execute(_REPLACE, row).rowcount for row in rows)


def _end(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _recipient(document: Document) -> str | None:
    """The column: an address in lower case, as the audit itself fills it."""
    recipient = document.get("recipient")
    return recipient.lower() if isinstance(recipient, str) else None
