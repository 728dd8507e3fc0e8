"""An audit whose records are chained, for whoever has no journal: the API, commands, the embedded form.

One call after the other is sealed and written, and those that came meanwhile go together. So a kill
loses only the tail of the chain, and never makes a hole in it. What a failed call sealed goes first
with the next one, word for word.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from schemas.audit import AuditRecord
from worker.delivery.ports import Document
from worker.delivery.privacy import PLAIN, Draft, Privacy
from worker.errors import AuditUnavailable
from worker.proof.chain import Chain, new_writer

__all__ = ["Chain", "SealedAudit", "new_writer"]

_GRACE_S = 1.0


class DocumentSink(Protocol):
    """Keeps documents for good."""

    async def write_documents(self, documents: Sequence[Document]) -> None:
        """Return once every one is durable, however long that takes; raises AuditUnavailable once it closes."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    documents: Sequence[Document | Draft]
    done: asyncio.Future[None]


class SealedAudit:
    """Fulfils the core's AuditSink over an audit that takes documents, and takes documents itself."""

    def __init__(self, audit: DocumentSink, chain: Chain, *, privacy: Privacy = PLAIN, in_order: bool = False) -> None:
        """Seal with `chain`, which is used by nobody else; `in_order`: what is handed in first is durable first.

        `audit` is opened and closed by others, after this.
        """
        self._audit = audit
        self._chain = chain
        self._privacy = privacy
        self._in_order = in_order
        self._calls: list[_Call] = []
        self._unconfirmed: list[Document] = []
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    async def write(self, records: Sequence[AuditRecord]) -> None:
        """Return once every record is durable, however long that takes; raises AuditUnavailable once this closes."""
        await self._write([self._privacy.document(record) for record in records])

    async def write_documents(self, documents: Sequence[Document]) -> None:
        """Like `write`, for records that are documents already and not sealed yet."""
        await self._write(documents)

    async def _write(self, documents: Sequence[Document | Draft]) -> None:
        if self._closed:
            msg = "this process stops: the audit takes no more records"
            raise AuditUnavailable(msg)
        if not documents:
            return
        if self._in_order:
            await self._audit.write_documents(self._chain.seal(documents))
            return
        call = _Call(documents, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="audit sealing")
        await call.done

    async def write_head(self, now: datetime) -> None:
        """Write the chain's head, once what is on its way is durable; nothing where there is nothing new."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})
        if self._unconfirmed:  # a head says that all before it was written
            return
        head = self._chain.head(now)
        if head is not None:
            await self._audit.write_documents([head])

    async def close(self, grace_s: float = _GRACE_S) -> None:
        """Take no more, and end with the head, within the grace; calls that are left raise AuditUnavailable."""
        self._closed = True
        with contextlib.suppress(TimeoutError, AuditUnavailable):  # the chain is whole without its last head
            async with asyncio.timeout(grace_s):
                await self.write_head(datetime.now(UTC))
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write_all(self) -> None:
        calls: list[_Call] = []
        try:
            while calls := self._waiting():
                await self._write_together(calls)
        finally:
            for call in (*calls, *self._waiting()):
                _fail(call, AuditUnavailable("this process stops, and the audit has not taken the record yet"))

    async def _write_together(self, calls: Sequence[_Call]) -> None:
        try:
            for call in calls:
                self._unconfirmed += self._chain.seal(call.documents)
            await self._audit.write_documents(tuple(self._unconfirmed))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is those who wait that have to know
            for call in calls:
                _fail(call, error)
            return
        self._unconfirmed.clear()
        for call in calls:
            if not call.done.done():
                call.done.set_result(None)

    def _waiting(self) -> list[_Call]:
        """The calls that nobody has given up; none waits any more."""
        calls, self._calls = self._calls, []
        return [call for call in calls if not call.done.done()]


def _fail(call: _Call, error: Exception) -> None:
    if not call.done.done():
        call.done.set_exception(error)
