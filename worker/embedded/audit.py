"""The audit in one SQLite file: the same answers as OpenSearch's, without a server.

sqlite3 blocks, so one thread owns the one connection and the event loop never waits for the disk.
Writers that come while a commit runs share the next one.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import orjson
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from schemas.audit import AuditRecord
from schemas.audit_query import AuditPage, AuditQuery, Continuation
from worker.delivery.ports import Document
from worker.embedded.audit_search import noticed, page_of, prepare
from worker.embedded.audit_writing import TABLES, insert
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")

_GRACE_S = 5.0
_SETUP = (
    "PRAGMA journal_mode = WAL",
    # An answered write survives a power cut; commits are shared, so that costs little.
    "PRAGMA synchronous = FULL",
    *TABLES,
)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    documents: Sequence[Document]
    done: asyncio.Future[None]


class SqliteAudit:
    """Fulfils the core's AuditSink and AuditLookup and the API's AuditSearch."""

    def __init__(self, path: Path) -> None:
        """Prepare; the file is created by `open`."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, "audit-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._queue: list[_Waiting] = []
        self._committer: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> Self:
        """Open the file, creating it if need be. Raises AuditUnavailable."""
        self._connection = await self._in_thread(lambda: _connect(self._path))
        return self

    async def write(self, records: Sequence[AuditRecord]) -> None:
        """Return once every record is on disk; while the file cannot be written, wait.

        Raises AuditUnavailable once this closes.
        """
        await self.write_documents([Document(each.document_id, each.index_month, each.to_json()) for each in records])

    async def write_documents(self, documents: Sequence[tuple[str, str, bytes]]) -> None:
        """Like `write`, for what is documents already (id, month, JSON); committed in the order of the calls."""
        if self._closed:
            msg = "the audit is closed"
            raise AuditUnavailable(msg)
        if not documents:
            return
        waiting = _Waiting([Document(*each) for each in documents], asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_all(), name="audit committer")
        await waiting.done

    @property
    def complete(self) -> bool:
        """True: whatever was written can be found."""
        return True

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> month, which a single file needn't know), those that exist.

        Waits while the file cannot be read; raises AuditUnavailable once this closes.
        """
        wanted = orjson.dumps(list(ids)).decode()
        sql = "SELECT id FROM record WHERE id IN (SELECT value FROM json_each(?))"
        found = await self._patiently(lambda c: c.execute(sql, (wanted,)).fetchall())
        return frozenset(document_id for (document_id,) in found)

    async def search(self, query: AuditQuery) -> AuditPage:
        """Return one page. Raises AuditUnavailable."""
        with noticed() as left:
            return await self._run(lambda c: page_of(c, query, left))

    async def release(self, after: Continuation) -> None:
        """Nothing is kept for a page that might follow."""

    async def ready(self) -> None:
        """Ask once. Raises AuditUnavailable where the file cannot be read."""
        await self._run(lambda c: c.execute("SELECT 1 FROM record LIMIT 1").fetchone())

    async def close(self, grace_s: float = _GRACE_S) -> None:
        """Commit what waits, within the grace; what is left raises AuditUnavailable at its writers."""
        self._closed = True
        if self._committer is not None:
            await asyncio.wait({self._committer}, timeout=grace_s)
            self._committer.cancel()
            await asyncio.gather(self._committer, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._in_thread(connection.close)
        self._thread.shutdown(wait=False)

    async def _commit_all(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                documents = [document for waiting in batch for document in waiting.documents]
                await self._patiently(partial(insert, documents))
                for waiting in batch:
                    if not waiting.done.done():
                        waiting.done.set_result(None)
        finally:
            for waiting in (*batch, *self._queue):
                if not waiting.done.done():
                    waiting.done.set_exception(AuditUnavailable("the audit closed before it took the record"))

    async def _patiently(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # A full disk or a locked file: wait for it, as one waits for OpenSearch.
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(AuditUnavailable),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.1),
            stop=lambda _: self._closed,
            before_sleep=_log_retry,
            reraise=True,
        )
        return await retrying(self._run, work)

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


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("the audit file is not usable now: trying again", attempt=state.attempt_number, reason=str(error))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for statement in _SETUP:
        connection.execute(statement)
    prepare(connection)
    return connection
