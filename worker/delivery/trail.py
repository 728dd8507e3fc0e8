"""The audit with a journal before it: what is recorded is on this disk first, then where ops look for it.

Between the server's 250 and the audit's answer lie tens of milliseconds, or an outage. Whoever is
killed then has the record in the journal, and the next start ships it before anything is taken.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from schemas.audit import AuditRecord
from worker.delivery.ports import Document
from worker.errors import JournalUnavailable

log = structlog.get_logger(__name__)


class LocalJournal(Protocol):
    """Keeps documents on this disk until they are forgotten."""

    async def append(self, entries: Sequence[Document]) -> None:
        """Return once they are kept; raises JournalUnavailable."""
        ...

    def forget(self, document_ids: Iterable[str]) -> None:
        """Keep them no longer."""
        ...

    def holds(self, document_ids: Iterable[str]) -> frozenset[str]:
        """Of these, the ones that are kept."""
        ...


class DocumentAudit(Protocol):
    """Keeps documents for good, and knows which it has."""

    async def write_documents(self, documents: Sequence[Document]) -> None:
        """Return once every document is durable; wait as long as that takes."""
        ...

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> index month), those that exist; raises AuditUnavailable."""
        ...

    @property
    def complete(self) -> bool:
        """False while documents are on their way that cannot be found yet."""
        ...


class Trail:
    """Fulfils AuditSink and AuditLookup over a journal and an audit."""

    def __init__(self, journal: LocalJournal, audit: DocumentAudit) -> None:
        """Take both, opened; `trouble` is set when the journal could not be written."""
        self._journal = journal
        self._audit = audit
        self.trouble = asyncio.Event()

    async def write(self, records: Sequence[AuditRecord]) -> None:
        """Return once every record is durable, in the audit or on its way there; see `AuditSink.write`."""
        documents = [Document(record.document_id, record.index_month, record.to_json()) for record in records]
        try:
            await self._journal.append(documents)
        except JournalUnavailable as error:
            # What happened has happened: the audit still gets it, and no further event is taken meanwhile.
            log.error("record could not be journalled", reason=str(error), records=len(documents))  # noqa: TRY400 # no bug
            self.trouble.set()
        await self._audit.write_documents(documents)
        self._journal.forget([document.document_id for document in documents])

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids`, those that the journal or the audit has; raises AuditUnavailable."""
        journalled = self._journal.holds(ids)
        asked = {each: month for each, month in ids.items() if each not in journalled} if journalled else ids
        return journalled | await self._audit.recorded(asked)

    @property
    def complete(self) -> bool:
        """False while documents are on their way that cannot be found yet."""
        return self._audit.complete
