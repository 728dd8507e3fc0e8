"""Audit records as lines of a file: NDJSON, or CSV that a spreadsheet may open.

What servers replied is untrusted text, and a spreadsheet computes a cell that begins like a formula. Such a cell
gets an apostrophe before it (OWASP, CSV injection), which a spreadsheet takes for "this is text".
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from schemas.audit_filters import Format

COLUMNS = {
    "time": "@timestamp",
    "type": "type",
    "outcome": "outcome",
    "partner": "partner",
    "org": "org",
    "recipient": "recipient",
    "event_id": "event_id",
    "event_source": "event_source",
    "event_type": "event_type",
    "attempt": "attempt",
    "code": "reply.code",
    "enhanced": "reply.enhanced",
    "reply": "reply.text",
    "reason": "reason",
    "config_scope": "config.scope",
    "config": "config.name",
    "host": "config.host",
    "tls": "tls.version",
    "possible_duplicate": "possible_duplicate",
    "next_attempt_at": "next_attempt_at",
    "remote_queue_id": "remote_queue_id",
    "message_id": "message_id",
    "total_ms": "timings.total_ms",
    "trace_id": "trace_id",
    "action": "action",
    "subject": "subject",
    "version": "version",
    "changed": "changed",
    "actor": "actor.name",
    "actor_scope": "actor.scope",
    "actor_origin": "actor.origin",
    "recipient_hash": "recipient_hash",
}
"""The columns of the CSV by what its first row calls them, with the record's field."""

MEDIA_TYPES = {Format.CSV: "text/csv; charset=utf-8; header=present", Format.NDJSON: "application/x-ndjson"}

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
# As spreadsheets of some languages read them, too.
_FULL_WIDTH = ("\uff1d", "\uff0b", "\uff0d", "\uff20")

Lines = Callable[[Iterable[Mapping[str, Any]]], bytes]


def lines_of(form: Format) -> Lines:
    """What makes the lines of a page of records."""
    return csv_lines if form is Format.CSV else ndjson_lines


def head_of(form: Format) -> bytes:
    """What stands before the first record."""
    return _row(COLUMNS) if form is Format.CSV else b""


def cut_of(form: Format, most: int) -> bytes:
    """What stands behind the last record where there were more: a row of one cell, or an object of its own."""
    if form is Format.CSV:
        return _row([f"# cut after {most} records: ask for less at once"])
    return orjson.dumps({"cut": True, "records": most}) + b"\n"


def ndjson_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON document a line."""
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def csv_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """One row for each record, without the header; what a record does not have is an empty cell."""
    return b"".join(_row(_cell(_field(record, path)) for path in COLUMNS.values()) for record in records)


def _field(record: Mapping[str, Any], path: str) -> Any:
    outer, _, inner = path.partition(".")
    value = record.get(outer)
    if inner:
        return value.get(inner) if isinstance(value, Mapping) else None
    return value


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case list() | tuple():
            return _safe(" ".join(map(str, value)))
        case _:
            return _safe(str(value))


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith((*_FORMULA, *_FULL_WIDTH)) else text


def _row(cells: Iterable[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()
