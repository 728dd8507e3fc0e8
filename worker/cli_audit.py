"""``postbote audit``: ask the audit from the command line.

Standard output carries the answer, standard error the one line of an error. Exit codes: 0 done,
1 the audit is not available now, 2 bad input. What servers replied is untrusted text: it is shown
as it stands, with nothing of it read as markup or sent to the terminal as a control sequence.
"""

import asyncio
import json as jsonlib
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.audit import Outcome
from schemas.audit_query import AuditPage, AuditQuery, AuditQueryError, parse_audit_query
from worker.errors import PostboteError, SettingsError

NOT_AVAILABLE = 1
BAD_INPUT = 2
_PIPE_WIDTH = 200  # columns of a table that no terminal limits
_DURATION = re.compile(r"\d+[smhdwMy]\Z", re.ASCII)

COLOURS = {
    Outcome.ACCEPTED: "green",
    Outcome.DEFERRED: "yellow",
    Outcome.THROTTLED: "yellow",
    Outcome.IN_DOUBT: "bold yellow",
    Outcome.SUPPRESSED: "dim",
    Outcome.REFUSED: "red",
    Outcome.EXPIRED: "red",
    Outcome.UNCONFIGURED: "red",
    Outcome.CONFIG_FAULT: "bold red",
    Outcome.INVALID: "red",
    Outcome.EXHAUSTED: "red",
    Outcome.PARKED: "red",
}
"""How an outcome is shown; every outcome has its colour."""

# The filter that an option fills, so that an error names what its reader typed.
_OPTIONS = {
    "filter.timefrom": "--since",
    "filter.timeto": "--until",
    "filter.partner": "--partner",
    "filter.org": "--org",
    "filter.recipient": "--recipient",
    "filter.outcome": "--outcome",
    "filter.eventid": "--event-id",
    "filter.limit": "--limit",
}

audit_app = typer.Typer(help="What became of each recipient of each event.", no_args_is_help=True)


@audit_app.callback()
def audit() -> None:
    """What became of each recipient of each event."""


@audit_app.command("search")
def search(  # noqa: PLR0913 # one option for each filter
    *,
    since: Annotated[str, typer.Option(help="1h, 7d, now-7d/d, or ISO 8601 with a zone")] = "24h",
    until: Annotated[str | None, typer.Option(help="Like --since; now, unless given")] = None,
    org: Annotated[str | None, typer.Option(help="PARTNER/ORG")] = None,
    partner: Annotated[str | None, typer.Option(help="Partner's name")] = None,
    recipient: Annotated[str | None, typer.Option(help="Mail address, in any case")] = None,
    outcome: Annotated[str | None, typer.Option(help="accepted, refused, deferred, …")] = None,
    event_id: Annotated[str | None, typer.Option(help="The event's CloudEvents id")] = None,
    limit: Annotated[int, typer.Option(help="Records to show, newest first")] = 50,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line")] = False,
    embedded: Annotated[bool, typer.Option("--embedded", help="Ask the embedded form's file")] = False,
) -> None:
    """Search the audit, newest first."""
    partner, org_name = _split_org(org, partner)
    given = {
        "filter.timefrom": _ago(since),
        "filter.timeto": None if until is None else _ago(until),
        "filter.partner": partner,
        "filter.org": org_name,
        "filter.recipient": recipient,
        "filter.outcome": outcome,
        "filter.eventid": event_id,
        "filter.limit": str(limit),
    }
    page = _ask(_parse(given), embedded=embedded)
    if json:
        for record in page.records:
            # ASCII only: what JSON itself leaves unescaped still steers a terminal.
            typer.echo(jsonlib.dumps(record, separators=(",", ":")))
    else:
        _print_page(page)


def audit_table(records: Iterable[dict[str, Any]]) -> Table:
    """Show records (documents as the audit answers them) as a table, times in UTC."""
    table = Table("when", "outcome", "recipient", "via", "TLS", "attempt", "reply")
    for column in table.columns:
        column.overflow = "fold"
    for record in records:
        table.add_row(
            _plain(_when(record)),
            _outcome(record),
            _plain(record.get("recipient") or "-"),
            _plain(_via(record.get("config"))),
            _plain(_tls(record.get("tls"))),
            _plain(str(record.get("attempt", ""))),
            _plain(_reply(record)),
        )
    return table


def _split_org(org: str | None, partner: str | None) -> tuple[str | None, str | None]:
    if org is None:
        return partner, None
    owner, slash, name = org.partition("/")
    if not slash or not owner or not name or "/" in name:
        _fail("--org: expected PARTNER/ORG, such as acme/dev")
    if partner is not None and partner != owner:
        _fail(f"--org: belongs to the partner {owner}, and --partner says {partner}")
    return owner, name


def _ago(text: str) -> str:
    return f"now-{text}" if _DURATION.match(text) else text


def _parse(given: Mapping[str, str | None]) -> AuditQuery:
    params = [(name, value) for name, value in given.items() if value is not None]
    try:
        return parse_audit_query(params, datetime.now(UTC))
    except AuditQueryError as error:
        message = error.message
        for path, option in _OPTIONS.items():
            message = message.replace(path, option)
        _fail(f"{_OPTIONS.get(error.path, error.path)}: {message}")


def _ask(query: AuditQuery, *, embedded: bool) -> AuditPage:
    async def ask() -> AuditPage:
        from worker.app import open_search
        from worker.settings import load_settings

        async with open_search(load_settings(), embedded=embedded) as opened:
            return await opened.search(query)

    try:
        return asyncio.run(ask())
    except SettingsError as error:
        _fail(str(error))
    except PostboteError as error:
        _fail(str(error), NOT_AVAILABLE)


def _fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _print_page(page: AuditPage) -> None:
    if not page.records:
        typer.echo("no records")
        return
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(audit_table(page.records))
    if page.total > len(page.records):
        typer.echo(f"the newest {len(page.records)} of {page.total} records", err=True)


def _plain(text: str) -> Text:
    return Text("".join(c if c.isprintable() else "�" for c in text.replace("\n", " ")))


def _when(record: Mapping[str, Any]) -> str:
    text = str(record.get("@timestamp", ""))
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except ValueError:
        return text


def _outcome(record: Mapping[str, Any]) -> Text:
    name = str(record.get("outcome", ""))
    shown = _plain(f"{name} (maybe twice)" if record.get("possible_duplicate") else name)
    if name in COLOURS:  # an outcome of a newer version has none yet
        shown.stylize(COLOURS[Outcome(name)])
    return shown


def _via(config: Mapping[str, Any] | None) -> str:
    return "-" if config is None else f"{config.get('scope')}/{config.get('name')}"


def _tls(tls: Mapping[str, Any] | None) -> str:
    if tls is None:
        return "none"
    return f"{tls.get('version')}{'' if tls.get('verified') else ' (unverified)'}"


def _reply(record: Mapping[str, Any]) -> str:
    reply = record.get("reply") or {}
    text, enhanced = str(reply.get("text") or ""), str(reply.get("enhanced") or "")
    said_already = text.startswith(enhanced)  # the text is the server's own and mostly begins with the code
    words = [str(reply.get("code") or ""), "" if said_already else enhanced, text]
    return " ".join(word for word in words if word) or str(record.get("reason") or "")
