"""Reading and rewriting, in OpenSearch, whatever may name an address; what it becomes is the core's to decide.

A page is read from a point in time with each document's sequence number and primary term, and a document is
replaced only where both are still the same: what somebody else has changed meanwhile is read again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import structlog

from worker.audit.index_template import DEAD_LETTER_MONTH
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink, RequestRefused
from worker.control.forgetting import PAGE, Document, Found, Page
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

_KEEP = "2m"
_TIMEOUT_S = 60.0
_NOT_FOUND = 404
_REPLACED = 200
_GONE_OR_CHANGED = frozenset({404, 409})
_UNREADABLE = "OpenSearch's answer to the search for an address cannot be read"


class _Place(NamedTuple):
    in_index: str
    document_id: str
    seq_no: int
    primary_term: int


@dataclass(frozen=True, slots=True)
class _After:
    """A point in time, and the last document read of it."""

    pit: str
    position: tuple[Any, ...]


class OpenSearchForgetting:
    """Fulfils `worker.control.forgetting.Forgetting`."""

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
        self._prefix = index_prefix
        self._pit: str | None = None

    async def page(self, address: str, after: _After | None) -> Page:
        """See `Forgetting.page`; the first one sees all that was written before it."""
        pit = await self._opened() if after is None else after.pit
        if pit is None:  # there is no index yet
            return Page([], None)
        answer = await self._link.request(
            Call("POST", "/_search", orjson.dumps(self._body(address, pit, after)), timeout_s=_TIMEOUT_S)
        )
        try:
            return await self._read(answer)
        except (KeyError, TypeError) as error:
            raise AuditUnavailable(_UNREADABLE) from error

    async def replace(self, changes: Sequence[tuple[Found, Document]]) -> int:
        """See `Forgetting.replace`; what was replaced is seen by the next page that begins anew."""
        lines = [line for found, document in changes for line in (_action(found.place), _rewriting(document))]
        body = b"\n".join([*lines, b""])
        call = Call("POST", "/_bulk", body, {"refresh": "true"}, _TIMEOUT_S, "application/x-ndjson")
        answer = await self._link.request(call)
        try:
            items = [item["update"] for item in answer["items"]]
            statuses = [int(item["status"]) for item in items]
        except (KeyError, TypeError, ValueError) as error:
            msg = "OpenSearch's answer to a rewriting cannot be read"
            raise AuditUnavailable(msg) from error
        for item, status in zip(items, statuses, strict=True):
            if status != _REPLACED and status not in _GONE_OR_CHANGED:
                kind = item.get("error", {}).get("type", "no reason given")
                msg = f"OpenSearch does not take a rewritten record in {item.get('_index')} ({status}: {kind})"
                raise AuditUnavailable(msg)
        return statuses.count(_REPLACED)

    async def close(self) -> None:
        """Close the point in time and the connections."""
        try:
            await self._let_go()
        except AuditUnavailable as error:  # it ends by itself, in time
            log.info("a point in time could not be closed", reason=str(error))
        await self._link.close()

    async def _opened(self) -> str | None:
        await self._let_go()
        try:
            refreshed = await self._link.request(Call("POST", f"/{self._prefix}-*/_refresh", timeout_s=_TIMEOUT_S))
            if not refreshed["_shards"]["total"]:
                return None
            answer = await self._link.request(
                Call("POST", f"/{self._prefix}-*/_search/point_in_time", params={"keep_alive": _KEEP})
            )
            self._pit = str(answer["pit_id"])
        except RequestRefused as refusal:
            if refusal.status != _NOT_FOUND:
                raise
        except (KeyError, TypeError) as error:
            raise AuditUnavailable(_UNREADABLE) from error
        return self._pit

    async def _let_go(self) -> None:
        pit, self._pit = self._pit, None
        if pit is not None:
            await self._link.request(Call("DELETE", "/_search/point_in_time", orjson.dumps({"pit_id": [pit]})))

    async def _read(self, answer: Mapping[str, Any]) -> Page:
        if answer["timed_out"] or answer["_shards"]["failed"]:
            msg = "OpenSearch did not finish the search for an address"
            raise AuditUnavailable(msg)
        hits = answer["hits"]["hits"]
        found = [
            Found(_Place(hit["_index"], hit["_id"], hit["_seq_no"], hit["_primary_term"]), hit["_source"])
            for hit in hits
        ]
        if len(hits) < PAGE:
            await self._let_go()
            return Page(found, None)
        self._pit = answer.get("pit_id", self._pit)
        return Page(found, _After(str(self._pit), tuple(hits[-1]["sort"])))

    def _body(self, address: str, pit: str, after: _After | None) -> dict[str, Any]:
        quoted = [{"match_phrase": {name: address}} for name in ("reply.text", "reason")]
        # A dead letter is not looked into by a search, so each is looked at.
        dead = {"wildcard": {"_index": f"{self._prefix}-{DEAD_LETTER_MONTH}*"}}
        body: dict[str, Any] = {
            "query": {
                "bool": {
                    "filter": [
                        {"bool": {"should": [{"term": {"recipient": address}}, dead, *quoted]}},
                    ]
                }
            },
            "size": PAGE,
            "pit": {"id": pit, "keep_alive": _KEEP},
            "sort": [{"_index": "asc"}, {"_seq_no": "asc"}, {"@timestamp": "asc"}, {"_doc": "asc"}],
            "seq_no_primary_term": True,
            "track_total_hits": False,
        }
        return body if after is None else {**body, "search_after": after.position}


def _action(place: _Place) -> bytes:
    return orjson.dumps(
        {
            "update": {
                "_index": place.in_index,
                "_id": place.document_id,
                "if_seq_no": place.seq_no,
                "if_primary_term": place.primary_term,
            }
        }
    )


def _rewriting(document: Document) -> bytes:
    # An update, since the audit's indices take no other write over a document (see `create_only`).
    script = {"lang": "painless", "source": "ctx._source = params.document", "params": {"document": document}}
    return orjson.dumps({"script": script})
