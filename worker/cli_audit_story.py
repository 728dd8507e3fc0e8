"""``postbote audit story``: what happened to one event, and where it is now.

Standard output carries the story, standard error the one line of an error. Exit codes: 0 told, 1 the
audit is not available now, 2 bad input or no such event.
"""

import asyncio
import json as jsonlib
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.audit_story import Attempt, RecipientStory, Standing, Story
from schemas.smtp_config import CONTROLLER, Scope
from schemas.text import one_line
from worker.cli_audit_view import COLOURS, addressee, plain, reply_words, tls_words, via
from worker.control.principals import Kind, Principal, Role
from worker.control.stories import Wanted, read_stories
from worker.errors import PostboteError, SettingsError

NOT_AVAILABLE = 1
BAD_INPUT = 2
PIPE_WIDTH = 200  # columns of a table that no terminal limits
_MAX_STORIES = 20
_COLUMNS = ("when", "after", "attempt", "outcome", "via", "TLS", "reply or reason", "next attempt")
_STANDING_COLOURS = {
    Standing.DONE: "green",
    Standing.WAITING: "yellow",
    Standing.DUE: "yellow",
    Standing.IN_DOUBT: "bold yellow",
    Standing.HELD: "red",
    Standing.PARKED: "bold red",
    Standing.UNKNOWN: "bold",
}
# Who may run the command on the host reads the whole audit, as with `audit search`.
_OPERATOR = Principal(Kind.COMMAND, "command", "command", CONTROLLER, Role.VIEWER)


def story(
    *,
    event_id: Annotated[str, typer.Option("--id", help="The event's CloudEvents id")],
    source: Annotated[str | None, typer.Option(help="The event's CloudEvents source; any, unless given")] = None,
    scope: Annotated[str | None, typer.Option(help="controller, partner:NAME or org:PARTNER/NAME; any")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line")] = False,
    embedded: Annotated[bool, typer.Option("--embedded", help="Ask the embedded form's file")] = False,
) -> None:
    """Tell what happened to each recipient of one event, and where the event is now."""
    found = _ask(_wanted(event_id, source, scope), embedded=embedded)
    if not found:
        fail("no records of such an event")
    for each in found[:_MAX_STORIES]:
        if json:
            # ASCII only: what JSON itself leaves unescaped still steers a terminal.
            typer.echo(jsonlib.dumps(each.model_dump(mode="json"), separators=(",", ":")))
        else:
            show(each)
    if len(found) > _MAX_STORIES:
        typer.echo(f"the first {_MAX_STORIES} of {len(found)} events: name one by --source and --scope", err=True)


def _wanted(event_id: str, source: str | None, scope: str | None) -> Wanted:
    for option, value in (("--id", event_id), ("--source", source)):
        try:
            one_line(value or "")
        except ValueError as error:
            fail(f"{option}: {error}")
    try:
        return Wanted(event_id, source, None if scope is None else Scope.parse(scope))
    except ValueError as error:
        fail(f"--scope: {error}")


def _ask(wanted: Wanted, *, embedded: bool) -> tuple[Story, ...]:
    async def ask() -> tuple[Story, ...]:
        from worker.app import open_search
        from worker.settings import load_settings

        async with open_search(load_settings(), embedded=embedded) as search:
            return await read_stories(search, wanted, _OPERATOR, datetime.now(UTC))

    try:
        return asyncio.run(ask())
    except SettingsError as error:
        fail(str(error))
    except PostboteError as error:
        fail(str(error), NOT_AVAILABLE)


def fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    """End with one line on standard error."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def console() -> Console:
    """Standard output: with colours and its own width on a terminal, without and wide in a pipe."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


# How it looks: what servers and publishers wrote is untrusted text, shown as it stands


def show(told: Story, out: Console | None = None) -> None:
    """Print one story: the event, where it is, and each recipient's attempts."""
    out = out or console()
    out.print(plain(f"event {told.id} of {told.source}, {told.scope}"))
    facts = (told.type, told.category, None if told.time is None else f"time {_clock(told.time)}")
    out.print(plain("  " + ", ".join(fact for fact in facts if fact)))
    where = plain(f"  {told.where.says}")
    where.stylize(_STANDING_COLOURS[told.where.state])
    out.print(where)
    if not told.complete:
        out.print(plain(f"  the newest {told.records} records; there are more"))
    for recipient in told.recipients:
        out.print(_heading(recipient))
        out.print(_table(recipient.attempts, told.time))


def _heading(recipient: RecipientStory) -> Text:
    took = "" if recipient.took_ms is None else f", {_span(timedelta(milliseconds=recipient.took_ms))} after the event"
    name = addressee(recipient.recipient, recipient.recipient_hash)
    heading = plain(f"{'(the event could not be read)' if name == '-' else name}: {recipient.where.says}{took}")
    heading.stylize(_STANDING_COLOURS[recipient.where.state])
    return heading


def _table(attempts: Iterable[Attempt], event_time: datetime | None) -> Table:
    table = Table(*_COLUMNS)
    for column in table.columns:
        column.overflow = "fold"
    for each in attempts:
        said = each.model_dump(mode="json")
        outcome = plain(f"{each.outcome} (maybe twice)" if each.possible_duplicate else each.outcome)
        outcome.stylize({str(known): colour for known, colour in COLOURS.items()}.get(each.outcome, ""))
        table.add_row(
            plain("-" if each.at is None else _clock(each.at)),
            plain("-" if each.at is None or event_time is None else _span(each.at - event_time)),
            plain("-" if each.attempt is None else str(each.attempt)),
            outcome,
            plain(via(said["config"]) if said["config"] and "name" in said["config"] else _used(said["config"])),
            plain(tls_words(said["tls"])),
            plain(reply_words(said)),
            plain("-" if each.next_attempt_at is None else _clock(each.next_attempt_at)),
        )
    return table


def _used(config: dict[str, object] | None) -> str:
    return "-" if config is None else str(config.get("scope"))


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _span(span: timedelta) -> str:
    """A length of time in its two largest units: ``1h 02m``, ``4m 05s``, ``0.350s``."""
    seconds = span.total_seconds()
    if seconds < 60:  # noqa: PLR2004 # seconds of a minute
        return f"{seconds:.3f}s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86_400
    if hours < 1:
        return f"{int(minutes)}m {int(seconds % 60):02}s"
    return f"{int(hours)}h {int(minutes % 60):02}m" if days < 1 else f"{int(days)}d {int(hours % 24):02}h"
