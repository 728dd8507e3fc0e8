"""An AuditQuery as SQL over the embedded audit's one table: OpenSearch's answers, by SQLite's means.

A page that goes on begins behind the last record of the one before, in the full order, and never sees what was
inserted after the first one: rows get ascending numbers, and the highest of the first page's time is the bound.
"""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.audit_filters import Sort, Unseen
from schemas.audit_query import AuditPage, AuditQuery, Continuation, epoch_ms
from schemas.smtp_config import Scope
from worker.errors import AuditTooSlow

TIMEOUT_S = 10.0
"""So long a search may take."""

_STEPS = 10_000  # of SQLite's machine, between two looks at the clock
_EQUAL = ("category", "type", "outcome", "partner", "org", "event_id", "event_source")


def _of(path: str) -> str:
    return f"json_extract(CAST(document AS TEXT), '$.{path}')"


RECIPIENT_HASH = _of("recipient_hash")
"""What the records are indexed by that may not name their recipient; see the setup of the table."""

_OF_DOCUMENT = {
    "config": f"{_of('config.name')} = ?",
    "config_scope": f"{_of('config.scope')} = ?",
    "possible_duplicate": f"{_of('possible_duplicate')} = ?",
}
_BEGINS = "EXISTS (SELECT 1 FROM json_each(?) AS head WHERE substr({}, 1, length(head.value)) = head.value)"
_WITHIN = _BEGINS.format(f"{_of('config.scope')} || '/'")
_ENHANCED = _BEGINS.format(f"{_of('reply.enhanced')} || '.'")
_WORDS = f"has_words(?, {_of('reply.text')}, {{}})"
_IN_REASON, _NOWHERE_ELSE = _of("reason"), "NULL"
_UNSEEN = (
    "coalesce({}, '') NOT IN (SELECT value FROM json_each(?))".format(_of("reply.phase")),  # noqa: S608
    "NOT {}".format(_BEGINS.format("coalesce({}, '')".format(_of("reason")))),
)
# Of a change, what its row has no column for.
_OF_CHANGE = "CASE WHEN event_id = '' THEN {} END"
# The order of OpenSearch's answer within a millisecond, where what is missing comes last, and a change after the
# mails; each ascending and none of them NULL, so that two records can be compared as wholes.
_TIES = (
    "event_id = ''",
    "event_id",
    "recipient IS NULL",
    "coalesce(recipient, '')",
    f"CASE WHEN recipient IS NULL THEN coalesce({RECIPIENT_HASH}, '') ELSE '' END",
    "-attempt",
    "outcome",
    "event_source",
    "type",
    f"coalesce({_OF_CHANGE.format(_of('subject'))}, '')",
    f"-coalesce({_OF_CHANGE.format(_of('version'))}, -1)",
    f"coalesce({_OF_CHANGE.format(_of('action'))}, '')",
    "partner IS NULL",
    "coalesce(partner, '')",
    "org IS NULL",
    "coalesce(org, '')",
    "id",
)

# With U+2019, the apostrophe of print.
_JOINED_LETTERS, _JOINED_DIGITS = "[.:'\u2019\u00b7\u2027]", "[.,;'\u2019]"
_SINGLE = "\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # each of these is a word
_WORD = re.compile(
    rf"[{_SINGLE}]|[^\W{_SINGLE}]+"
    rf"(?:(?:(?<=[^\W\d_]){_JOINED_LETTERS}(?=[^\W\d_{_SINGLE}])|(?<=\d){_JOINED_DIGITS}(?=\d))[^\W{_SINGLE}]+)*"
)

Row = tuple[Any, ...]


def words_of(text: str) -> frozenset[str]:
    """The words of a text in lower case, as OpenSearch's standard analyzer parts them (UAX #29)."""
    return frozenset(word for word in _WORD.findall(text.lower()) if word.strip("_"))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What stands behind WHERE, and the values bound to it."""

    sql: str
    values: Row


def prepare(connection: sqlite3.Connection) -> None:
    """Teach a connection the function that `conditions_of` uses."""
    connection.create_function("has_words", 3, _has_words, deterministic=True)


def page_of(connection: sqlite3.Connection, query: AuditQuery, left: threading.Event | None = None) -> AuditPage:
    """Answer from one state of the file.

    Raises sqlite3.Error, and AuditTooSlow where it takes longer than `TIMEOUT_S` or the asker has `left`.
    """
    began = time.perf_counter()
    with connection, limited(connection, left or threading.Event()):
        connection.execute("BEGIN")
        where = conditions_of(query)
        after = query.after or _beginning(connection, where)
        rows = _rows(connection, query, where, after)
    found = rows[: query.limit]
    following = None
    if len(rows) > len(found):
        following = Continuation(_position(found[-1]), after.snapshot, after.total)
    took_ms = round((time.perf_counter() - began) * 1000)
    return AuditPage(
        after.total, [orjson.loads(row[0]) for row in found], query.offset, query.limit, took_ms, following
    )


def conditions_of(query: AuditQuery) -> Conditions:
    """The filters of a query. It is composed of this module's constants; every value is bound."""
    conditions: list[tuple[str, Row]] = [*_times(query), *_of_columns(query), *_of_reply(query)]
    for name, condition in _OF_DOCUMENT.items():
        value = getattr(query, name)
        if value is not None:
            conditions.append((condition, (value,)))
    if query.outcomes:
        conditions.append(("outcome IN (SELECT value FROM json_each(?))", (_json(query.outcomes),)))
    if query.config_within is not None:
        conditions.append((_WITHIN, (_json(_heads(Scope.parse(query.config_within))),)))
    if query.text is not None:
        conditions += _words(query.text, query.unseen)
    sql = " AND ".join(condition for condition, _ in conditions) or "1"
    return Conditions(sql, tuple(value for _, values in conditions for value in values))


def _times(query: AuditQuery) -> Iterator[tuple[str, Row]]:
    if query.time_from is not None:
        yield "at_ms >= ?", (epoch_ms(query.time_from),)
    if query.time_to is not None:
        yield "at_ms <= ?", (epoch_ms(query.time_to),)


def _of_columns(query: AuditQuery) -> Iterator[tuple[str, Row]]:
    for column in _EQUAL:
        value = getattr(query, column)
        if value is not None:
            yield f"{column} = ?", (str(value),)
    if query.recipient is not None and query.recipient_hash is not None:
        yield f"(recipient = ? OR {RECIPIENT_HASH} = ?)", (query.recipient.lower(), query.recipient_hash)
    elif query.recipient is not None:
        yield "recipient = ?", (query.recipient.lower(),)
    if query.domain is not None:
        tail = f"@{query.domain}"
        yield "substr(recipient, -?) = ?", (len(tail), tail)


def _of_reply(query: AuditQuery) -> Iterator[tuple[str, Row]]:
    if query.code is not None:
        yield f"{_of('reply.code')} BETWEEN ? AND ?", (query.code.low, query.code.high)
    if query.enhanced is not None and query.enhanced.whole:
        yield f"{_of('reply.enhanced')} = ?", (query.enhanced.begins,)
    elif query.enhanced is not None:
        yield _ENHANCED, (_json([f"{query.enhanced.begins}."]),)


def _words(text: str, unseen: Unseen | None) -> list[tuple[str, Row]]:
    wanted = _json(sorted(words_of(text)))
    if unseen is None:
        return [(_WORDS.format(_IN_REASON), (wanted,))]
    lists = (_json(unseen.phases), _json(unseen.reasons))
    hidden = [(condition, (values,)) for condition, values in zip(_UNSEEN, lists, strict=True)]
    return [(_WORDS.format(_NOWHERE_ELSE), (wanted,)), *hidden]


def _heads(scope: Scope) -> list[str]:
    """How scopes begin that are this one or lie below, each with a slash behind it."""
    return [f"{scope}/"] if scope.org is not None or scope.partner is None else [f"{scope}/", f"org:{scope.partner}/"]


def _has_words(wanted: str, *texts: str | None) -> bool:
    words = set(orjson.loads(wanted))
    return bool(words) and words <= {word for text in texts if text for word in words_of(text)}


def _beginning(connection: sqlite3.Connection, where: Conditions) -> Continuation:
    """What the first page fixes for those that follow: how many there are, and up to which row."""
    newest = connection.execute("SELECT coalesce(max(rowid), 0) FROM record").fetchone()[0]
    total = connection.execute(f"SELECT count(*) FROM record WHERE {where.sql}", where.values).fetchone()[0]  # noqa: S608
    return Continuation((), str(newest), total)


def _rows(connection: sqlite3.Connection, query: AuditQuery, where: Conditions, after: Continuation) -> list[Row]:
    """The page's rows, and one more where there is one: the document, and what it is sorted by."""
    order = ("at_ms" if query.sort is Sort.OLDEST else "-at_ms", *_TIES)
    conditions, values = [where.sql, "rowid <= ?"], [*where.values, int(after.snapshot or 0)]
    if after.position:
        # The first bound is the index's, the second one exact.
        conditions += [f"at_ms {'>=' if query.sort is Sort.OLDEST else '<='} ?"]
        conditions += [f"({', '.join(order)}) > ({', '.join('?' * len(order))})"]
        values += [abs(after.position[0]), *after.position]
    direction = "at_ms ASC" if query.sort is Sort.OLDEST else "at_ms DESC"
    sql = (
        f"SELECT document, {', '.join(order)} FROM record WHERE {' AND '.join(conditions)} "  # noqa: S608
        f"ORDER BY {', '.join((direction, *_TIES))} LIMIT ? OFFSET ?"
    )
    offset = 0 if query.after else query.offset
    return connection.execute(sql, (*values, query.limit + 1, offset)).fetchall()


def _position(row: Row) -> Row:
    return row[1:]


@contextmanager
def limited(connection: sqlite3.Connection, left: threading.Event) -> Iterator[None]:
    """Let what is asked meanwhile take `TIMEOUT_S` in all, and end where the asker has `left`: as AuditTooSlow."""
    until = time.monotonic() + TIMEOUT_S
    connection.set_progress_handler(lambda: left.is_set() or time.monotonic() > until, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        msg = "the audit file gave no whole answer within the time that one question has: interrupted"
        raise AuditTooSlow(msg) from error
    finally:
        connection.set_progress_handler(None, 0)


@contextmanager
def noticed() -> Iterator[threading.Event]:
    """What a thread that works for this task looks at: set once the task waits no longer."""
    left = threading.Event()
    try:
        yield left
    finally:
        left.set()


def _json(values: Any) -> str:
    return orjson.dumps(values).decode()
