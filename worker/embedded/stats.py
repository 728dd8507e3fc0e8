"""Counting in the embedded audit's file: the same answers as OpenSearch's aggregations, by SQL.

It reads over a connection of its own, which SQLite's WAL lets it do beside the writer. Percentiles are
exact: the smallest value that so many percent of the values don't exceed.
"""

import asyncio
import sqlite3
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.audit_stats import OF_CONFIG, PERCENTS, By, Counted, Group, Latency, Percentiles, StatsQuery
from schemas.smtp_config import Scope
from worker.embedded.audit_search import Conditions, conditions_of, limited, noticed, prepare
from worker.errors import AuditUnavailable

_KEYS = {
    By.OUTCOME: "outcome",
    By.PARTNER: "partner",
    By.ORG: "partner || '/' || org",
    By.HOST: "{config.host}",
    By.CODE: "CAST({reply.code} AS TEXT)",
    By.CONFIG: "{config.scope} || '/' || {config.name}",
}


@dataclass(frozen=True, slots=True)
class _Selection:
    """The records of one question; `key` is what they are grouped by, in SQL that binds `key_values`."""

    connection: sqlite3.Connection
    where: Conditions
    key: str
    key_values: tuple[Any, ...]

    def rows(self, sql: str, *after: Any, keyed: bool = True) -> list[tuple[Any, ...]]:
        """Run `sql` over the records, named ``found``; composed of this module's constants, every value bound."""
        key, bound = (self.key, self.key_values) if keyed else ("NULL", ())
        found = f"WITH found AS (SELECT at_ms, outcome, document, {key} AS name FROM record WHERE {self.where.sql}) "  # noqa: S608
        return self.connection.execute(found + sql, (*bound, *self.where.values, *after)).fetchall()


class SqliteStats:
    """Fulfils the API's AuditStats over the file of a `SqliteAudit`."""

    def __init__(self, path: Path) -> None:
        """Prepare; the file is opened for each question."""
        self._path = path

    async def count(self, query: StatsQuery) -> Counted:
        """Count. Raises AuditUnavailable where the file has no answer within 10 s."""
        try:
            with noticed() as left:
                return await asyncio.to_thread(self._count, query, left)
        except sqlite3.Error as error:
            msg = f"the audit file {self._path}: {error}"
            raise AuditUnavailable(msg) from error

    async def close(self) -> None:
        """Nothing stays open."""

    def _count(self, query: StatsQuery, left: threading.Event) -> Counted:
        began = time.perf_counter()
        with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            prepare(connection)
            with limited(connection, left):
                connection.execute("BEGIN")  # every answer from one state of the file
                selection = _Selection(connection, conditions_of(query.records), *_key(query))
                return _counted(selection, query, began)


def _counted(selection: _Selection, query: StatsQuery, began: float) -> Counted:
    outcomes = dict(selection.rows("SELECT outcome, count(*) FROM found GROUP BY 1 ORDER BY 2 DESC, 1", keyed=False))
    named = selection.rows(
        "SELECT name, count(*) FROM found WHERE name IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?", query.groups
    )
    every = selection.rows("SELECT count(name) FROM found")[0][0]
    series = _series(selection, query)
    return Counted(
        total=sum(outcomes.values()),
        outcomes=outcomes,
        buckets=_buckets(selection, query),
        groups=tuple(Group(name, count, series[name]) for name, count in named),
        other=every - sum(count for _, count in named),
        foreign=_foreign(selection, query, every),
        latencies={each: _percentiles(selection, each) for each in query.latencies},
        took_ms=round((time.perf_counter() - began) * 1000),
    )


def _key(query: StatsQuery) -> tuple[str, tuple[Any, ...]]:
    """The SQL of a group's name, NULL for a record that has none or whose name is not the asker's to know."""
    key = _KEYS[query.by]
    for path in ("config.host", "config.scope", "config.name", "reply.code"):
        key = key.replace(f"{{{path}}}", _json(path))
    if query.within is None or query.by not in OF_CONFIG:
        return key, ()
    condition, values = _reached(query.within)
    return f"CASE WHEN {condition} THEN {key} END", values


def _json(path: str) -> str:
    return f"json_extract(CAST(document AS TEXT), '$.{path}')"


def _reached(within: Scope) -> tuple[str, tuple[Any, ...]]:
    """SMTP records of this scope, or of its orgs."""
    scope = _json("config.scope")
    if within.org is not None or within.partner is None:
        return f"{scope} = ?", (str(within),)
    prefix = f"org:{within.partner}/"
    return f"({scope} = ? OR substr({scope}, 1, ?) = ?)", (str(within), len(prefix), prefix)


def _foreign(selection: _Selection, query: StatsQuery, named: int) -> int:
    if query.within is None or query.by not in OF_CONFIG:
        return 0
    used = selection.rows(f"SELECT count({_json('config.scope')}) FROM found", keyed=False)  # noqa: S608 # a constant
    return int(used[0][0]) - named


def _buckets(selection: _Selection, query: StatsQuery) -> dict[int, dict[str, int]]:
    buckets: dict[int, dict[str, int]] = defaultdict(dict)
    if query.interval_ms is not None:
        sql = "SELECT at_ms - at_ms % ?, outcome, count(*) FROM found GROUP BY 1, 2"
        for start, outcome, count in selection.rows(sql, query.interval_ms, keyed=False):
            buckets[start][outcome] = count
    return buckets


def _series(selection: _Selection, query: StatsQuery) -> dict[str, dict[int, int]]:
    series: dict[str, dict[int, int]] = defaultdict(dict)
    if query.interval_ms is not None:
        sql = "SELECT name, at_ms - at_ms % ?, count(*) FROM found WHERE name IS NOT NULL GROUP BY 1, 2"
        for name, start, count in selection.rows(sql, query.interval_ms):
            series[name][start] = count
    return series


def _percentiles(selection: _Selection, each: Latency) -> Percentiles:
    sql = f"""SELECT place, of, value FROM (
        SELECT value, row_number() OVER (ORDER BY value) AS place, count(*) OVER () AS of FROM (
            SELECT {_json(f"timings.{each}")} AS value FROM found WHERE {_json("reply.code")} IS NOT NULL
        ) WHERE value IS NOT NULL
    ) WHERE place IN ({", ".join("(of * ? + 99) / 100" for _ in PERCENTS)})"""  # noqa: S608 # of constants
    rows = selection.rows(sql, *PERCENTS, keyed=False)
    if not rows:
        return Percentiles(0, {})
    of = rows[0][1]
    places = {place: value for place, _, value in rows}
    return Percentiles(of, {percent: round(float(places[(of * percent + 99) // 100]), 3) for percent in PERCENTS})
