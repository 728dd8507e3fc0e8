"""Answering an AuditQuery from OpenSearch: exact filters, an exact total, page by page."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import structlog

from schemas.audit_query import AuditPage, AuditQuery, Continuation
from worker.audit.cursors import ask_further, closed, opened
from worker.audit.entries import restore
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.audit.pages import Page, first_page, further_page
from worker.audit.search_body import TIMEOUT_S
from worker.audit.whole import ask_whole
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

_PARAMS = {
    # Half an answer would be read as "it was not sent".
    "allow_partial_search_results": "false",
    "cancel_after_time_interval": f"{TIMEOUT_S:.0f}s",
    # No filter_path: to leave out some words of each hit takes OpenSearch longer than to say them.
}
_OF_INDICES = {"allow_no_indices": "true"}
# A search that ends itself says so; the client gives up on one that does not.
_PATIENCE_S = TIMEOUT_S + 2


class OpenSearchSearch:
    """Fulfils the API's AuditSearch."""

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        verify: bool = True,
        index_prefix: str = "systemaudit",
        setting: str = "POSTBOTE_OPENSEARCH_USER",
    ) -> None:
        """Prepare; raises AuditUnavailable where the CA file cannot be read."""
        self._link = OpenSearchLink(OpenSearchAccess(url, user, password, ca_file, verify, setting))
        self._indices = f"{index_prefix}-*"

    async def search(self, query: AuditQuery) -> AuditPage:
        """Return one page. Raises AuditUnavailable where OpenSearch has no whole answer within 10 s, CursorExpired."""
        try:
            return await (self._first(query) if query.after is None else self._further(query, query.after))
        except (KeyError, TypeError, IndexError) as error:
            msg = "OpenSearch's answer to a search cannot be read"
            raise AuditUnavailable(msg) from error

    async def release(self, after: Continuation) -> None:
        """Nobody will go on from `after`: what is kept for it may go. Raises AuditUnavailable."""
        await closed(self._link, after)

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    async def _first(self, query: AuditQuery) -> AuditPage:
        async def ask(body: Mapping[str, Any]) -> Any:
            path, params = f"/{self._indices}/_search", _PARAMS | _OF_INDICES
            return await ask_whole(self._link, Call("POST", path, orjson.dumps(body), params, timeout_s=_PATIENCE_S))

        return _page(query, await first_page(ask, query))

    async def _further(self, query: AuditQuery, after: Continuation) -> AuditPage:
        here = await opened(self._link, self._indices, after)
        try:
            page = await further_page(partial(ask_further, self._link, here, _PARAMS), query, here)
        except AuditUnavailable:
            if after.snapshot is None:  # nobody else knows of it
                await self._let_go(here)
            raise
        if page.next is None:
            await self._let_go(here)
        return _page(query, page)

    async def _let_go(self, after: Continuation) -> None:
        try:
            await closed(self._link, after)
        except AuditUnavailable as error:  # it ends by itself, in time
            log.info("a point in time could not be closed", reason=str(error))


def _page(query: AuditQuery, page: Page) -> AuditPage:
    return AuditPage(
        total=page.total,
        records=[restore(hit["_source"]) for hit in page.hits],
        offset=query.offset,
        limit=query.limit,
        took_ms=page.took_ms,
        next=page.next,
    )
