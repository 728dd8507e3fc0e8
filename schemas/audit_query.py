"""The question to the audit and its answer, in the documented spelling of ``filter.*`` parameters.

Both ends of a time range belong to it, in whole milliseconds; see `schemas.audit_times` for how times are spelt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.audit import Outcome
from schemas.audit_filters import (
    DEFAULT_LIMIT,
    MAX_DEPTH,
    MAX_LIMIT,
    NO_FILTERS,
    READERS,
    CodeRange,
    Enhanced,
    Format,
    Sort,
    Unseen,
)
from schemas.audit_times import TIME_FORMS, epoch_ms, parse_time

__all__ = [
    "DEFAULT_LIMIT",
    "MAX_DEPTH",
    "MAX_LIMIT",
    "PREFIX",
    "AuditPage",
    "AuditQuery",
    "AuditQueryError",
    "AuditRequest",
    "Continuation",
    "epoch_ms",
    "parse_audit_query",
    "parse_audit_request",
    "parse_time",
]

_MAX_SHOWN_CHARS = 100  # of a name that is no filter's
PREFIX = "filter."
"""How the documented parameters begin."""
# How the answer is cut and shaped: a cursor goes on with whatever these are.
_NOT_THE_QUESTION = frozenset({"cursor", "format", "limit", "offset"})


class AuditQueryError(ValueError):
    """A question that cannot be answered as asked; `path` is the parameter at fault."""

    def __init__(self, path: str, message: str) -> None:
        """Keep the path apart, for the answer's ``errors``."""
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where an answer goes on; only the store that made it can read it.

    `position`: what the last record was sorted by. `snapshot` names the state of the store that is read,
    None where that has yet to be fixed. `total`: how many matches the first page counted. `shown`: the ids
    of the records already given that stand at the very position.
    """

    position: tuple[Any, ...]
    snapshot: str | None = None
    total: int = 0
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which records, and in which order; every filter that is None admits all.

    `time_from` and `time_to` bound the record's ``@timestamp``, both included, in whole
    milliseconds. `recipient` and `domain` match whatever the address's case; every other filter matches
    exactly. `config` is the name of the SMTP record that was used. `outcome`, and any of `outcomes`. `text`:
    words that must all stand in the server's reply or in the reason, in any case and order. A word is what
    Unicode takes for one: ``5.1.1`` and ``example.org`` are one each.

    For questions that Postbote asks by itself: `config_scope`, the SMTP record's scope as `Scope` spells it;
    `config_within`, a scope that the SMTP record belongs to or lies below; `unseen`, where `text` is not looked
    for; `recipient_hash`, the keyed hash by which `recipient` is found where the record does not name it.
    `after`: go on where another page of the same question ended; the offset says nothing then.
    """

    time_from: datetime | None = None
    time_to: datetime | None = None
    offset: int = 0
    limit: int = DEFAULT_LIMIT
    category: str | None = None
    type: str | None = None
    outcome: Outcome | None = None
    partner: str | None = None
    org: str | None = None
    recipient: str | None = None
    event_id: str | None = None
    event_source: str | None = None
    config: str | None = None
    config_scope: str | None = None
    config_within: str | None = None
    outcomes: tuple[Outcome, ...] = ()
    domain: str | None = None
    code: CodeRange | None = None
    enhanced: Enhanced | None = None
    possible_duplicate: bool | None = None
    text: str | None = None
    unseen: Unseen | None = None
    recipient_hash: str | None = None
    sort: Sort = Sort.NEWEST
    after: Continuation | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """One page of the answer: `total` counts every match, `took_ms` is the store's own time.

    `next` is where the following page begins; None on the last one.
    """

    total: int
    records: list[dict[str, Any]]
    offset: int
    limit: int
    took_ms: int
    next: Continuation | None = None


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """A question as it arrived: with the cursor to go on from, unread, and the format of the answer.

    `question`: the parameters that choose and order records, as they were typed; one cursor belongs to one of them.
    """

    query: AuditQuery
    format: Format = Format.JSON
    cursor: str | None = None
    question: Mapping[str, str] = field(default_factory=dict)


def parse_audit_query(params: Sequence[tuple[str, str]], now: datetime, *, prefix: str = PREFIX) -> AuditQuery:
    """Read the question alone; see `parse_audit_request`."""
    return parse_audit_request(params, now, prefix=prefix).query


def parse_audit_request(params: Sequence[tuple[str, str]], now: datetime, *, prefix: str = PREFIX) -> AuditRequest:
    """Read a query string's pairs; `now` (aware) is what relative times count from.

    `prefix` is how each parameter begins. An empty pair is passed over: the documented spelling begins
    with ``?&``. Raises AuditQueryError, with the parameter's name, for a filter that is unknown, repeated
    or wrong.
    """
    given: dict[str, tuple[str, str]] = {}
    for name, value in params:
        if not name and not value:
            continue
        own = _own_name(name, prefix)
        if own in given:
            raise AuditQueryError(name, "is given more than once")
        given[own] = (name, value)
    read = _read(given, now)
    form, cursor = read.pop("format", Format.JSON), read.pop("cursor", None)
    query = AuditQuery(**_one_outcome(read))
    _check_together(query, prefix)
    _check_shape(form, cursor, {own: name for own, (name, _) in given.items()})
    question = {own: value for own, (_, value) in given.items() if own not in _NOT_THE_QUESTION}
    return AuditRequest(query, form, cursor, question)


def _own_name(name: str, prefix: str) -> str:
    own = name.removeprefix(prefix)
    if own not in READERS or (name != f"{prefix}{own}" and own not in NO_FILTERS):
        known = ", ".join(f"{prefix}{each}" for each in READERS)
        raise AuditQueryError(name[:_MAX_SHOWN_CHARS], f"is not a known filter; known: {known}")
    return own


def _read(given: Mapping[str, tuple[str, str]], now: datetime) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for own, (name, value) in given.items():
        filled, reader = READERS[own]
        try:
            found[filled] = reader(value, now)
        except (ValueError, OverflowError) as error:
            reason = TIME_FORMS if isinstance(error, OverflowError) else str(error)
            raise AuditQueryError(name, reason) from None
    return found


def _one_outcome(found: dict[str, Any]) -> dict[str, Any]:
    match found.get("outcomes"):
        case (only,):
            return {name: value for name, value in found.items() if name != "outcomes"} | {"outcome": only}
        case _:
            return found


def _check_together(query: AuditQuery, prefix: str) -> None:
    if query.offset + query.limit > MAX_DEPTH:
        deeper = f"go on by {prefix}cursor, narrow the time or add a filter"
        msg = f"offset and limit reach beyond record {MAX_DEPTH}: {deeper}"
        raise AuditQueryError(f"{prefix}offset", msg)
    if query.time_from and query.time_to and query.time_from > query.time_to:
        raise AuditQueryError(f"{prefix}timefrom", f"is later than {prefix}timeto")


def _check_shape(form: Format, cursor: str | None, names: Mapping[str, str]) -> None:
    """Refuse what would be passed over; `names` are the parameters' as they were typed."""
    if cursor is not None and "offset" in names:
        raise AuditQueryError(names["offset"], "does not go with a cursor, which knows where it goes on")
    if form is Format.JSON:
        return
    if cursor is not None:
        raise AuditQueryError(names["format"], "does not go with a cursor: it streams all matches")
    for each in ("offset", "limit"):
        if each in names:
            raise AuditQueryError(names[each], "does not go with a stream of all matches")
