"""Counting in OpenSearch: one request of aggregations, bounded in its groups, its buckets and its time.

Counts are exact. A named group's can be short only where one index has more than a thousand groups,
and the answer then says by how many at most. Percentiles are t-digest estimates: their rank is within
half a percent of the one asked for, and nearer towards the ends.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from schemas.audit_stats import OF_CONFIG, PERCENTS, By, Counted, Group, Latency, Percentiles, StatsQuery
from schemas.smtp_config import Scope
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.audit.search_body import TIMEOUT_S, filters_of, require_whole
from worker.audit.whole import ask_whole
from worker.errors import AuditUnavailable

# A count that ends itself says so; the client gives up on one that does not.
_PATIENCE_S = TIMEOUT_S + 2
_OUTCOMES = 50  # more than there are
_SHARD_GROUPS = 1000  # what each index counts before the largest groups of all are named
_COMPRESSION = 200
_PARAMS = {
    "allow_no_indices": "true",
    # Half a count would be read as a count.
    "allow_partial_search_results": "false",
    "cancel_after_time_interval": f"{TIMEOUT_S:.0f}s",
    "filter_path": "took,timed_out,hits.total.value,aggregations",
}
_FIELDS = {
    By.PARTNER: ("partner",),
    By.ORG: ("partner", "org"),
    By.HOST: ("config.host",),
    By.CODE: ("reply.code",),
    By.CONFIG: ("config.scope", "config.name"),
}

Body = dict[str, Any]


class OpenSearchStats:
    """Fulfils the API's AuditStats."""

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
        self._path = f"/{index_prefix}-*/_search"

    async def count(self, query: StatsQuery) -> Counted:
        """Count. Raises AuditUnavailable where OpenSearch has no whole answer within 10 s."""
        call = Call("POST", self._path, orjson.dumps(stats_body(query)), _PARAMS, timeout_s=_PATIENCE_S)
        answer = await ask_whole(self._link, call)
        try:
            return _read(answer, query)
        except (KeyError, TypeError, ValueError) as error:
            msg = "OpenSearch's answer to a count cannot be read"
            raise AuditUnavailable(msg) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()


def stats_body(query: StatsQuery) -> Body:
    """The request for a question: its filters are the search's own, so that both are about the same records."""
    outcomes: Body = {"outcomes": {"terms": {"field": "outcome", "size": _OUTCOMES}}}
    found = dict(outcomes)
    if query.interval_ms is not None:
        found["buckets"] = _buckets(query.interval_ms, outcomes)
    if query.by is not By.OUTCOME:
        found |= _groups(query)
    if query.latencies:
        found["answered"] = {"filter": {"exists": {"field": "reply.code"}}, "aggs": _latencies(query)}
    return {
        "query": {"bool": {"filter": filters_of(query.records)}},
        "size": 0,
        "track_total_hits": True,
        "timeout": f"{TIMEOUT_S:.0f}s",
        "aggs": found,
    }


def _latencies(query: StatsQuery) -> Body:
    found: Body = {}
    for each in query.latencies:
        # Compressed half as much as by default: nearer, for some kilobytes.
        digest = {"field": f"timings.{each}", "percents": PERCENTS, "tdigest": {"compression": _COMPRESSION}}
        found[each.value] = {"percentiles": digest}
        found[f"{each}_count"] = {"value_count": {"field": f"timings.{each}"}}
    return found


def _buckets(interval_ms: int, inner: Body) -> Body:
    histogram = {"field": "@timestamp", "fixed_interval": f"{interval_ms}ms", "min_doc_count": 1}
    return {"date_histogram": histogram, **({"aggs": inner} if inner else {})}


def _groups(query: StatsQuery) -> Body:
    fields = _FIELDS[query.by]
    bounds: Body = {"size": query.groups, "shard_size": _SHARD_GROUPS, "show_term_doc_count_error": True}
    bounds |= {"order": [{"_count": "desc"}, {"_key": "asc"}]}
    if len(fields) == 1:
        groups: Body = {"terms": {"field": fields[0], **bounds}}
    else:
        groups = {"multi_terms": {"terms": [{"field": each} for each in fields], **bounds}}
    if query.interval_ms is not None:
        groups["aggs"] = {"buckets": _buckets(query.interval_ms, {})}
    if query.within is None or query.by not in OF_CONFIG:
        return {"groups": groups}
    own = _reached(query.within)
    foreign = {"bool": {"must": [{"exists": {"field": "config.scope"}}], "must_not": [own]}}
    return {"own": {"filter": own, "aggs": {"groups": groups}}, "foreign": {"filter": foreign}}


def _reached(within: Scope) -> Body:
    """SMTP records of this scope, or of its orgs."""
    exactly = {"term": {"config.scope": str(within)}}
    if within.org is not None or within.partner is None:
        return exactly
    return {"bool": {"should": [exactly, {"prefix": {"config.scope": f"org:{within.partner}/"}}]}}


def _read(answer: Any, query: StatsQuery) -> Counted:
    require_whole(answer)
    found = answer.get("aggregations", {})  # without an index there is none
    outcomes = _counts(found.get("outcomes", {}))
    grouped = found["own"]["groups"] if "own" in found else found.get("groups", {})
    buckets = {b["key"]: _counts(b["outcomes"]) for b in found.get("buckets", {}).get("buckets", ())}
    groups = [_group(b) for b in grouped.get("buckets", ())]
    if query.by is By.OUTCOME:
        groups = [Group(key, count, _series_of(key, buckets)) for key, count in outcomes.items()]
    return Counted(
        total=answer["hits"]["total"]["value"],
        outcomes=outcomes,
        buckets=buckets,
        groups=tuple(groups[: query.groups]),
        other=grouped.get("sum_other_doc_count", 0) + sum(group.count for group in groups[query.groups :]),
        foreign=found.get("foreign", {}).get("doc_count", 0),
        count_error=max(0, grouped.get("doc_count_error_upper_bound", 0)),
        latencies={each: _percentiles(found.get("answered", {}), each) for each in query.latencies},
        took_ms=answer["took"],
    )


def _counts(terms: Mapping[str, Any]) -> dict[str, int]:
    pairs: Iterable[tuple[str, int]] = ((b["key"], b["doc_count"]) for b in terms.get("buckets", ()))
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _group(bucket: Mapping[str, Any]) -> Group:
    key = bucket["key"]
    name = "/".join(key) if isinstance(key, list) else str(key)
    series = {inner["key"]: inner["doc_count"] for inner in bucket.get("buckets", {}).get("buckets", ())}
    return Group(name, bucket["doc_count"], series)


def _series_of(outcome: str, buckets: Mapping[int, Mapping[str, int]]) -> dict[int, int]:
    return {start: counts[outcome] for start, counts in buckets.items() if outcome in counts}


def _percentiles(found: Mapping[str, Any], each: Latency) -> Percentiles:
    count = found.get(f"{each}_count", {}).get("value", 0)
    values = found.get(each.value, {}).get("values", {}) if count else {}
    return Percentiles(int(count), {percent: round(float(values[f"{percent}.0"]), 3) for percent in PERCENTS if values})
