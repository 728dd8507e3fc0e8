"""Reading the embedded audit's chains, for verifying: one state of the file, by writer and number.

Which record has which number is read out of the records themselves, once, into a table of this connection's own.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson

from schemas.audit_chain import ProofKind
from schemas.audit_change import Action, ChangeType
from worker.delivery.ports import Document
from worker.embedded.audit_writing import _row as row_of
from worker.errors import AuditUnavailable
from worker.proof.ports import Pages, Span, Stored
from worker.proof.verify_record import link_of

T = TypeVar("T")

_PAGE = 2000
_HIGHEST = 2**63 - 1  # what the file can count to
_COLUMNS = "id at_ms category type outcome partner org recipient event_id event_source attempt document".split()  # noqa: SIM905
_RECORD = ", ".join(f"record.{name}" for name in _COLUMNS)
_CHAINED = f"SELECT {_RECORD} FROM temp.link JOIN record USING (id) WHERE"  # noqa: S608 # of constants, as all here
_VOID = ProofKind.VOID.value


class SqliteProofReader:
    """Fulfils the proof's ProofReader over the file of a `SqliteAudit`."""

    settles_ms = 0

    def __init__(self, connection: sqlite3.Connection, path: Path, page: int) -> None:
        """Use `open_proof_reader`."""
        self._connection = connection
        self._path = path
        self._page = page

    def chained(self, span: Span, writer: str | None) -> Pages:
        """See `ProofReader`."""
        sql = f"{_CHAINED} link.seq IS NOT NULL AND link.at_ms BETWEEN ? AND ? AND (? IS NULL OR link.writer = ?)"
        return self._records(f"{sql} ORDER BY link.writer, link.seq", *span, writer, writer)

    def unchained(self, span: Span) -> Pages:
        """See `ProofReader`."""
        return self._records(f"{_CHAINED} link.seq IS NULL AND link.at_ms BETWEEN ? AND ?", *span)

    async def count_unchained(self, span: Span) -> int:
        """See `ProofReader`."""
        sql = "SELECT count(*) FROM temp.link WHERE seq IS NULL AND at_ms BETWEEN ? AND ?"
        return int((await self._rows(sql, *span))[0][0])

    def proofs(self, span: Span, writer: str | None) -> Pages:
        """See `ProofReader`."""
        within = "kind IN (?, ?) AND at_ms BETWEEN ? AND ? AND (? IS NULL OR writer = ?)"
        sql = f"SELECT id, document FROM proof WHERE {within} ORDER BY writer, seq"  # noqa: S608
        return self._pages(_proof, sql, ProofKind.HEAD.value, _VOID, *span, writer, writer)

    def numbers(self, writer: str, low: int, high: int) -> Pages:
        """See `ProofReader`."""
        return self._records(
            f"{_CHAINED} link.writer = ? AND link.seq BETWEEN ? AND ? ORDER BY link.seq", writer, low, high
        )

    async def at(self, writer: str, numbers: Sequence[int]) -> Sequence[Stored]:
        """See `ProofReader`."""
        wanted = orjson.dumps([each for each in numbers if each <= _HIGHEST]).decode()
        among = "IN (SELECT value FROM json_each(?))"
        records = await self._rows(f"{_CHAINED} link.writer = ? AND link.seq {among}", writer, wanted)
        voids = f"SELECT id, document FROM proof WHERE kind = ? AND writer = ? AND seq {among}"  # noqa: S608
        return [*map(_record, records), *map(_proof, await self._rows(voids, _VOID, writer, wanted))]

    async def last_before(self, writer: str, seq: int) -> int:
        """See `ProofReader`."""
        records = "SELECT max(seq) FROM temp.link WHERE writer = ? AND seq < ?"
        voids = "SELECT max(seq) FROM proof WHERE kind = ? AND writer = ? AND seq < ?"
        found = [*await self._rows(records, writer, seq), *await self._rows(voids, _VOID, writer, seq)]
        return max((int(highest) for (highest,) in found if highest is not None), default=0)

    async def voids(self, writer: str, low: int, high: int) -> Sequence[Stored]:
        """See `ProofReader`."""
        sql = "SELECT id, document FROM proof WHERE kind = ? AND writer = ? AND seq BETWEEN ? AND ? ORDER BY seq"
        return [_proof(row) for row in await self._rows(sql, _VOID, writer, low, high)]

    async def head_from(self, writer: str, seq: int) -> Stored | None:
        """See `ProofReader`."""
        sql = "SELECT id, document FROM proof WHERE kind = ? AND writer = ? AND seq >= ? ORDER BY seq LIMIT 1"
        found = await self._rows(sql, ProofKind.HEAD.value, writer, seq)
        return _proof(found[0]) if found else None

    async def first_chained_ms(self) -> int | None:
        """See `ProofReader`."""
        found = (await self._rows("SELECT min(at_ms) FROM temp.link WHERE seq IS NOT NULL"))[0][0]
        return None if found is None else int(found)

    async def prunings(self) -> Sequence[Stored]:
        """See `ProofReader`."""
        found = await self._rows(f"{_CHAINED} link.seq IS NOT NULL AND record.type = ?", ChangeType.AUDIT.value)
        return [each for each in map(_record, found) if each.document.get("action") == Action.PRUNED.value]

    async def pruned(self) -> Sequence[Stored]:
        """See `ProofReader`."""
        found = await self._rows("SELECT id, document FROM proof WHERE kind = ?", ProofKind.PRUNED.value)
        return [_proof(row) for row in found]

    async def existing(self, ids: Collection[str]) -> frozenset[str]:
        """See `ProofReader`."""
        sql = "SELECT id FROM record WHERE id IN (SELECT value FROM json_each(?))"
        return frozenset(found for (found,) in await self._rows(sql, orjson.dumps(list(ids)).decode()))

    def _records(self, sql: str, *values: Any) -> Pages:
        return self._pages(_record, sql, *values)

    async def _pages(self, read: Callable[[tuple[Any, ...]], Stored], sql: str, *values: Any) -> Pages:
        cursor = await self._do(lambda: self._connection.execute(sql, values))
        while rows := await self._do(lambda: cursor.fetchmany(self._page)):
            yield [read(row) for row in rows]

    async def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return await self._do(lambda: self._connection.execute(sql, values).fetchall())

    async def _do(self, work: Callable[[], T]) -> T:
        return await _in_thread(work, self._path)


@asynccontextmanager
async def open_proof_reader(path: Path, *, page: int = _PAGE) -> AsyncIterator[SqliteProofReader]:
    """Open the file for reading alone; raises AuditUnavailable, also where there is none."""
    connection = await _in_thread(lambda: _connect(path), path)
    try:
        yield SqliteProofReader(connection, path, page)
    finally:
        await _in_thread(connection.close, path)


async def _in_thread(work: Callable[[], T], path: Path) -> T:
    try:
        return await asyncio.to_thread(work)
    except sqlite3.Error as error:
        msg = f"the audit file {path}: {error}"
        raise AuditUnavailable(msg) from error


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("CREATE TEMP TABLE link (id TEXT PRIMARY KEY, writer TEXT, seq INTEGER, at_ms INTEGER)")
        connection.execute("BEGIN")  # everything from one state of the file
        connection.executemany("INSERT INTO temp.link VALUES (?, ?, ?, ?)", _links(connection))
        connection.execute("CREATE INDEX temp.link_number ON link (writer, seq)")
    except BaseException:
        connection.close()
        raise
    return connection


def _links(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    for own_id, at_ms, content in connection.execute("SELECT id, at_ms, document FROM record"):
        link = link_of(_loaded(content))
        known = link is not None and link.seq <= _HIGHEST
        yield (own_id, link.writer, link.seq, at_ms) if link is not None and known else (own_id, None, None, at_ms)


def _loaded(content: Any) -> dict[str, Any]:
    """The document; empty where it is none."""
    try:
        found = orjson.loads(content)
    except (orjson.JSONDecodeError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _proof(row: tuple[Any, ...]) -> Stored:
    return Stored("proof", row[0], _loaded(row[1]))


def _record(row: tuple[Any, ...]) -> Stored:
    document = _loaded(row[-1])
    try:
        said = row_of(Document(row[0], "", row[-1]), document)
    except (KeyError, TypeError, ValueError):  # nothing that is found by its columns
        return Stored("record", row[0], document)
    disagrees = tuple(name for name, shown, own in zip(_COLUMNS, row, said, strict=True) if shown != own)
    return Stored("record", row[0], document, None, disagrees)
