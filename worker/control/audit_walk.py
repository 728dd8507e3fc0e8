"""Going through all that a question to the audit finds, page by page, in the memory of one page."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import structlog

from schemas.audit_query import AuditPage, AuditQuery, Continuation
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

PAGE = 1000
"""Records of one page."""
MOST = 1_000_000
"""So many records one walk gives, and no more."""


class Pages(Protocol):
    """Answers questions to the audit, and goes on with an answer."""

    async def search(self, query: AuditQuery) -> AuditPage:
        """Return one page; raises AuditUnavailable, CursorExpired."""
        ...

    async def release(self, after: Continuation) -> None:
        """Nobody will go on from `after`; raises AuditUnavailable."""
        ...


@dataclass(slots=True)
class Walk:
    """One way through `query`'s matches, from the first on; its offset and limit say nothing.

    `total` is what the first page counted, `given` counts the records so far. `cut`: there were more than `most`.
    """

    search: Pages
    query: AuditQuery
    most: int = MOST
    total: int = 0
    given: int = 0
    cut: bool = False
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)

    async def pages(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Give page after page; one that is empty only where there is nothing at all.

        Whoever stops early closes it, and what the store keeps is let go. Raises AuditUnavailable, CursorExpired.
        """
        after: Continuation | None = None
        question = replace(self.query, offset=0, limit=PAGE)
        try:
            while True:
                page = await self.search.search(replace(question, after=after))
                after, self.total = page.next, page.total
                records = page.records[: self.most - self.given]
                self.given += len(records)
                self.cut = len(records) < len(page.records) or (self.given == self.most and after is not None)
                yield records
                del page, records  # or they stay until the next page is here
                if self.cut or after is None:
                    return
        finally:
            if after is not None:
                await self._leave(after)

    async def _leave(self, after: Continuation) -> None:
        # A task of its own: whoever is being cancelled can wait for nothing any more.
        leaving = asyncio.ensure_future(self._release(after))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)

    async def _release(self, after: Continuation) -> None:
        try:
            await self.search.release(after)
        except AuditUnavailable as error:  # what is kept ends by itself
            log.info("a walk through the audit could not be closed", reason=str(error))
