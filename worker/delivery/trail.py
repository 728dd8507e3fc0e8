"""The audit with a journal before it: what is recorded is on this disk first, then where ops look for it.

Between the server's 250 and the audit's answer lie tens of milliseconds, or an outage. Whoever is
killed then has the record in the journal, and the next start ships it before anything is taken.

A record gets its place in the chain right before the journal, in one turn of the loop: the journal
commits in the order of the numbers, so a kill loses none but the last. Of two records of one id, of
which the journal keeps the later, the second waits until the first is durable.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog

from schemas.audit import AuditRecord
from worker.delivery.ports import AuditLookup, Document
from worker.delivery.privacy import PLAIN, Draft, Privacy
from worker.errors import JournalUnavailable
from worker.proof.chain import Chain

log = structlog.get_logger(__name__)


class LocalJournal(Protocol):
    """Keeps documents on this disk until they are forgotten."""

    def append(self, entries: Sequence[Document]) -> Awaitable[None]:
        """Take them in the order of the calls; to be awaited until they are kept; raises JournalUnavailable then."""
        ...

    def forget(self, document_ids: Iterable[str]) -> None:
        """Keep them no longer."""
        ...

    def holds(self, document_ids: Iterable[str]) -> frozenset[str]:
        """Of these, the ones that are kept."""
        ...


class DocumentAudit(Protocol):
    """Keeps documents for good, and knows which it has."""

    async def write_documents(self, documents: Sequence[Document], *, urgent: bool = False) -> None:
        """Return once every document is durable; wait as long as that takes. `urgent`: nothing else keeps them."""
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

    def __init__(self, journal: LocalJournal, audit: DocumentAudit, chain: Chain, privacy: Privacy = PLAIN) -> None:
        """Take both, opened, and a chain that nobody else uses."""
        self._journal = journal
        self._audit = audit
        self._chain = chain
        self._privacy = privacy
        self._in_hand: dict[str, asyncio.Future[None]] = {}

    def write(self, records: Sequence[AuditRecord]) -> Awaitable[None]:
        """Hand every record to the journal; to be awaited until all are durable, in the audit or on their way there."""
        documents = [self._privacy.document(record) for record in records]
        same = self._same_in_hand(documents)
        return self._keep(self._chain.seal(documents)) if same is None else self._keep_behind(same, documents)

    async def _keep_behind(self, same: asyncio.Future[None] | None, documents: Sequence[Draft]) -> None:
        while same is not None:
            await asyncio.wait({same})
            same = self._same_in_hand(documents)
        await self._keep(self._chain.seal(documents))

    async def write_head(self, now: datetime) -> None:
        """Record how far the chain has come, behind its records; nothing where nothing is new."""
        head = self._chain.head(now)
        if head is not None:
            await self._keep([head])

    async def keep_left_behind(self, documents: Sequence[Document]) -> None:
        """Write what a dead worker's journal held, as it is, and heads for the chains that ended with it."""
        heads = self._chain.heads_of_dead(documents, datetime.now(UTC))
        await self._audit.write_documents([*documents, *heads])

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids`, those that the journal or the audit has; raises AuditUnavailable."""
        return await _recorded_as(self._privacy, self._recorded, ids)

    @property
    def complete(self) -> bool:
        """False while documents are on their way that cannot be found yet."""
        return self._audit.complete

    async def _recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        journalled = self._journal.holds(ids)
        asked = {each: month for each, month in ids.items() if each not in journalled} if journalled else ids
        return journalled | await self._audit.recorded(asked)

    def _same_in_hand(self, documents: Sequence[Draft]) -> asyncio.Future[None] | None:
        in_hand = (self._in_hand.get(document.document_id) for document in documents)
        return next((each for each in in_hand if each is not None), None)

    def _keep(self, documents: Sequence[Document]) -> Awaitable[None]:
        """Journal in the call itself, and write; nothing may be awaited between the sealing and this."""
        ids = [document.document_id for document in documents]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_hand |= dict.fromkeys(ids, done)
        return self._ship(documents, ids, self._journal.append(documents), done)

    async def _ship(
        self, documents: Sequence[Document], ids: Sequence[str], journalled: Awaitable[None], done: asyncio.Future[None]
    ) -> None:
        try:
            kept = await _journalled(journalled, len(documents))
            await self._audit.write_documents(documents, urgent=not kept)
            self._journal.forget(ids)
        finally:
            for each in ids:
                self._in_hand.pop(each, None)
            done.set_result(None)


async def _journalled(appended: Awaitable[None], records: int) -> bool:
    try:
        await appended
    except JournalUnavailable as error:
        # What has happened has happened: the audit still gets it, and the journal says that it fails.
        log.error("record could not be journalled", reason=str(error), records=records)  # noqa: TRY400 # no bug
        return False
    return True


class PrivateLookup:
    """Fulfils AuditLookup over one that knows records by the ids under which they are kept."""

    def __init__(self, audit: AuditLookup, privacy: Privacy) -> None:
        """Take it, opened."""
        self._audit = audit
        self._privacy = privacy

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids`, those that exist; raises AuditUnavailable."""
        return await _recorded_as(self._privacy, self._audit.recorded, ids)

    @property
    def complete(self) -> bool:
        """False while documents are on their way that cannot be found yet."""
        return self._audit.complete


async def _recorded_as(
    privacy: Privacy, ask: Callable[[Mapping[str, str]], Awaitable[frozenset[str]]], ids: Mapping[str, str]
) -> frozenset[str]:
    if privacy.key is None:
        return await ask(ids)
    asked = {name: each for each in ids for name in privacy.names(each)}
    found = await ask({known: ids[each] for known, each in asked.items()})
    return frozenset(asked[known] for known in found)
