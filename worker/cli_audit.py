"""``postbote audit``: ask the audit from the command line.

Standard output carries the answer, standard error the one line of an error. Exit codes: 0 done,
1 the audit is not available now, 2 bad input. What servers replied is untrusted text: it is shown
as it stands, with nothing of it read as markup or sent to the terminal as a control sequence.
"""

import asyncio
import json as jsonlib
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from schemas.audit_query import AuditPage, AuditQuery, AuditQueryError, parse_audit_query
from worker.cli_audit_stats import stats
from worker.cli_audit_story import story
from worker.cli_audit_view import audit_table
from worker.errors import PostboteError, SettingsError

NOT_AVAILABLE = 1
BAD_INPUT = 2
_PIPE_WIDTH = 200  # columns of a table that no terminal limits
_DURATION = re.compile(r"\d+[smhdwMy]\Z", re.ASCII)

# The filter that an option fills, so that an error names what its reader typed.
_OPTIONS = {
    "filter.timefrom": "--since",
    "filter.timeto": "--until",
    "filter.partner": "--partner",
    "filter.org": "--org",
    "filter.recipient": "--recipient",
    "filter.outcome": "--outcome",
    "filter.type": "--type",
    "filter.eventid": "--event-id",
    "filter.limit": "--limit",
}

audit_app = typer.Typer(help="What became of each recipient of each event, and who changed what.", no_args_is_help=True)
audit_app.command("story")(story)
audit_app.command("stats")(stats)


@audit_app.callback()
def audit() -> None:
    """What became of each recipient of each event, and who changed what."""


@audit_app.command("search")
def search(  # noqa: PLR0913 # one option for each filter
    *,
    since: Annotated[str, typer.Option(help="1h, 7d, now-7d/d, or ISO 8601 with a zone")] = "24h",
    until: Annotated[str | None, typer.Option(help="Like --since; now, unless given")] = None,
    org: Annotated[str | None, typer.Option(help="PARTNER/ORG")] = None,
    partner: Annotated[str | None, typer.Option(help="Partner's name")] = None,
    recipient: Annotated[str | None, typer.Option(help="Mail address, in any case")] = None,
    outcome: Annotated[str | None, typer.Option(help="accepted, refused, deferred, …")] = None,
    record_type: Annotated[
        str | None, typer.Option("--type", help="email.delivery, smtp_config.changed, secret.changed, …")
    ] = None,
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
        "filter.type": record_type,
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
