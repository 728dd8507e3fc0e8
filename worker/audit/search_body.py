"""An AuditQuery as OpenSearch's search request: terms, ranges and prefixes, nothing of it parsed as query syntax."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from schemas.audit_filters import Enhanced, Sort, Unseen
from schemas.audit_query import AuditQuery, epoch_ms
from schemas.smtp_config import Scope
from worker.audit.index_template import MAX_INDEXED_CHARS
from worker.errors import AuditTooSlow

TIMEOUT_S = 10.0
"""So long OpenSearch may look for an answer."""

_TIME = "@timestamp"
_TERMS = {
    "category": "category",
    "type": "type",
    "outcome": "outcome",
    "partner": "partner",
    "org": "org",
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
    ("recipient_hash", "asc", "keyword"),
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


def body_of(query: AuditQuery, *more: Clause) -> dict[str, Any]:
    """What every search for a query's records says: its filters, and `more`, and how long it may take."""
    return {"query": {"bool": {"filter": [*filters_of(query), *more]}}, "timeout": f"{TIMEOUT_S:.0f}s"}


def count_body(query: AuditQuery, milliseconds: int) -> dict[str, Any]:
    """How many of the query's records stand before a millisecond."""
    other = Sort.NEWEST if query.sort is Sort.OLDEST else Sort.OLDEST
    found = body_of(query, beyond(replace(query, sort=other), milliseconds))
    return {**found, "size": 0, "track_total_hits": True}


def within(milliseconds: int) -> Clause:
    """The records of one millisecond."""
    return {"range": {_TIME: {"gte": milliseconds, "lte": milliseconds, "format": "epoch_millis"}}}


def beyond(query: AuditQuery, milliseconds: int) -> Clause:
    """The records behind a millisecond, in the query's order."""
    bound = "gt" if query.sort is Sort.OLDEST else "lt"
    return {"range": {_TIME: {bound: milliseconds, "format": "epoch_millis"}}}


def hits_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records found. Raises AuditTooSlow where these are not all."""
    require_whole(answer)
    found: list[dict[str, Any]] = answer.get("hits", {}).get("hits", [])  # the path filter drops an empty list
    return found


def require_whole(answer: Mapping[str, Any]) -> None:
    """Raise AuditTooSlow where OpenSearch says that its time was over before the end.

    Postbote never asks for ``terminate_after``: whoever asks whether a mail was sent must not be told of half the
    records. ``terminated_early`` says nothing without it: OpenSearch sets it for whole counts that an index gave.
    """
    if answer["timed_out"]:
        msg = "OpenSearch stopped before it had looked at every record"
        raise AuditTooSlow(msg)


def sort_of(query: AuditQuery) -> list[Clause]:
    """The order: by time either way, and within a millisecond always the same."""
    order = "asc" if query.sort is Sort.OLDEST else "desc"
    return [
        {_TIME: {"order": order, "unmapped_type": "date"}},
        *({name: {"order": order, "unmapped_type": kind}} for name, order, kind in _TIEBREAK),
    ]


def tie_of(document: Mapping[str, Any]) -> tuple[tuple[bool, Any], ...]:
    """What a stored document is told apart by within its millisecond: in the order in which OpenSearch sorts it."""
    return tuple(_tie(document.get(name), name, order) for name, order, _ in _TIEBREAK)


def _tie(value: Any, name: str, order: str) -> tuple[bool, Any]:
    if order == "desc":
        return (False, -value) if isinstance(value, int) else (True, 0)
    if not isinstance(value, str) or len(value) > MAX_INDEXED_CHARS:
        return (True, "")
    return (False, value.lower() if name == "recipient" else value)


def filters_of(query: AuditQuery) -> list[Clause]:
    """What every record found must fulfil; for the filter clause of a bool query."""
    filters: list[Clause] = [
        {"term": {path: str(value)}} for name, path in _TERMS.items() if (value := getattr(query, name)) is not None
    ]
    if query.recipient is not None:
        filters.append(_recipient(query.recipient, query.recipient_hash))
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
    bounded = {name: epoch_ms(bound) for name, bound in bounds.items() if bound is not None}
    return [{"range": {_TIME: {**bounded, "format": "epoch_millis"}}}] if bounded else []


def _recipient(address: str, keyed_hash: str | None) -> Clause:
    """The records that name the address, and those that know it by its hash."""
    named: Clause = {"term": {"recipient": address}}
    if keyed_hash is None:
        return named
    return {"bool": {"should": [named, {"term": {"recipient_hash": keyed_hash}}], "minimum_should_match": 1}}


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
