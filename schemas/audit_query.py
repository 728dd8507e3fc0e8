"""The question to the audit and its answer, in the documented spelling of ``filter.*`` parameters.

Times are read as OpenSearch's date math reads them for ``gte`` and ``lte``: both ends belong to
the range, and a rounded end (``now/d``) means the first millisecond of its unit in
``filter.timefrom`` and the last one in ``filter.timeto``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.audit import Outcome
from schemas.text import one_line

MAX_LIMIT = 1000
DEFAULT_LIMIT = 10
# OpenSearch's max_result_window: further back one narrows the time instead of turning pages.
MAX_DEPTH = 10_000
_MAX_VALUE_CHARS = 512
_MAX_SHOWN_CHARS = 100  # of a name that is no filter's
PREFIX = "filter."
"""How the documented parameters begin."""

_MATH = re.compile(r"now((?:[+-]\d{1,6}[smhdwMy])*)(?:/([smhdwMy]))?\Z", re.ASCII)
_STEP = re.compile(r"([+-]\d+)([smhdwMy])", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Epochs from here on are milliseconds: as seconds, this is the year 5138.
_FIRST_MILLISECONDS = 100_000_000_000
# A "+" that nobody percent-encoded arrives as a blank before the zone's hours.
_LOST_PLUS = re.compile(r"(T.*) (\d{2}:?\d{2})\Z")
_TIME_FORMS = "expected now, now-1h, now-7d/d, ISO 8601 with a zone, or epoch seconds or milliseconds"


class AuditQueryError(ValueError):
    """A question that cannot be answered as asked; `path` is the parameter at fault."""

    def __init__(self, path: str, message: str) -> None:
        """Keep the path apart, for the answer's ``errors``."""
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which records, newest first; every filter that is None admits all.

    `time_from` and `time_to` bound the record's ``@timestamp``, both included, in whole
    milliseconds. `recipient` matches whatever its case; every other filter matches exactly.
    `config` is the name of the SMTP record that was used. `config_scope`, its scope as `Scope` spells it,
    and `outcomes`, any of which will do, are for questions that Postbote asks by itself.
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
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditPage:
    """One page of the answer: `total` counts every match, `took_ms` is the store's own time."""

    total: int
    records: list[dict[str, Any]]
    offset: int
    limit: int
    took_ms: int


def parse_audit_query(params: Sequence[tuple[str, str]], now: datetime, *, prefix: str = PREFIX) -> AuditQuery:
    """Read a query string's pairs; `now` (aware) is what relative times count from.

    `prefix` is how each parameter begins. An empty pair is passed over: the documented spelling begins
    with ``?&``. Raises AuditQueryError, with the parameter's name, for a filter that is unknown, repeated
    or wrong.
    """
    given: dict[str, str] = {}
    for name, value in params:
        if not name and not value:
            continue
        own = name.removeprefix(prefix)
        if own not in _READERS or name != f"{prefix}{own}":
            known = ", ".join(f"{prefix}{each}" for each in _READERS)
            raise AuditQueryError(name[:_MAX_SHOWN_CHARS], f"is not a known filter; known: {known}")
        if own in given:
            raise AuditQueryError(name, "is given more than once")
        given[own] = value
    query = AuditQuery(**_read(given, now, prefix))
    _check_together(query, prefix)
    return query


def _read(given: Mapping[str, str], now: datetime, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        field, reader = _READERS[name]
        try:
            found[field] = reader(value, now)
        except (ValueError, OverflowError) as error:
            reason = _TIME_FORMS if isinstance(error, OverflowError) else str(error)
            raise AuditQueryError(f"{prefix}{name}", reason) from None
    return found


def _check_together(query: AuditQuery, prefix: str) -> None:
    if query.offset + query.limit > MAX_DEPTH:
        msg = f"offset and limit reach beyond record {MAX_DEPTH}: narrow the time or add a filter"
        raise AuditQueryError(f"{prefix}offset", msg)
    if query.time_from and query.time_to and query.time_from > query.time_to:
        raise AuditQueryError(f"{prefix}timefrom", f"is later than {prefix}timeto")


def _text(value: str, _now: datetime) -> str:
    if not value:
        msg = "is empty: leave it out to admit all"
        raise ValueError(msg)
    if len(value) > _MAX_VALUE_CHARS:
        msg = f"is longer than {_MAX_VALUE_CHARS} characters"
        raise ValueError(msg)
    return one_line(value)


def _outcome(value: str, _now: datetime) -> Outcome:
    try:
        return Outcome(value)
    except ValueError:
        msg = f"is not an outcome; known: {', '.join(Outcome)}"
        raise ValueError(msg) from None


def _between(low: int, high: int) -> Callable[[str, datetime], int]:
    def read(value: str, _now: datetime) -> int:
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not low <= int(value) <= high:
            msg = f"expected a whole number from {low} to {high}"
            raise ValueError(msg)
        return int(value)

    return read


def _first(value: str, now: datetime) -> datetime:
    return parse_time(value, now)


def _last(value: str, now: datetime) -> datetime:
    return parse_time(value, now, round_up=True)


def parse_time(value: str, now: datetime, *, round_up: bool = False) -> datetime:
    """Read one time in UTC; a rounded one is its unit's first moment, or with `round_up` the last.

    Raises ValueError naming the forms, also for a time outside the years 1970 to 2199.
    """
    math = _MATH.match(value)
    if math:
        moment = _calculate(math, now.astimezone(UTC), round_up=round_up)
    elif _NUMBER.match(value):
        number = int(value)
        moment = _EPOCH + timedelta(milliseconds=number if number >= _FIRST_MILLISECONDS else number * 1000)
    else:
        moment = _iso(value)
    if not _EPOCH <= moment < datetime(2200, 1, 1, tzinfo=UTC):
        msg = "is outside the years 1970 to 2199"
        raise ValueError(msg)
    return moment


def epoch_ms(moment: datetime) -> int:
    """Whole milliseconds since 1970, rounded down: the precision in which the audit keeps and compares times."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _iso(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", value))
    except ValueError:
        raise ValueError(_TIME_FORMS) from None
    if moment.tzinfo is None:
        msg = "has no zone: end it with Z or an offset such as +02:00"
        raise ValueError(msg)
    return moment.astimezone(UTC)


def _calculate(math: re.Match[str], now: datetime, *, round_up: bool) -> datetime:
    moment = now
    for amount, unit in _STEP.findall(math[1]):
        moment = _step(moment, int(amount), unit)
    if math[2] is None:
        return moment
    start = _start_of(moment, math[2])
    return _step(start, 1, math[2]) - timedelta(milliseconds=1) if round_up else start


def _step(moment: datetime, amount: int, unit: str) -> datetime:
    if unit in _SECONDS:
        return moment + timedelta(seconds=amount * _SECONDS[unit])
    months = moment.year * 12 + moment.month - 1 + amount * (12 if unit == "y" else 1)
    # The 31st less a month is the last day of a shorter one, as in OpenSearch.
    first = moment.replace(year=months // 12, month=months % 12 + 1, day=1)
    days = ((first + timedelta(days=31)).replace(day=1) - first).days
    return first.replace(day=min(moment.day, days))


def _start_of(moment: datetime, unit: str) -> datetime:
    second = moment.replace(microsecond=0)
    minute = second.replace(second=0)
    day = minute.replace(minute=0, hour=0)
    return {
        "s": second,
        "m": minute,
        "h": minute.replace(minute=0),
        "d": day,
        "w": day - timedelta(days=day.weekday()),
        "M": day.replace(day=1),
        "y": day.replace(day=1, month=1),
    }[unit]


_READERS: dict[str, tuple[str, Callable[[str, datetime], Any]]] = {
    "timefrom": ("time_from", _first),
    "timeto": ("time_to", _last),
    "offset": ("offset", _between(0, MAX_DEPTH - 1)),
    "limit": ("limit", _between(1, MAX_LIMIT)),
    "category": ("category", _text),
    "type": ("type", _text),
    "outcome": ("outcome", _outcome),
    "partner": ("partner", _text),
    "org": ("org", _text),
    "recipient": ("recipient", _text),
    "eventid": ("event_id", _text),
    "source": ("event_source", _text),
    "config": ("config", _text),
}
