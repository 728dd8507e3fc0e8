"""Times as the audit is asked for them: date math, ISO 8601 with a zone, or an epoch.

They are read as OpenSearch's date math reads them for ``gte`` and ``lte``: a rounded time (``now/d``) is the
first millisecond of its unit at the beginning of a range, and the last one at its end.
"""

import re
from datetime import UTC, datetime, timedelta

_MATH = re.compile(r"now((?:[+-]\d{1,6}[smhdwMy])*)(?:/([smhdwMy]))?\Z", re.ASCII)
_STEP = re.compile(r"([+-]\d+)([smhdwMy])", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Epochs from here on are milliseconds: as seconds, this is the year 5138.
_FIRST_MILLISECONDS = 100_000_000_000
# A "+" that nobody percent-encoded arrives as a blank before the zone's hours.
_LOST_PLUS = re.compile(r"(T.*) (\d{2}:?\d{2})\Z")
TIME_FORMS = "expected now, now-1h, now-7d/d, ISO 8601 with a zone, or epoch seconds or milliseconds"


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
        raise ValueError(TIME_FORMS) from None
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
