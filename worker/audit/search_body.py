"""An AuditQuery as OpenSearch's search request: terms, ranges and prefixes, nothing of it parsed as query syntax."""

from typing import Any

from schemas.audit_filters import Enhanced, Sort, Unseen
from schemas.audit_query import AuditQuery, epoch_ms
from schemas.smtp_config import Scope

TIMEOUT_S = 10.0
"""So long OpenSearch may look for an answer."""

_TERMS = {
    "category": "category",
    "type": "type",
    "outcome": "outcome",
    "partner": "partner",
    "org": "org",
    "recipient": "recipient",
    "domain": "recipient.domain",
    "event_id": "event_id",
    "event_source": "event_source",
    "config": "config.name",
    "config_scope": "config.scope",
}
_WORDS_IN = ("reply.text", "reason")
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
    ("partner", "asc", "keyword"),
    ("org", "asc", "keyword"),
)

Clause = dict[str, Any]


def search_body(query: AuditQuery) -> dict[str, Any]:
    """The search request for a query's page by offset."""
    return {
        "query": {"bool": {"filter": filters_of(query)}},
        "sort": sort_of(query),
        "from": query.offset,
        "size": query.limit,
        "track_total_hits": True,
        "timeout": f"{TIMEOUT_S:.0f}s",
    }


def sort_of(query: AuditQuery) -> list[Clause]:
    """The order: by time either way, and within a millisecond always the same."""
    order = "asc" if query.sort is Sort.OLDEST else "desc"
    return [
        {"@timestamp": {"order": order, "unmapped_type": "date"}},
        *({name: {"order": order, "unmapped_type": kind}} for name, order, kind in _TIEBREAK),
    ]


def filters_of(query: AuditQuery) -> list[Clause]:
    """What every record found must fulfil; for the filter clause of a bool query."""
    filters: list[Clause] = [
        {"term": {path: str(value)}} for name, path in _TERMS.items() if (value := getattr(query, name)) is not None
    ]
    if query.config_within is not None:
        filters.append(_within(Scope.parse(query.config_within)))
    if query.outcomes:
        filters.append({"terms": {"outcome": [outcome.value for outcome in query.outcomes]}})
    if query.code is not None:
        filters.append({"range": {"reply.code": {"gte": query.code.low, "lte": query.code.high}}})
    if query.enhanced is not None:
        filters.append(_enhanced(query.enhanced))
    if query.possible_duplicate is not None:
        filters.append({"term": {"possible_duplicate": query.possible_duplicate}})
    if query.text is not None:
        filters.append(_words(query.text, query.unseen))
    return [*filters, *_times(query)]


def _times(query: AuditQuery) -> list[Clause]:
    bounds = {"gte": query.time_from, "lte": query.time_to}
    within = {name: epoch_ms(bound) for name, bound in bounds.items() if bound is not None}
    return [{"range": {"@timestamp": {**within, "format": "epoch_millis"}}}] if within else []


def _within(scope: Scope) -> Clause:
    own = [{"term": {"config.scope": str(scope)}}]
    if scope.org is None:
        own.append({"prefix": {"config.scope": f"org:{scope.partner}/"}})
    return {"bool": {"should": own, "minimum_should_match": 1}}


def _enhanced(enhanced: Enhanced) -> Clause:
    if enhanced.whole:
        return {"term": {"reply.enhanced": enhanced.begins}}
    return {"prefix": {"reply.enhanced": f"{enhanced.begins}."}}


def _words(words: str, unseen: Unseen | None) -> Clause:
    fields = _WORDS_IN if unseen is None else _WORDS_IN[:1]
    # Every word in one of the fields: words and not a query, whatever characters they are of.
    found = {"multi_match": {"query": words, "fields": fields, "type": "cross_fields", "operator": "and"}}
    if unseen is None:
        return found
    hidden: list[Clause] = [{"prefix": {"reason.keyword": begin}} for begin in unseen.reasons]
    hidden.append({"terms": {"reply.phase": list(unseen.phases)}})
    return {"bool": {"filter": [found], "must_not": hidden}}
