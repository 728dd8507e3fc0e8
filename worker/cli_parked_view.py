"""How parked events are shown: a table, one JSON document a line, or one event whole.

What publishers wrote is untrusted text: nothing of it is read as markup or reaches the terminal as
a control sequence. Of a body everything is shown that helps to decide, and nothing that is a key to
something: attachments, values with a secret's name, and what follows the host in a link are left out.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from worker.delivery.parked import Held, ParkedEvent, ParkedMessage

_SHOWN_RECIPIENTS = 3
_MAX_TEXT_CHARS = 2000
_MAX_DEPTH = 30
_SECRET_NAME = re.compile(r"passw|secret|token|api.?key|authorization|credential|cookie|signature", re.IGNORECASE)
_LINK = re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://)(?:[^\s/?#@\"'<>]*@)?([^\s/?#@\"'<>]*)[^\s\"'<>]*", re.IGNORECASE)
_LONG_WORD = re.compile(r"\S{300,}")  # base64 mostly; no language has such words
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def table_of(events: Iterable[ParkedEvent], now: datetime) -> Table:
    """The list as a table, times in UTC."""
    table = Table("id", "source", "scope", "reason", "detail", "first seen", "age", "attempts", "pending")
    for column in table.columns:
        column.overflow = "fold"
    for event in events:
        table.add_row(*(Text(plain(cell)) for cell in _cells(event, now)))
    return table


def line_of(event: ParkedEvent, now: datetime, **more: Any) -> str:
    """The event as one line of JSON, in ASCII: what JSON itself leaves unescaped still steers a terminal."""
    return json.dumps({**document_of(event, now), **more}, separators=(",", ":"))


def document_of(event: ParkedEvent, now: datetime) -> dict[str, Any]:
    """What a program reads; `pending` is null for all or unknown, `age_s` counts seconds, `size` octets."""
    age = event.age(now)
    return {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "partner": event.scope.partner,
        "org": event.scope.org,
        "reason": event.reason,
        "detail": event.detail,
        "lane": event.lane,
        "first_seen": event.first_seen.isoformat() if event.first_seen else None,
        "age_s": round(age.total_seconds()) if age is not None else None,
        "attempts": event.attempts,
        "pending": list(event.pending) or None,
        "doubtful": list(event.doubtful),
        "size": event.size,
    }


def whole(held: Held, event: ParkedEvent, now: datetime) -> dict[str, Any]:
    """Everything about one event, but what is a key to something."""
    message = held.message
    return {
        **document_of(event, now),
        "content_type": message.content_type,
        "headers": _readable(elided(message.headers)),
        "body": _body(message),
    }


def page_of(document: Mapping[str, Any]) -> str:
    """A whole event as text: a line for each field, the headers and the body indented."""
    lines = [f"{name}: {_spelt(value)}" for name, value in document.items() if name not in ("headers", "body")]
    for name in ("headers", "body"):
        value = document[name]
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        lines += [f"{name}:", *(f"  {line}" for line in text.splitlines())]
    return "\n".join(plain(line) for line in lines)


def plain(text: str) -> str:
    """The text with whatever is not printable replaced."""
    return "".join(c if c.isprintable() else "�" for c in text)


def elided(value: Any, name: str = "", depth: int = 0) -> Any:
    """A JSON value without attachments' content, secrets, and what makes a link a key."""
    if name and _SECRET_NAME.search(name):
        return "(left out)"
    if depth > _MAX_DEPTH:
        return "(deeper than shown)"
    if isinstance(value, Mapping):
        return {str(key): elided(each, str(key), depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_attachment(each) if name == "attachments" else elided(each, "", depth + 1) for each in value]
    return elided_text(value) if isinstance(value, str) else value


def elided_text(text: str) -> str:
    """A text with its links cut after the host, without very long words, and itself cut where it is long."""
    cut = text if len(text) <= _MAX_TEXT_CHARS else f"{text[:_MAX_TEXT_CHARS]}… ({len(text)} characters)"
    return _LONG_WORD.sub(lambda found: f"({len(found[0])} characters left out)", _LINK.sub(r"\1\2/…", cut))


def _attachment(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return "(left out)"
    rest = {key: each for key, each in value.items() if key != "content"}
    size = len(value["content"]) if isinstance(value.get("content"), str) else None
    return {**elided(rest), "content": f"({size} characters of base64 left out)" if size is not None else "(left out)"}


def _body(message: ParkedMessage) -> Any:
    try:
        return elided(orjson.loads(message.body))
    except orjson.JSONDecodeError:
        # Cut first: a link or a long word may not be cut into something that no rule knows any more.
        return elided_text(message.body.decode("utf-8", "replace"))


def _readable(value: Any) -> Any:
    """Headers as JSON: AMQP also has octets, times and decimals."""
    return json.loads(json.dumps(value, default=lambda other: elided_text(_words(other))))


def _words(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _cells(event: ParkedEvent, now: datetime) -> tuple[str, ...]:
    return (
        event.id,
        event.source,
        str(event.scope),
        event.reason,
        event.detail,
        f"{event.first_seen.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if event.first_seen else "-",
        _spelt_age(event.age(now)),
        str(event.attempts),
        _recipients(event.pending),
    )


def _recipients(pending: tuple[str, ...]) -> str:
    if not pending:
        return "all"
    more = len(pending) - _SHOWN_RECIPIENTS
    return ", ".join(pending[:_SHOWN_RECIPIENTS]) + (f" and {more} more" if more > 0 else "")


def _spelt_age(age: timedelta | None) -> str:
    if age is None:
        return "-"
    seconds = int(age.total_seconds())
    return next((f"{seconds // size}{unit}" for size, unit in _UNITS if seconds >= size), f"{seconds}s")


def _spelt(value: Any) -> str:
    if value is None or value == []:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
