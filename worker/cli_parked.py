"""``postbote parked``: look at the events that were set aside, and replay or drop them.

Standard output carries the answer, standard error what is told beside it. Exit codes: 0 done (also
where a filter picks nothing), 1 something failed or a named event is not there, 2 wrong arguments.
Nobody holds anything while a question is open: what was picked is taken anew after the answer, and
only what was shown to the asked one is touched.
"""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, NoReturn, TypeVar

import structlog
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from schemas.smtp_config import Scope
from worker.cli_parked_view import line_of, page_of, plain, table_of, whole
from worker.delivery.parked import ParkedEvent, ParkedFilter, ParkedShelf
from worker.delivery.ports import Lane
from worker.delivery.replaying import Act, Pick, Tally, carry_out, dropping, look, replaying
from worker.errors import PostboteError, SettingsError

log = structlog.get_logger(__name__)
T = TypeVar("T")

FAILED = 1
BAD_INPUT = 2
_PIPE_WIDTH = 200  # columns of a table that no terminal limits
_NAMED_AT_MOST = 10
_DURATION = re.compile(r"(\d{1,6})([smhdw])\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

parked_app = typer.Typer(help="Events that were set aside for an operator.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Events' ids, or sha256:... as listed")]
IdOption = Annotated[list[str] | None, typer.Option("--id", help="An event's id; repeatable")]
Source = Annotated[str | None, typer.Option(help="The events' CloudEvents source")]
Reason = Annotated[str | None, typer.Option(help="invalid, exhausted, config_fault, unrouted, …")]
Org = Annotated[str | None, typer.Option(help="PARTNER/ORG")]
Partner = Annotated[str | None, typer.Option(help="Partner's name: its own events and its orgs'")]
OlderThan = Annotated[str | None, typer.Option(help="First seen at least so long ago: 30m, 2h, 7d")]
NewerThan = Annotated[str | None, typer.Option(help="First seen less long ago than that")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take so many at most, oldest first")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document a line")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done")]
All = Annotated[bool, typer.Option("--all", help="Without any filter: all of them")]
Embedded = Annotated[bool, typer.Option("--embedded", help="The embedded form's file instead of RabbitMQ")]


@parked_app.callback()
def parked() -> None:
    """Events that were set aside for an operator."""


@parked_app.command("list")
def list_parked(  # noqa: PLR0913 # one option for each filter
    *,
    id_: IdOption = None,
    source: Source = None,
    reason: Reason = None,
    org: Org = None,
    partner: Partner = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Annotated[int, typer.Option(min=1, help="Events to show, of those parked first")] = 50,
    json: Json = False,
    embedded: Embedded = False,
) -> None:
    """List parked events, the oldest first."""
    wanted = _filter(id_, source, reason, org, partner, older_than, newer_than)
    now = datetime.now(UTC)
    found, looked_at = _with_shelf(lambda shelf: _found(shelf, Pick(wanted, now, limit + 1)), embedded=embedded)
    # Looking gives back in no promised order, so the queue's own is only nearly that of the first sight.
    shown = sorted(found[:limit], key=lambda event: event.first_seen or now)
    for event in shown if json else ():
        typer.echo(line_of(event, now))
    if shown and not json:
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table_of(shown, now))
    if not shown:
        typer.echo(_nothing(looked_at), err=True)
    elif len(found) > limit:
        typer.echo(f"the oldest {limit} of more: --limit shows them", err=True)


@parked_app.command("show")
def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id, or sha256:... as listed")],
    *,
    source: Source = None,
    json: Json = False,
    embedded: Embedded = False,
) -> None:
    """Show everything about an event, but attachments and what looks like a secret; every copy where it has several."""
    now = datetime.now(UTC)
    pick = Pick(ParkedFilter(frozenset({event_id}), source), now)

    async def pages(shelf: ParkedShelf) -> int:
        count = 0
        async for picked in look(shelf, pick):
            document = whole(picked.held, picked.event, now)
            text = line_of(picked.event, now, **{k: document[k] for k in ("content_type", "headers", "body")})
            typer.echo(text if json else ("\n" if count else "") + page_of(document))
            count += 1
        return count

    if not _with_shelf(pages, embedded=embedded):
        _fail(f"{plain(event_id)} is not parked", FAILED)


@parked_app.command("replay")
def replay(  # noqa: PLR0913 # one option for each filter
    ids: Ids = None,
    *,
    id_: IdOption = None,
    source: Source = None,
    reason: Reason = None,
    org: Org = None,
    partner: Partner = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    everything: All = False,
    lane: Annotated[Lane, typer.Option(help="For unrouted events, which never were in one")] = Lane.TRANSACTIONAL,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    embedded: Embedded = False,
) -> None:
    """Send parked events on their way again, to those recipients who have no end yet."""
    wanted = _filter([*(ids or ()), *(id_ or ())], source, reason, org, partner, older_than, newer_than)
    change = Change("replay", "replayed", asks_from=2, yes=yes, dry_run=dry_run, json=json, embedded=embedded)
    now = datetime.now(UTC)
    _change(change, Pick(_some(wanted, everything=everything), now, limit), lambda shelf: replaying(shelf, now, lane))


@parked_app.command("drop")
def drop(  # noqa: PLR0913 # one option for each filter
    ids: Ids = None,
    *,
    id_: IdOption = None,
    source: Source = None,
    reason: Reason = None,
    org: Org = None,
    partner: Partner = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    everything: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    embedded: Embedded = False,
) -> None:
    """Remove parked events for good; nothing is sent, and the audit keeps what it has."""
    wanted = _filter([*(ids or ()), *(id_ or ())], source, reason, org, partner, older_than, newer_than)
    change = Change("drop", "dropped", asks_from=1, yes=yes, dry_run=dry_run, json=json, embedded=embedded)
    _change(change, Pick(_some(wanted, everything=everything), datetime.now(UTC), limit), dropping)


@dataclass(frozen=True, slots=True)
class Change:
    """How a replay or a drop is to go about; it asks from `asks_from` events on."""

    verb: str
    participle: str
    asks_from: int
    yes: bool
    dry_run: bool
    json: bool
    embedded: bool


def _change(change: Change, pick: Pick, act: Callable[[ParkedShelf], Act]) -> None:
    if change.dry_run or not change.yes:
        found, looked_at = _with_shelf(lambda shelf: _found(shelf, pick), embedded=change.embedded)
        if not found or change.dry_run:
            _preview(change, pick, found, looked_at)
            return
        if len(found) >= change.asks_from:
            _confirm(change, found)
        pick = Pick(pick.wanted, pick.now, pick.limit, frozenset(event.fingerprint for event in found))
    done: set[str] = set()
    tally = _with_shelf(lambda shelf: _carry_out(shelf, change, pick, act(shelf), done), embedded=change.embedded)
    _conclude(change, pick, tally, done)


async def _carry_out(shelf: ParkedShelf, change: Change, pick: Pick, act: Act, done: set[str]) -> Tally:
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.completed} {task.description}"),
        console=console,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(change.participle, total=None)

        def report(event: ParkedEvent) -> None:
            done.add(event.id)
            progress.advance(task)
            _tell(change.participle, event, pick.now, json=change.json)
            told = {"event_id": event.id, "source": event.source, "scope": str(event.scope), "reason": event.reason}
            log.info("an operator decided about a parked event", decision=change.participle, **told)

        return await carry_out(shelf, pick, act, report)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _preview(change: Change, pick: Pick, found: Sequence[ParkedEvent], looked_at: int) -> None:
    if not found:
        typer.echo(_nothing(looked_at), err=True)
    for event in found:
        _tell(f"would be {change.participle}", event, pick.now, json=change.json)
    if found:
        typer.echo(f"{_events(len(found))} would be {change.participle}", err=True)
    _end(_missing(pick, {event.id for event in found}))


def _confirm(change: Change, found: Sequence[ParkedEvent]) -> None:
    if not _at_terminal():
        _fail(f"{_events(len(found))} would be {change.participle}: there is no terminal to ask at: confirm with --yes")
    for event in found[:_NAMED_AT_MOST]:
        typer.echo(f"  {_named(event)}", err=True)
    if len(found) > _NAMED_AT_MOST:
        typer.echo(f"  and {len(found) - _NAMED_AT_MOST} more", err=True)
    typer.confirm(f"{change.verb.capitalize()} {_events(len(found))}?", abort=True, err=True)


def _conclude(change: Change, pick: Pick, tally: Tally, done: set[str]) -> None:
    if not (tally.done or tally.gone or tally.failed):
        typer.echo("nothing matches", err=True)
    else:
        typer.echo(f"{change.participle} {_events(tally.done)}", err=True)
    if tally.gone:
        typer.echo(f"{_events(tally.gone)} had been taken by somebody else", err=True)
    if tally.failure:
        typer.echo(f"stopped: {tally.failure}; {_events(tally.failed)} failed and stay parked", err=True)
    _end(_missing(pick, done) or bool(tally.failure))


def _missing(pick: Pick, done: set[str]) -> bool:
    """Say which of the named ids were not there."""
    missing = sorted(pick.wanted.ids - done)
    for event_id in missing:
        typer.echo(f"{plain(event_id)} is not parked, or not as the filters say", err=True)
    return bool(missing)


def _tell(what: str, event: ParkedEvent, now: datetime, *, json: bool) -> None:
    typer.echo(line_of(event, now, action=what) if json else f"{what}: {_named(event)}")


def _named(event: ParkedEvent) -> str:
    return plain(f"{event.id} of {event.source} for {event.scope} ({event.reason})")


def _events(count: int) -> str:
    return f"{count} parked event{'' if count == 1 else 's'}"


def _nothing(looked_at: int) -> str:
    return f"nothing matches among {_events(looked_at)}" if looked_at else "nothing is parked"


def _end(failed: object) -> None:
    if failed:
        raise typer.Exit(FAILED)


async def _found(shelf: ParkedShelf, pick: Pick) -> tuple[list[ParkedEvent], int]:
    """Describe all that is picked; also how many there were to look at."""
    total = await shelf.count()
    return [picked.event async for picked in look(shelf, pick)], total


def _with_shelf(work: Callable[[ParkedShelf], Awaitable[T]], *, embedded: bool) -> T:
    async def inside() -> T:
        from worker.backends import open_parked
        from worker.logs import configure_logging
        from worker.settings import load_settings

        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        async with open_parked(settings, embedded=embedded) as shelf:
            return await work(shelf)

    try:
        return asyncio.run(inside())
    except SettingsError as error:
        _fail(str(error))
    except PostboteError as error:
        _fail(str(error), FAILED)


def _filter(  # noqa: PLR0917 # in the order of the options
    ids: Sequence[str] | None,
    source: str | None,
    reason: str | None,
    org: str | None,
    partner: str | None,
    older_than: str | None,
    newer_than: str | None,
) -> ParkedFilter:
    scope = _scope(org, partner)
    older, newer = _duration("--older-than", older_than), _duration("--newer-than", newer_than)
    return ParkedFilter(frozenset(ids or ()), source, reason, scope.partner, scope.org, older, newer)


def _some(wanted: ParkedFilter, *, everything: bool) -> ParkedFilter:
    """Refuse a change of everything that was not asked for."""
    if wanted == ParkedFilter() and not everything:
        _fail("say which events: give ids or a filter, or --all")
    if wanted != ParkedFilter() and everything:
        _fail("--all: is contradicted by the other filters")
    return wanted


def _scope(org: str | None, partner: str | None) -> Scope:
    if org is None:
        return Scope(partner)
    try:
        scope = Scope.parse(f"org:{org}")
    except ValueError:
        _fail("--org: expected PARTNER/ORG, such as acme/dev")
    if partner not in (None, scope.partner):
        _fail(f"--org: belongs to the partner {scope.partner}, and --partner says {partner}")
    return scope


def _duration(option: str, text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = _DURATION.match(text)
    if found is None:
        _fail(f"{option}: expected a number and s, m, h, d or w, such as 2h")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def _fail(words: str, code: int = BAD_INPUT) -> NoReturn:
    typer.echo(f"postbote: {words}", err=True)
    raise typer.Exit(code)
