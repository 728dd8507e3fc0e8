"""``postbote audit stats``: how many deliveries ended how, by whom, when and how fast.

Standard output carries the answer, standard error the one line of an error. Exit codes: 0 done,
1 the audit is not available now, 2 bad input.
"""

import asyncio
import json as jsonlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from schemas.audit_query import AuditQueryError
from schemas.audit_stats import By, Counted, StatsQuery, parse_stats_query, stats_document
from worker.cli_audit_story import NOT_AVAILABLE, console, fail
from worker.cli_audit_view import COLOURS, plain
from worker.errors import PostboteError, SettingsError

_DURATION = re.compile(r"\d+[smhdwMy]\Z", re.ASCII)
# The parameter that an option fills, so that an error names what its reader typed.
_OPTIONS = {"timefrom": "--since", "timeto": "--until"}
_COLOURS = {outcome.value: colour for outcome, colour in COLOURS.items()}


def stats(  # noqa: PLR0913 # one option for each parameter
    *,
    since: Annotated[str, typer.Option(help="1h, 7d, now-7d/d, or ISO 8601 with a zone")] = "7d",
    until: Annotated[str | None, typer.Option(help="Like --since; now, unless given")] = None,
    by: Annotated[str, typer.Option(help=", ".join(By))] = By.OUTCOME.value,
    interval: Annotated[str | None, typer.Option(help="Count by time, too: 5m, 1h, 1d")] = None,
    limit: Annotated[int, typer.Option(help="Groups to name, the largest first")] = 20,
    partner: Annotated[str | None, typer.Option(help="Partner's name")] = None,
    org: Annotated[str | None, typer.Option(help="Organization's name")] = None,
    outcome: Annotated[str | None, typer.Option(help="accepted, refused, deferred, …")] = None,
    percentiles: Annotated[str | None, typer.Option(help="total_ms,queued_ms,transaction_ms, or none")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document")] = False,
    embedded: Annotated[bool, typer.Option("--embedded", help="Ask the embedded form's file")] = False,
) -> None:
    """Count deliveries: records of type email.delivery, one for each recipient and transition."""
    given = {
        "timefrom": _ago(since),
        "timeto": None if until is None else _ago(until),
        "by": by,
        "interval": interval,
        "limit": str(limit),
        "partner": partner,
        "org": org,
        "outcome": outcome,
        "percentiles": percentiles,
    }
    query = _parse(given)
    document = stats_document(query, _ask(query, embedded=embedded))
    if json:
        typer.echo(jsonlib.dumps(document, separators=(",", ":")))
    else:
        show(document)


def _ago(text: str) -> str:
    return f"now-{text}" if _DURATION.match(text) else text


def _parse(given: Mapping[str, str | None]) -> StatsQuery:
    try:
        return parse_stats_query(
            [(name, value) for name, value in given.items() if value is not None], datetime.now(UTC)
        )
    except AuditQueryError as error:
        message = error.message.replace("timefrom", "--since").replace("timeto", "--until")
        fail(f"{_OPTIONS.get(error.path, f'--{error.path}')}: {message}")


def _ask(query: StatsQuery, *, embedded: bool) -> Counted:
    async def ask() -> Counted:
        from worker.backends import open_stats
        from worker.settings import load_settings

        async with open_stats(load_settings(), embedded=embedded) as opened:
            return await opened.count(query)

    try:
        return asyncio.run(ask())
    except SettingsError as error:
        fail(str(error))
    except PostboteError as error:
        fail(str(error), NOT_AVAILABLE)


def show(document: Mapping[str, Any], out: Console | None = None) -> None:
    """Print the counts as tables."""
    out = out or console()
    out.print(plain(f"{document['total']} {document['counted']}"))
    out.print(plain(f"from {document['timefrom']} to {document['timeto']}"))
    if not document["total"]:
        return
    out.print(_groups(document))
    if document.get("buckets"):
        out.print(_buckets(document))
    if document["percentiles"]:
        out.print(_percentiles(document["percentiles"]))


def _groups(document: Mapping[str, Any]) -> Table:
    table = Table(document["by"], _right("records"), _right("share"))
    rows = [(group["key"], group["count"], _COLOURS.get(group["key"], "")) for group in document["groups"]]
    told = {"other": "(others)", "foreign": "(by records of a wider scope)", "without": f"(no {document['by']})"}
    rows += [(text, document[name], "dim") for name, text in told.items() if document[name]]
    for key, count, colour in rows:
        name = plain(key)
        name.stylize(colour)
        table.add_row(name, str(count), f"{100 * count / document['total']:.1f}%")
    return table


def _buckets(document: Mapping[str, Any]) -> Table:
    """A row for each bucket, and a column for each group."""
    series = document["groups"]
    table = Table("from", _right("records"), *(_right(plain(group["key"]).plain) for group in series))
    for number, bucket in enumerate(document["buckets"]):
        counts = [bucket["count"], *(group["series"][number] for group in series)]
        table.add_row(plain(bucket["start"].replace("T", " ").replace(".000Z", "Z")), *map(str, counts))
    return table


def _right(heading: str) -> Column:
    return Column(escape(heading), justify="right")  # a heading is markup, and a key is untrusted text


def _percentiles(found: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("milliseconds", *(_right(name) for name in ("p50", "p95", "p99", "records")))
    for name, values in found.items():
        shown = ["-" if values[p] is None else f"{values[p]:.1f}" for p in ("p50", "p95", "p99")]
        table.add_row(name, *shown, str(values["count"]))
    return table
