"""Reading the audit's chains in OpenSearch, for verifying: by writer and number, page by page.

What is ordered by writer and number needs no further order: a page that is full gives up the records of its last
number, and the next page begins with them.
"""

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import structlog

from schemas.audit_chain import ProofKind
from schemas.audit_change import Action, ChangeType
from worker.audit.entries import restore
from worker.audit.index_template import DEAD_LETTER_MONTH
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.audit.proof_index import proof_index
from worker.audit.whole import ask_whole
from worker.errors import AuditUnavailable
from worker.proof.ports import Pages, Span, Stored

log = structlog.get_logger(__name__)

_PAGE = 5000
_MOST = 10_000  # what OpenSearch gives at once
_KEEP_ALIVE = "5m"
_POINT = "/_search/point_in_time"
_TIMEOUT_S = 60.0
_PARAMS = {
    # Half an answer would be read as missing records.
    "allow_partial_search_results": "false",
    "filter_path": "timed_out,pit_id,hits.total.value,hits.hits._index,hits.hits._id,hits.hits._source,"
    "hits.hits.sort,aggregations",
}
# Of the months, none may be passed over (see `whole`); the index of proofs may not be there yet.
_OF_RECORDS = {"allow_no_indices": "true"}
_OF_PROOFS = {"ignore_unavailable": "true"}
_COPY = re.compile(r"-v\d{1,9}\Z", re.ASCII)  # an index that was migrated answers under its old name
_CHAINED: list[dict[str, Any]] = [{"exists": {"field": "chain.writer"}}, {"exists": {"field": "chain.seq"}}]

Clause = dict[str, Any]
Hit = dict[str, Any]


class OpenSearchProofReader:
    """Fulfils the proof's ProofReader."""

    settles_ms = 3000  # a refresh a second, and some time for a bulk

    def __init__(
        self,
        url: str,
        *,
        index_prefix: str = "systemaudit",
        page: int = _PAGE,
        user: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        verify: bool = True,
        setting: str = "POSTBOTE_OPENSEARCH_USER",
    ) -> None:
        """Prepare; `page` records are held at once. Raises AuditUnavailable where the CA file cannot be read."""
        self._link = OpenSearchLink(OpenSearchAccess(url, user, password, ca_file, verify, setting))
        self._prefix = f"{index_prefix}-"
        self._records = f"{index_prefix}-*"
        self._proofs = proof_index(index_prefix)
        self._page = page

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    def chained(self, span: Span, writer: str | None) -> Pages:
        """See `ProofReader`."""
        return self._walk(self._records, [*_CHAINED, _within(span), *_of("chain.writer", writer)], _order("chain."))

    def proofs(self, span: Span, writer: str | None) -> Pages:
        """See `ProofReader`."""
        kinds = {"terms": {"kind": [ProofKind.HEAD.value, ProofKind.VOID.value]}}
        return self._walk(self._proofs, [kinds, _within(span), *_of("writer", writer)], _order(""))

    def unchained(self, span: Span) -> Pages:
        """See `ProofReader`."""
        order = [_asc("@timestamp", "date"), _asc("event_id", "keyword"), _asc("recipient", "keyword")]
        return self._walk(self._records, [_NO_CHAIN, _within(span)], order)

    async def count_unchained(self, span: Span) -> int:
        """See `ProofReader`."""
        body = {"query": _all([_NO_CHAIN, _range(span)]), "size": 0, "track_total_hits": True}
        return int((await self._search(self._records, body))["hits"]["total"]["value"])

    async def numbers(self, writer: str, low: int, high: int) -> Pages:
        """See `ProofReader`."""
        while low <= high:
            span = {"range": {"chain.seq": {"gte": low, "lte": high}}}
            body = _body([*_of("chain.writer", writer), span], [_asc("chain.seq", "long")], self._page)
            hits = _hits(await self._search(self._records, body))
            kept, _ = await self._kept(hits, body, self._records)
            if kept:
                yield [self._stored(hit) for hit in kept]
            if len(hits) < self._page:
                return
            low = int(kept[-1]["sort"][0]) + 1

    async def at(self, writer: str, numbers: Sequence[int]) -> Sequence[Stored]:
        """See `ProofReader`."""
        wanted = list(numbers)
        of_records = [*_of("chain.writer", writer), {"terms": {"chain.seq": wanted}}]
        of_voids = [_kind(ProofKind.VOID), *_of("writer", writer), {"terms": {"seq": wanted}}]
        found = [*await self._few(self._records, of_records), *await self._few(self._proofs, of_voids)]
        return [self._stored(hit) for hit in found]

    async def last_before(self, writer: str, seq: int) -> int:
        """See `ProofReader`."""
        below = {"lt": seq, "gte": 1}
        records: list[Clause] = [*_of("chain.writer", writer), {"range": {"chain.seq": below}}]
        voids: list[Clause] = [_kind(ProofKind.VOID), *_of("writer", writer), {"range": {"seq": below}}]
        found = [
            *await self._few(self._records, records, [_desc("chain.seq")], 1),
            *await self._few(self._proofs, voids, [_desc("seq")], 1),
        ]
        return max((int(hit["sort"][0]) for hit in found), default=0)

    async def voids(self, writer: str, low: int, high: int) -> Sequence[Stored]:
        """See `ProofReader`."""
        span = {"range": {"seq": {"gte": low, "lte": high}}}
        clauses, found = [_kind(ProofKind.VOID), *_of("writer", writer), span], list[Stored]()
        async for page in self._walk(self._proofs, clauses, _order("")):
            found.extend(page)
        return found

    async def head_from(self, writer: str, seq: int) -> Stored | None:
        """See `ProofReader`."""
        clauses = [_kind(ProofKind.HEAD), *_of("writer", writer), {"range": {"seq": {"gte": seq}}}]
        found = await self._few(self._proofs, clauses, [_asc("seq", "long")], 1)
        return self._stored(found[0]) if found else None

    async def first_chained_ms(self) -> int | None:
        """See `ProofReader`."""
        oldest = {"oldest": {"min": {"field": "@timestamp"}}}
        answer = await self._search(self._records, {"query": _all(_CHAINED), "size": 0, "aggs": oldest})
        found = answer.get("aggregations", {}).get("oldest", {}).get("value")  # without an index there is none
        return None if found is None else int(found)

    async def prunings(self) -> Sequence[Stored]:
        """See `ProofReader`."""
        said = [{"term": {"type": ChangeType.AUDIT.value}}, {"term": {"action": Action.PRUNED.value}}]
        return [self._stored(hit) for hit in await self._few(self._records, [*_CHAINED, *said])]

    async def pruned(self) -> Sequence[Stored]:
        """See `ProofReader`."""
        return [self._stored(hit) for hit in await self._few(self._proofs, [_kind(ProofKind.PRUNED)])]

    async def existing(self, ids: Collection[str]) -> frozenset[str]:
        """See `ProofReader`."""
        found = await self._few(self._records, [{"ids": {"values": list(ids)}}], source=False)
        return frozenset(hit["_id"] for hit in found)

    async def _few(
        self,
        indices: str,
        clauses: Sequence[Clause],
        order: Sequence[Clause] = (),
        size: int = _MOST,
        *,
        source: bool = True,
    ) -> list[Hit]:
        body = {**_body(clauses, order, size), "_source": source}
        return _hits(await self._search(indices, body))

    async def _walk(self, indices: str, clauses: Sequence[Clause], order: Sequence[Clause]) -> Pages:
        """Everything that fulfils the clauses, in this order, as it was when the walk began."""
        body = _body(clauses, order, self._page)
        async with self._point(indices) as point:
            if point is None:
                return
            while True:
                body["pit"] = {"id": point[0], "keep_alive": _KEEP_ALIVE}
                hits = _hits(await self._search(None, body, point))
                kept, more = await self._kept(hits, body, None)
                if kept:
                    yield [self._stored(hit) for hit in kept]
                if not more:
                    return
                body["search_after"] = kept[-1]["sort"]

    async def _kept(self, hits: list[Hit], body: Mapping[str, Any], indices: str | None) -> tuple[list[Hit], bool]:
        """What of a page can be given now, so that what stands at one place is not torn; and whether more follows."""
        if len(hits) < body["size"]:
            return hits, False
        last = hits[-1]["sort"]
        kept = [hit for hit in hits if hit["sort"] != last]
        if kept:
            return kept, True
        hits = _hits(await self._search(indices, {**body, "size": _MOST}))
        if len(hits) == _MOST and hits[-1]["sort"] == last:
            msg = f"OpenSearch has {_MOST} records or more at one place: {last}"
            raise AuditUnavailable(msg)
        return [hit for hit in hits if hit["sort"] == last], True

    @asynccontextmanager
    async def _point(self, indices: str) -> AsyncIterator[list[str] | None]:
        """A point in time, whose name changes as it is used; None where there is no index."""
        params = {"keep_alive": _KEEP_ALIVE, "allow_partial_pit_creation": "false"}
        if not await self._there(indices):
            yield None
            return
        answer = await self._link.request(Call("POST", f"/{indices}{_POINT}", params=params, timeout_s=_TIMEOUT_S))
        point = [str(answer["pit_id"])]
        try:
            yield point
        finally:
            try:
                body = orjson.dumps({"pit_id": point})
                await self._link.request(Call("DELETE", _POINT, body, timeout_s=_TIMEOUT_S))
            except AuditUnavailable as error:  # it ends by itself, in time
                log.info("a point in time could not be closed", reason=str(error))

    async def _there(self, indices: str) -> bool:
        answer = await self._search(indices, {"size": 0, "track_total_hits": 1})
        return bool(answer["hits"]["total"]["value"])

    async def _search(self, indices: str | None, body: Mapping[str, Any], point: list[str] | None = None) -> Any:
        content = orjson.dumps({**body, "timeout": f"{_TIMEOUT_S:.0f}s"})
        if indices is None:
            answer = await self._link.request(Call("POST", "/_search", content, _PARAMS, timeout_s=_TIMEOUT_S + 2))
        else:
            params = _PARAMS | (_OF_PROOFS if indices == self._proofs else _OF_RECORDS)
            call = Call("POST", f"/{indices}/_search", content, params, timeout_s=_TIMEOUT_S + 2)
            answer = await ask_whole(self._link, call)
        if answer["timed_out"]:
            msg = "OpenSearch did not finish a search in time"
            raise AuditUnavailable(msg)
        if point is not None:
            point[0] = str(answer.get("pit_id", point[0]))
        return answer

    def _stored(self, hit: Hit) -> Stored:
        index: str = hit["_index"]
        month = _COPY.sub("", index.removeprefix(self._prefix))
        document: dict[str, Any] = hit.get("_source", {})
        if index == self._proofs:
            return Stored(index, hit["_id"], document)
        if month != DEAD_LETTER_MONTH:
            return Stored(index, hit["_id"], document, month)
        return _out_of_letter(index, hit["_id"], document)


def _out_of_letter(index: str, document_id: str, letter: dict[str, Any]) -> Stored:
    try:
        record = restore(letter)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Stored(index, document_id, letter)
    if record is letter:  # one that never was a record
        return Stored(index, document_id, letter)
    del record["dead_letter"]
    around = {name: value for name, value in letter.items() if name != "dead_letter"}
    disagrees = tuple(name for name, value in around.items() if record.get(name) != value)
    return Stored(index, document_id, record, None, disagrees)


def _hits(answer: Any) -> list[Hit]:
    found: list[Hit] = answer.get("hits", {}).get("hits", [])  # the path filter drops an empty list
    return found


def _body(clauses: Sequence[Clause], order: Sequence[Clause], size: int) -> dict[str, Any]:
    return {"query": _all(clauses), "sort": list(order), "size": size, "track_total_hits": False}


def _all(clauses: Sequence[Clause]) -> Clause:
    return {"bool": {"filter": list(clauses)}}


_NO_CHAIN: Clause = {"bool": {"must_not": [_all(_CHAINED)]}}


def _of(field: str, value: str | None) -> list[Clause]:
    return [] if value is None else [{"term": {field: value}}]


def _kind(kind: ProofKind) -> Clause:
    return {"term": {"kind": kind.value}}


def _range(span: Span) -> Clause:
    bounds = {"gte": span.since_ms, "lte": span.until_ms, "format": "epoch_millis"}
    return {"range": {"@timestamp": bounds}}


def _within(span: Span) -> Clause:
    """In the range, or without a time."""
    timeless = {"bool": {"must_not": [{"exists": {"field": "@timestamp"}}]}}
    return {"bool": {"should": [_range(span), timeless], "minimum_should_match": 1}}


def _order(prefix: str) -> list[Clause]:
    return [_asc(f"{prefix}writer", "keyword"), _asc(f"{prefix}seq", "long")]


def _asc(field: str, kind: str) -> Clause:
    return {field: {"order": "asc", "unmapped_type": kind}}


def _desc(field: str) -> Clause:
    return {field: {"order": "desc", "unmapped_type": "long"}}
