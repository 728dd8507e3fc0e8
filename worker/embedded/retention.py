"""Removing months from the embedded audit's file, for `worker.control.retention`.

The file knows no months: a record's is that of its event's time, in UTC, as its index is in OpenSearch. It
is open beside a worker that goes on writing, so a month is removed in one transaction that first sees
whether its numbers are still those that were put on record.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import orjson

from schemas.audit_change import Action, ChangeType
from worker.control.retention import Month, Pruning, Ranges, is_month
from worker.errors import AuditUnavailable

T = TypeVar("T")

_BUSY_S = 30.0


def _of(path: str) -> str:
    return f"json_extract(CAST(document AS TEXT), '$.{path}')"


_TIMES = (_of("event_time"), _of('"@timestamp"'))
_MONTH = f"strftime('%Y.%m', coalesce({', '.join(_TIMES)}))"
_MONTHS = f"SELECT {_MONTH}, count(*), sum(length(document)) FROM record GROUP BY 1 ORDER BY 1"  # noqa: S608
_WRITER, _SEQ = _of("chain.writer"), _of("chain.seq")
_NUMBERS = f"""SELECT {_WRITER}, {_SEQ} FROM record
    WHERE {_MONTH} = ? AND {_WRITER} IS NOT NULL AND {_SEQ} IS NOT NULL ORDER BY 1, 2"""  # noqa: S608
_PRUNINGS = f"""SELECT DISTINCT {_of("subject")}, digest.value
    FROM record, json_each(CAST(document AS TEXT), '$.changed') AS digest
    WHERE {_MONTH} = ? AND record.type = ? AND {_of("action")} = ? ORDER BY 1, 2"""  # noqa: S608
_DELETE = f"DELETE FROM record WHERE {_MONTH} = ?"  # noqa: S608


class SqliteRetention:
    """Fulfils `Retention` over the file of a `SqliteAudit`, which has made it."""

    def __init__(self, path: Path) -> None:
        """Prepare; the file is opened for each question."""
        self._path = path

    async def months(self) -> Sequence[Month]:
        """See `Retention`; octets are those of the records themselves."""
        rows = await self._run(lambda connection: connection.execute(_MONTHS).fetchall())
        return [Month(name, records, octets) for name, records, octets in rows if name is not None and is_month(name)]

    async def close_month(self, month: str) -> Mapping[str, str]:
        """See `Retention`; a single file cannot close a part of itself."""
        return await self._run(lambda connection: _ranges(connection, month))

    async def reopen(self, month: str) -> None:
        """Nothing was closed."""

    async def remove(self, month: str, ranges: Mapping[str, str]) -> bool:
        """See `Retention`."""
        return await self._run(lambda connection: _remove(connection, month, ranges))

    async def proof(self, document_id: str) -> Mapping[str, Any] | None:
        """See `Retention`."""
        sql = "SELECT document FROM proof WHERE id = ?"
        row = await self._run(lambda connection: connection.execute(sql, (document_id,)).fetchone())
        return None if row is None else orjson.loads(row[0])

    async def prunings(self, month: str) -> Sequence[Pruning]:
        """See `Retention`."""
        values = (month, ChangeType.AUDIT.value, Action.PRUNED.value)
        return await self._run(lambda connection: [Pruning(*row) for row in connection.execute(_PRUNINGS, values)])

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """See `Retention`."""
        sql = "SELECT id FROM record WHERE id IN (SELECT value FROM json_each(?))"
        wanted = orjson.dumps(list(ids)).decode()
        rows = await self._run(lambda connection: connection.execute(sql, (wanted,)).fetchall())
        return frozenset(document_id for (document_id,) in rows)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.to_thread(self._with_file, work)
        except sqlite3.Error as error:
            msg = f"the audit file {self._path}: {error}"
            raise AuditUnavailable(msg) from error

    def _with_file(self, work: Callable[[sqlite3.Connection], T]) -> T:
        where = f"{self._path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(where, uri=True, isolation_level=None, timeout=_BUSY_S)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            return work(connection)


def _ranges(connection: sqlite3.Connection, month: str) -> dict[str, str]:
    ranges = Ranges()
    for writer, number in connection.execute(_NUMBERS, (month,)):
        ranges.add(str(writer), int(number))
    return ranges.texts()


def _remove(connection: sqlite3.Connection, month: str, ranges: Mapping[str, str]) -> bool:
    with connection:  # commits at its end, and rolls back where that or anything before it failed
        connection.execute("BEGIN IMMEDIATE")
        unchanged = _ranges(connection, month) == ranges
        if unchanged:
            connection.execute(_DELETE, (month,))
    return unchanged
