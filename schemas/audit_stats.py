"""Counting the audit: the question as its parameters spell it, and the answer for charts.

Records of the type ``email.delivery`` count, and no others: one for each recipient and transition. A mail
that was deferred twice and then accepted is three of them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from schemas.audit_filters import READERS
from schemas.audit_query import AuditQuery, AuditQueryError, epoch_ms, parse_audit_query
from schemas.smtp_config import Scope

DELIVERY = "email.delivery"
COUNTED = "records of type email.delivery: one for each recipient and transition, not mails"
MAX_BUCKETS = 1000
MAX_GROUPS = 100
DEFAULT_GROUPS = 20
# Groups times buckets: what a server counts at once, and a browser draws.
MAX_CELLS = MAX_BUCKETS * DEFAULT_GROUPS
MAX_RANGE = timedelta(days=800)
PERCENTS = (50, 95, 99)

_INTERVAL = re.compile(r"([1-9]\d{0,3})([mhd])\Z", re.ASCII)
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MAX_SHOWN_CHARS = 100
_DEFAULTS = {"timefrom": "now-7d", "timeto": "now"}
# Whatever is about a page of records instead of which ones is no part of this question.
_OF_PAGES = {"offset", "limit", "type", "sort", "cursor", "format"}
FILTERS = tuple(name for name in READERS if name not in _OF_PAGES)
"""The search's filters that a question for counts may have, too."""


class By(StrEnum):
    """What records are grouped by.

    org     PARTNER/ORG
    host    the host of the SMTP record that was used: the provider
    code    the server's reply code
    config  SCOPE/NAME of the SMTP record that was used
    """

    OUTCOME = "outcome"
    PARTNER = "partner"
    ORG = "org"
    HOST = "host"
    CODE = "code"
    CONFIG = "config"


OF_CONFIG = frozenset({By.HOST, By.CONFIG})
"""Groups that name what only the SMTP record's own scope may know."""


class Latency(StrEnum):
    """A part of a record's timings, in milliseconds."""

    TOTAL = "total_ms"
    QUEUED = "queued_ms"
    TRANSACTION = "transaction_ms"


@dataclass(frozen=True, slots=True)
class StatsQuery:
    """What to count. `records` has its type and both its times.

    `groups`: how many are named, the largest first; the others are counted together. `interval_ms`
    is None for no time buckets. Of SMTP records that `within` doesn't reach, neither host nor name
    is told; None reaches all.
    """

    records: AuditQuery
    by: By = By.OUTCOME
    interval_ms: int | None = None
    groups: int = DEFAULT_GROUPS
    latencies: tuple[Latency, ...] = tuple(Latency)
    within: Scope | None = None

    @property
    def bounds_ms(self) -> tuple[int, int]:
        """Both ends of the range, included, in milliseconds since 1970."""
        first, last = self.records.time_from, self.records.time_to
        if first is None or last is None:
            msg = "statistics are about a range of time"
            raise ValueError(msg)
        return epoch_ms(first), epoch_ms(last)

    def starts(self) -> range:
        """Where the time buckets start, in milliseconds since 1970: multiples of the interval, in UTC."""
        if self.interval_ms is None:
            return range(0)
        first, last = self.bounds_ms
        return range(first - first % self.interval_ms, last + 1, self.interval_ms)


@dataclass(frozen=True, slots=True)
class Group:
    """One value's count, and its count by the start of each time bucket that is not empty."""

    key: str
    count: int
    series: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of `count` records that have the timing, its 50th, 95th and 99th percentile in ms; empty for no record.

    Records without a server's reply are left out: how long an address kept silent is no measure of mail,
    and of a network that is not theirs it would tell tenants which addresses are taken.
    """

    count: int
    values: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Counted:
    """What an audit counted.

    `other` are those of groups beyond the named ones, `foreign` those whose group is not the asker's to
    know; what is left has no such value. `count_error`: by so many a named group may be short, which is 0
    unless there are thousands of groups. `took_ms` is the store's own time.
    """

    total: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    buckets: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    other: int = 0
    foreign: int = 0
    count_error: int = 0
    latencies: Mapping[Latency, Percentiles] = field(default_factory=dict)
    took_ms: int = 0


def parse_stats_query(params: Sequence[tuple[str, str]], now: datetime) -> StatsQuery:
    """Read a query string's pairs; `now` (aware) is what relative times count from.

    Raises AuditQueryError, with the parameter's name, for one that is unknown, repeated or wrong, and for
    a question that is too large, with what makes it smaller.
    """
    given = _given(params)
    filters = {**_DEFAULTS, **{name: value for name, value in given.items() if name not in _OPTIONS}}
    records = parse_audit_query(list(filters.items()), now, prefix="")
    options: dict[str, Any] = {}
    for name, (attribute, read) in _OPTIONS.items():
        if name in given:
            options[attribute] = read(name, given[name])
    query = StatsQuery(replace(records, type=DELIVERY), **options)
    _check_size(query)
    return query


def _given(params: Sequence[tuple[str, str]]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in params:
        if not name and not value:  # as in the audit's documented spelling, ``?&``
            continue
        if name not in _OPTIONS and name not in FILTERS:
            known = ", ".join((*_OPTIONS, *FILTERS))
            raise AuditQueryError(name[:_MAX_SHOWN_CHARS], f"is not a known parameter; known: {known}")
        if name in given:
            raise AuditQueryError(name, "is given more than once")
        given[name] = value
    return given


def _check_size(query: StatsQuery) -> None:
    first, last = query.bounds_ms
    if last - first > MAX_RANGE / timedelta(milliseconds=1):
        raise AuditQueryError("timefrom", f"the range is longer than {MAX_RANGE.days} days: ask for less at a time")
    buckets = len(query.starts())
    if buckets > MAX_BUCKETS:
        message = f"makes {buckets} buckets of this range, and {MAX_BUCKETS} is the most: take a longer one"
        raise AuditQueryError("interval", f"{message}, or a later timefrom")
    if buckets * query.groups > MAX_CELLS:
        message = f"{query.groups} groups in {buckets} buckets are more than {MAX_CELLS} counts"
        raise AuditQueryError("limit", f"{message}: take fewer groups, or a longer interval")


def _by(name: str, value: str) -> By:
    try:
        return By(value)
    except ValueError:
        raise AuditQueryError(name, f"is none of {', '.join(By)}") from None


def _interval(name: str, value: str) -> int:
    match = _INTERVAL.match(value)
    if match is None:
        raise AuditQueryError(name, "expected minutes, hours or days, such as 5m, 1h or 1d")
    return int(match[1]) * _UNIT_MS[match[2]]


def _groups(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not 1 <= int(value) <= MAX_GROUPS:
        raise AuditQueryError(name, f"expected a whole number from 1 to {MAX_GROUPS}")
    return int(value)


def _latencies(name: str, value: str) -> tuple[Latency, ...]:
    if value == "none":
        return ()
    try:
        return tuple(dict.fromkeys(Latency(each) for each in value.split(",")))
    except ValueError:
        raise AuditQueryError(name, f"expected some of {','.join(Latency)}, or none") from None


_OPTIONS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "by": ("by", _by),
    "interval": ("interval_ms", _interval),
    "limit": ("groups", _groups),
    "percentiles": ("latencies", _latencies),
}


def stats_document(query: StatsQuery, counted: Counted) -> dict[str, Any]:
    """The answer as JSON has it: every time bucket of the range, also the empty ones, and series of their length."""
    starts = query.starts()
    first, last = query.bounds_ms
    named = sum(group.count for group in counted.groups)
    document: dict[str, Any] = {
        "counted": COUNTED,
        "timefrom": _iso(first),
        "timeto": _iso(last),
        "total": counted.total,
        "outcomes": dict(counted.outcomes),
        "by": query.by.value,
        "groups": [_group_document(group, starts) for group in counted.groups],
        "other": counted.other,
        "foreign": counted.foreign,
        "without": counted.total - named - counted.other - counted.foreign,
        "count_error": counted.count_error,
        "percentiles": {name.value: _percentiles_document(found) for name, found in counted.latencies.items()},
        "took_ms": counted.took_ms,
    }
    if query.interval_ms is not None:
        document["interval_ms"] = query.interval_ms
        document["buckets"] = [_bucket_document(start, counted.buckets.get(start, {})) for start in starts]
    return document


def _bucket_document(start: int, outcomes: Mapping[str, int]) -> dict[str, Any]:
    return {"start": _iso(start), "count": sum(outcomes.values()), "outcomes": dict(outcomes)}


def _group_document(group: Group, starts: range) -> dict[str, Any]:
    shown: dict[str, Any] = {"key": group.key, "count": group.count}
    return {**shown, "series": [group.series.get(start, 0) for start in starts]} if starts else shown


def _percentiles_document(found: Percentiles) -> dict[str, Any]:
    return {"count": found.count, **{f"p{percent}": found.values.get(percent) for percent in PERCENTS}}


def _iso(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
