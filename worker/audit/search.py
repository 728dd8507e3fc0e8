"""Answering an AuditQuery from OpenSearch: exact filters, an exact total, newest first."""

from pathlib import Path
from typing import Any

import orjson

from schemas.audit_query import AuditPage, AuditQuery, epoch_ms
from worker.audit.entries import restore
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.errors import AuditUnavailable

_TIMEOUT_S = 10.0
_TERMS = ("category", "type", "outcome", "partner", "org", "recipient", "event_id", "event_source")
_OF_CONFIG = {"config": "config.name", "config_scope": "config.scope"}
# Records of one millisecond: in one order that every page agrees on (OpenSearch won't sort by `_id`).
_TIEBREAK = (
    ("event_id", "asc", "keyword"),
    ("recipient", "asc", "keyword"),
    ("attempt", "desc", "integer"),
    ("outcome", "asc", "keyword"),
    ("event_source", "asc", "keyword"),
    # Changes have none of these; which come after the mails, and among themselves in this order.
    ("type", "asc", "keyword"),
    ("subject", "asc", "keyword"),
    ("version", "desc", "long"),
    ("action", "asc", "keyword"),
)
_PARAMS = {
    "ignore_unavailable": "true",
    "allow_no_indices": "true",
    # Half an answer would be read as "it was not sent".
    "allow_partial_search_results": "false",
    "filter_path": "took,timed_out,hits.total.value,hits.hits._source",
}


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
        self._path = f"/{index_prefix}-*/_search"

    async def search(self, query: AuditQuery) -> AuditPage:
        """Return one page. Raises AuditUnavailable where OpenSearch has no whole answer within 10 s."""
        call = Call("POST", self._path, orjson.dumps(search_body(query)), _PARAMS, timeout_s=_TIMEOUT_S)
        answer = await self._link.request(call)
        try:
            return _read_page(answer, query)
        except (KeyError, TypeError) as error:
            msg = "OpenSearch's answer to a search cannot be read"
            raise AuditUnavailable(msg) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()


def search_body(query: AuditQuery) -> dict[str, Any]:
    """The search request for a query: nothing of it is ever parsed as query syntax."""
    filters: list[dict[str, Any]] = [
        {"term": {name: str(value)}} for name in _TERMS if (value := getattr(query, name)) is not None
    ]
    filters += [
        {"term": {path: value}} for name, path in _OF_CONFIG.items() if (value := getattr(query, name)) is not None
    ]
    if query.outcomes:
        filters.append({"terms": {"outcome": [outcome.value for outcome in query.outcomes]}})
    bounds = {"gte": query.time_from, "lte": query.time_to}
    within = {name: epoch_ms(bound) for name, bound in bounds.items() if bound is not None}
    if within:
        filters.append({"range": {"@timestamp": {**within, "format": "epoch_millis"}}})
    return {
        "query": {"bool": {"filter": filters}},
        "sort": [
            {"@timestamp": {"order": "desc", "unmapped_type": "date"}},
            *({name: {"order": order, "unmapped_type": kind}} for name, order, kind in _TIEBREAK),
        ],
        "from": query.offset,
        "size": query.limit,
        "track_total_hits": True,
        "timeout": f"{_TIMEOUT_S:.0f}s",
    }


def _read_page(answer: Any, query: AuditQuery) -> AuditPage:
    if answer["timed_out"]:
        msg = "OpenSearch did not finish the search in time"
        raise AuditUnavailable(msg)
    hits = answer["hits"]
    return AuditPage(
        total=hits["total"]["value"],
        records=[restore(hit["_source"]) for hit in hits.get("hits", [])],  # the path filter drops an empty list
        offset=query.offset,
        limit=query.limit,
        took_ms=answer["took"],
    )
