"""``postbote audit``: ask the audit from the command line.

Standard output carries the answer, standard error the one line of an error. Exit codes: 0 done,
1 the audit is not available now, 2 bad input. What servers replied is untrusted text: it is shown
as it stands, with nothing of it read as markup or sent to the terminal as a control sequence.
"""

import sys
from typing import Annotated

import typer
from rich.console import Console

from schemas.audit_filters import Sort
from schemas.audit_query import AuditPage
from worker.cli_audit_asking import Text, ask, filtered, json_line, question
from worker.cli_audit_export import export
from worker.cli_audit_forget import forget
from worker.cli_audit_key import key
from worker.cli_audit_migrate import migrate
from worker.cli_audit_prune import prune
from worker.cli_audit_stats import stats
from worker.cli_audit_story import story
from worker.cli_audit_tail import tail
from worker.cli_audit_verify import verify
from worker.cli_audit_view import audit_table

_PIPE_WIDTH = 200  # columns of a table that no terminal limits

audit_app = typer.Typer(help="What became of each recipient of each event, and who changed what.", no_args_is_help=True)


@audit_app.callback()
def audit() -> None:
    """What became of each recipient of each event, and who changed what."""


@audit_app.command("search")
@filtered()
def search(
    *,
    filters: dict[str, Text],
    limit: Annotated[int, typer.Option(help="Records to show")] = 50,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line")] = False,
    embedded: Annotated[bool, typer.Option("--embedded", help="Ask the embedded form's file")] = False,
) -> None:
    """Search the audit, newest first."""
    query = question({**filters, "filter.limit": str(limit)})
    page = ask(lambda opened: opened.search(query), embedded=embedded)
    if json:
        for record in page.records:
            typer.echo(json_line(record))
    else:
        _print_page(page, query.sort)


audit_app.command("export")(export)
audit_app.command("tail")(tail)
audit_app.command("story")(story)
audit_app.command("stats")(stats)
audit_app.command("key")(key)
audit_app.command("prune")(prune)
audit_app.command("migrate")(migrate)
audit_app.command("forget")(forget)
audit_app.command("verify")(verify)


def _print_page(page: AuditPage, sort: Sort) -> None:
    if not page.records:
        typer.echo("no records")
        return
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(audit_table(page.records))
    if page.total > len(page.records):
        which = "newest" if sort is Sort.NEWEST else "oldest"
        typer.echo(f"the {which} {len(page.records)} of {page.total} records", err=True)
