"""How the values of the audit's filters are spelt, and what they are read as.

Nothing here is a query language: a filter is compared letter by letter, or is one of a few forms
(``5xx``, ``5.1``, ``true``). Every reader raises ValueError with what it expected.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from schemas.audit import Outcome
from schemas.audit_times import parse_time
from schemas.text import one_line

MAX_LIMIT = 1000
DEFAULT_LIMIT = 10
# OpenSearch's max_result_window: further back one goes on by a cursor.
MAX_DEPTH = 10_000
_MAX_VALUE_CHARS = 512
_MAX_CURSOR_CHARS = 16_384
_MAX_WORDS = 16

E = TypeVar("E", bound=StrEnum)

_CODE = re.compile(r"[2-5](?:\d\d|\dx|xx)\Z", re.ASCII | re.IGNORECASE)
_ENHANCED = re.compile(r"[245](?:\.\d{1,3}){0,2}\Z", re.ASCII)
_ENHANCED_PARTS = 3

Reader = Callable[[str, datetime], Any]
"""Reads a filter's value at a moment (aware) that relative times count from."""


class Sort(StrEnum):
    """By the record's time: newest first, or oldest first."""

    NEWEST = "-time"
    OLDEST = "time"


class Format(StrEnum):
    """What is answered: one page as JSON, or all matches as a stream."""

    JSON = "json"
    CSV = "csv"
    NDJSON = "ndjson"


@dataclass(frozen=True, slots=True)
class CodeRange:
    """SMTP reply codes from `low` to `high`, both included: 550 to 550, or 500 to 599."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Enhanced:
    """An enhanced status code (RFC 3463), ``5.1.1``, or how it begins, ``5.1`` or ``5``."""

    begins: str

    @property
    def whole(self) -> bool:
        """Whether all three parts are given, so that it is matched as it is."""
        return self.begins.count(".") == _ENHANCED_PARTS - 1


@dataclass(frozen=True, slots=True)
class Unseen:
    """Where words are not looked for, since the asker is not shown them: in no reason at all, and not in these replies.

    `phases` are of the reply, `reasons` are how reasons begin.
    """

    phases: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def text(value: str, _now: datetime) -> str:
    """One line that is not empty."""
    if not value:
        msg = "is empty: leave it out to admit all"
        raise ValueError(msg)
    if len(value) > _MAX_VALUE_CHARS:
        msg = f"is longer than {_MAX_VALUE_CHARS} characters"
        raise ValueError(msg)
    return one_line(value)


def words(value: str, now: datetime) -> str:
    """Text that has a word in it, and not too many."""
    read = text(value, now)
    if not any(c.isalnum() for c in read):
        msg = "has no word to look for; there are no wildcards or operators"
        raise ValueError(msg)
    if len(read.split()) > _MAX_WORDS:
        msg = f"has more than {_MAX_WORDS} words"
        raise ValueError(msg)
    return read


def domain(value: str, now: datetime) -> str:
    """A mail domain in lower case; an @ before it is no part of it."""
    read = text(value, now).removeprefix("@").lower()
    if not read or "@" in read:
        msg = "expected what stands behind the @ of a mail address"
        raise ValueError(msg)
    return read


def code(value: str, _now: datetime) -> CodeRange:
    """A reply code, or a class of them."""
    if not _CODE.match(value):
        msg = "expected an SMTP reply code such as 550, or a class of them: 5xx, 55x"
        raise ValueError(msg)
    lowered = value.lower()
    return CodeRange(int(lowered.replace("x", "0")), int(lowered.replace("x", "9")))


def enhanced(value: str, _now: datetime) -> Enhanced:
    """An enhanced status code or its beginning."""
    if not _ENHANCED.match(value):
        msg = "expected an enhanced status code such as 5.1.1, or how it begins: 5.1"
        raise ValueError(msg)
    return Enhanced(value)


def flag(value: str, _now: datetime) -> bool:
    """True or false, in these words."""
    if value not in {"true", "false"}:
        msg = "expected true or false"
        raise ValueError(msg)
    return value == "true"


def outcomes(value: str, _now: datetime) -> tuple[Outcome, ...]:
    """One outcome, or several with commas between them; each once, in the order of the enum."""
    given = value.split(",")
    if any(each not in set(Outcome) for each in given):
        msg = f"is not an outcome; known: {', '.join(Outcome)}"
        raise ValueError(msg)
    return tuple(outcome for outcome in Outcome if outcome in given)


def sort(value: str, _now: datetime) -> Sort:
    """The order."""
    return _one_of(Sort, value)


def form(value: str, _now: datetime) -> Format:
    """The format."""
    return _one_of(Format, value)


def cursor(value: str, _now: datetime) -> str:
    """A cursor as it was given, unread."""
    if not value or len(value) > _MAX_CURSOR_CHARS or not value.isascii():
        msg = "is no cursor: take `next` of the answer before"
        raise ValueError(msg)
    return value


def between(low: int, high: int) -> Reader:
    """A whole number within these bounds."""

    def read(value: str, _now: datetime) -> int:
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not low <= int(value) <= high:
            msg = f"expected a whole number from {low} to {high}"
            raise ValueError(msg)
        return int(value)

    return read


def first_moment(value: str, now: datetime) -> datetime:
    """Where a range begins."""
    return parse_time(value, now)


def last_moment(value: str, now: datetime) -> datetime:
    """Where a range ends."""
    return parse_time(value, now, round_up=True)


def _one_of(kind: type[E], value: str) -> E:
    try:
        return kind(value)
    except ValueError:
        msg = f"expected one of: {', '.join(kind)}"
        raise ValueError(msg) from None


READERS: dict[str, tuple[str, Reader]] = {
    "timefrom": ("time_from", first_moment),
    "timeto": ("time_to", last_moment),
    "offset": ("offset", between(0, MAX_DEPTH - 1)),
    "limit": ("limit", between(1, MAX_LIMIT)),
    "category": ("category", text),
    "type": ("type", text),
    "outcome": ("outcomes", outcomes),
    "partner": ("partner", text),
    "org": ("org", text),
    "recipient": ("recipient", text),
    "domain": ("domain", domain),
    "eventid": ("event_id", text),
    "source": ("event_source", text),
    "config": ("config", text),
    "code": ("code", code),
    "enhanced": ("enhanced", enhanced),
    "duplicate": ("possible_duplicate", flag),
    "text": ("text", words),
    "sort": ("sort", sort),
    "cursor": ("cursor", cursor),
    "format": ("format", form),
}
"""Every parameter by its name without a prefix: the field it fills, and how it is read."""

NO_FILTERS = frozenset({"sort", "cursor", "format"})
"""Those that choose no records: they may be given without the prefix, too."""
