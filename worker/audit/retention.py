"""Removing months from OpenSearch, for `worker.control.retention`.

While a month's numbers are collected and put on record its writes are blocked: a record of that month that
comes late waits, and lies in a new index of the same name once the month is gone.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import orjson

from schemas.audit_chain import PROOF_MONTH
from schemas.audit_change import Action, ChangeType
from worker.audit.index_template import VERSION
from worker.audit.link import Call, OpenSearchLink, RequestRefused
from worker.audit.retention_months import (
    MonthIndex,
    cancel_copies,
    delete,
    hold,
    read_indices,
    refresh,
    release_all,
)
from worker.control.retention import Month, Pruning, Ranges, is_month
from worker.errors import AuditUnavailable

_NOT_FOUND = 404
_AT_ONCE = 10_000  # what OpenSearch gives in one answer, unless told otherwise
_WRITERS_AT_ONCE = 1000
_TIMEOUT_S = 60.0
_WHOLE = {"allow_partial_search_results": "false"}
_SEQ = "chain.seq"
_WRITER = "chain.writer"


class OpenSearchRetention:
    """Fulfils `Retention` over the indices of one prefix."""

    def __init__(self, link: OpenSearchLink, prefix: str, still_ours: Callable[[], bool]) -> None:
        """`still_ours`: whether nobody else may be migrating or pruning; asked before a month is deleted."""
        self._link = link
        self._prefix = prefix
        self._still_ours = still_ours

    async def free(self) -> None:
        """Lift what a command that was killed has left blocked: an outbox may wait for it. Raises AuditUnavailable."""
        await release_all(self._link, await read_indices(self._link, self._prefix))

    async def months(self) -> Sequence[Month]:
        """See `Retention`; a closed index is left out."""
        live = await self._live()
        if not live:
            return []
        params = {"expand_wildcards": "open,hidden", "filter_path": "indices.*.primaries"}
        await refresh(self._link, f"{self._prefix}-*")
        path = f"/{self._prefix}-*/_stats/docs,store"
        answer = await self._link.request(Call("GET", path, params=params, timeout_s=_TIMEOUT_S))
        try:
            found = {index: facts["primaries"] for index, facts in answer["indices"].items()}
            sizes = {index: (facts["docs"]["count"], facts["store"]["size_in_bytes"]) for index, facts in found.items()}
        except (AttributeError, KeyError, TypeError) as error:
            msg = "OpenSearch's sizes of indices cannot be read"
            raise AuditUnavailable(msg) from error
        return [Month(name, *sizes[month.index]) for name, month in sorted(live.items()) if month.index in sizes]

    async def close_month(self, month: str) -> Mapping[str, str]:
        """See `Retention`."""
        index = await self._index(month)
        await hold(self._link, index)
        await refresh(self._link, index.index)
        ranges = Ranges()
        async for writer in self._writers(index.index):
            async for number in self._numbers(index.index, writer):
                ranges.add(writer, number)
        return ranges.texts()

    async def reopen(self, month: str) -> None:
        """See `Retention`."""
        found = await read_indices(self._link, self._prefix)
        await release_all(self._link, [each for each in found if each.name == month])

    async def remove(self, month: str, ranges: Mapping[str, str]) -> bool:
        """See `Retention`; nothing can have come, since nothing was taken."""
        del ranges
        index = await self._index(month)
        if not self._still_ours():
            msg = "this command was away for too long, and another may be at work: run it again"
            raise AuditUnavailable(msg)
        copy = f"{self._prefix}-{month}-v{VERSION}"
        if copy != index.index:  # a migration that was interrupted has left one, perhaps
            await cancel_copies(self._link, copy)
            await delete(self._link, copy)
        await delete(self._link, index.index)
        return True

    async def proof(self, document_id: str) -> Mapping[str, Any] | None:
        """See `Retention`."""
        try:
            answer = await self._link.request(Call("GET", f"/{self._prefix}-{PROOF_MONTH}/_doc/{document_id}"))
        except RequestRefused as refusal:
            if refusal.status != _NOT_FOUND:
                raise
            return None
        found: Mapping[str, Any] = answer["_source"]
        return found

    async def prunings(self, month: str) -> Sequence[Pruning]:
        """See `Retention`."""
        index = await self._index(month)
        terms = [{"term": {"type": ChangeType.AUDIT.value}}, {"term": {"action": Action.PRUNED.value}}]
        body = {"query": {"bool": {"filter": terms}}, "size": _AT_ONCE, "_source": ["subject", "changed"]}
        hits = (await self._search(index.index, body))["hits"]["hits"]
        found = {Pruning(hit["_source"]["subject"], digest) for hit in hits for digest in hit["_source"]["changed"]}
        return sorted(found)

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """See `Retention`."""
        return await recorded(self._link, self._prefix, ids)

    async def _live(self) -> dict[str, MonthIndex]:
        found = await read_indices(self._link, self._prefix)
        return {index.name: index for index in found if index.live and is_month(index.name)}

    async def _index(self, month: str) -> MonthIndex:
        live = await self._live()
        if month not in live:
            msg = f"the audit has no month {month} any more"
            raise AuditUnavailable(msg)
        return live[month]

    async def _writers(self, index: str) -> AsyncIterator[str]:
        source = {"writer": {"terms": {"field": _WRITER}}}
        after: Mapping[str, Any] | None = None
        while True:
            composite: dict[str, Any] = {"size": _WRITERS_AT_ONCE, "sources": [source]}
            if after is not None:
                composite["after"] = after
            answer = await self._search(index, {"size": 0, "aggs": {"writers": {"composite": composite}}})
            found = answer["aggregations"]["writers"]
            for bucket in found["buckets"]:
                yield bucket["key"]["writer"]
            after = found.get("after_key")
            if after is None:
                return

    async def _numbers(self, index: str, writer: str) -> AsyncIterator[int]:
        after: list[int] | None = None
        while True:
            body: dict[str, Any] = {
                "query": {"bool": {"filter": [{"term": {_WRITER: writer}}, {"exists": {"field": _SEQ}}]}},
                "sort": [{_SEQ: {"order": "asc", "unmapped_type": "long"}}],
                "size": _AT_ONCE,
                "_source": False,
                "track_total_hits": False,
            }
            if after is not None:
                body["search_after"] = after
            hits = (await self._search(index, body))["hits"]["hits"]
            for hit in hits:
                yield int(hit["sort"][0])
            if len(hits) < _AT_ONCE:
                return
            after = hits[-1]["sort"]

    async def _search(self, index: str, body: Mapping[str, Any]) -> Any:
        call = Call("POST", f"/{index}/_search", orjson.dumps(body), _WHOLE, timeout_s=_TIMEOUT_S)
        answer = await self._link.request(call)
        if answer["timed_out"]:
            msg = "OpenSearch did not finish a search in time"
            raise AuditUnavailable(msg)
        return answer


async def recorded(link: OpenSearchLink, prefix: str, ids: Mapping[str, str]) -> frozenset[str]:
    """Of `ids` (document id -> ``YYYY.MM``), those that exist, refreshed or not; raises AuditUnavailable."""
    docs = [{"_index": f"{prefix}-{month}", "_id": id_, "_source": False} for id_, month in ids.items()]
    answer = await link.request(Call("POST", "/_mget", orjson.dumps({"docs": docs}), timeout_s=_TIMEOUT_S))
    # An index that nobody has written to yet holds none.
    return frozenset(doc["_id"] for doc in answer["docs"] if doc.get("found"))
