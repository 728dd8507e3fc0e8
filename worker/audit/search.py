"""Answering an AuditQuery from OpenSearch: exact filters, an exact total, page by page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import structlog

from schemas.audit_query import AuditPage, AuditQuery, Continuation
from worker.audit.cursors import ask_further, begun, closed, opened
from worker.audit.entries import restore
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.audit.search_body import TIMEOUT_S, search_body
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

__all__ = ["OpenSearchSearch", "search_body"]

_PARAMS = {
    # Half an answer would be read as "it was not sent".
    "allow_partial_search_results": "false",
    "cancel_after_time_interval": f"{TIMEOUT_S:.0f}s",
    "filter_path": "took,timed_out,pit_id,hits.total.value,hits.hits._id,hits.hits.sort,hits.hits._source",
}
_OF_INDICES = {"ignore_unavailable": "true", "allow_no_indices": "true"}
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
    ) -> None:
        """Prepare; raises AuditUnavailable where the CA file cannot be read."""
        self._link = OpenSearchLink(OpenSearchAccess(url, user, password, ca_file, verify))
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
        path, body = f"/{self._indices}/_search", orjson.dumps(search_body(query))
        answer = await self._link.request(Call("POST", path, body, _PARAMS | _OF_INDICES, timeout_s=_PATIENCE_S))
        hits, total = _hits(answer), answer["hits"]["total"]["value"]
        more = bool(hits) and query.offset + len(hits) < total
        return _page(query, answer, hits, total, begun(hits, total) if more else None)

    async def _further(self, query: AuditQuery, after: Continuation) -> AuditPage:
        here = await opened(self._link, self._indices, after)
        try:
            answer = await ask_further(self._link, query, here, _PARAMS)
            fresh = [hit for hit in _hits(answer) if hit["_id"] not in here.shown]
        except AuditUnavailable:
            if after.snapshot is None:  # nobody else knows of it
                await self._let_go(here)
            raise
        hits = fresh[: query.limit]
        latest = replace(here, snapshot=answer.get("pit_id", here.snapshot), shown=())
        if len(fresh) <= query.limit:
            await self._let_go(latest)
            return _page(query, answer, hits, here.total, None)
        return _page(query, answer, hits, here.total, replace(latest, position=tuple(hits[-1]["sort"])))

    async def _let_go(self, after: Continuation) -> None:
        try:
            await closed(self._link, after)
        except AuditUnavailable as error:  # it ends by itself, in time
            log.info("a point in time could not be closed", reason=str(error))


def _hits(answer: Any) -> list[dict[str, Any]]:
    if answer["timed_out"]:
        msg = "OpenSearch did not finish the search in time"
        raise AuditUnavailable(msg)
    found: list[dict[str, Any]] = answer.get("hits", {}).get("hits", [])  # the path filter drops an empty list
    return found


def _page(
    query: AuditQuery, answer: Any, hits: Sequence[dict[str, Any]], total: int, following: Continuation | None
) -> AuditPage:
    return AuditPage(
        total=total,
        records=[restore(hit["_source"]) for hit in hits],
        offset=query.offset,
        limit=query.limit,
        took_ms=answer["took"],
        next=following,
    )
