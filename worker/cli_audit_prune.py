"""``postbote audit prune``: remove months of the audit that are older than it has to be kept.

Standard output carries what was removed, standard error what is told beside it. Exit codes: 0 done (also
where no month is old enough), 1 something that is needed is away, or records wait in an outbox, 2 bad input.
Nobody is held up while a question is open: what is there is looked at anew after the answer, and only the
months that were shown are removed.
"""

import asyncio
import contextlib
import json as jsonlib
import sys
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import structlog
import typer

from schemas.audit_change import ChangedBy
from worker.cli_audit_asking import NOT_AVAILABLE, fail
from worker.cli_people import command_actor
from worker.control.retention import AgeError, Month, Retention, parse_age, prunable, prune_month
from worker.errors import PostboteError, SettingsError

if TYPE_CHECKING:  # a command that is only asked for its help loads no adapter
    from worker.audit.retention import OpenSearchRetention
    from worker.settings import Settings

log = structlog.get_logger(__name__)
T = TypeVar("T")

_KILO = 1000.0


def prune(
    *,
    older_than: Annotated[str, typer.Option(help="Remove months that ended at least so long ago: 400d, 60w, 2y")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line")] = False,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="The embedded form's file instead of OpenSearch")
    ] = False,
) -> None:
    """Remove whole months of the audit for good, and keep on record which records went with them."""
    age = _age(older_than)
    found = run(_found(age, embedded=embedded))
    if not found:
        typer.echo(f"no month ended {older_than} ago or earlier", err=True)
        return
    if dry_run:
        for month in found:
            _tell(month, "would be removed", json=json)
        return
    if not yes:
        _confirm(found)
    names = frozenset(month.name for month in found)
    run(_remove(age, names, json=json, embedded=embedded))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do the work of a command that changes the audit; what goes wrong ends it with one line."""
    try:
        return asyncio.run(work)
    except SettingsError as error:
        fail(str(error))
    except PostboteError as error:
        fail(str(error), NOT_AVAILABLE)


def settings_of_command() -> "Settings":
    """Read the settings and set up the logs; raises SettingsError."""
    from worker.logs import configure_logging
    from worker.settings import load_settings

    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    return settings


def changed_by() -> ChangedBy:
    """Whoever runs the command, as its records name them."""
    actor = command_actor()
    return ChangedBy(kind=actor.kind.value, name=actor.name, scope=str(actor.scope), origin=actor.origin)


def _age(text: str) -> timedelta:
    try:
        return parse_age(text)
    except AgeError as error:
        fail(f"--older-than: {error}")


async def _found(age: timedelta, *, embedded: bool) -> Sequence[Month]:
    settings = settings_of_command()
    if embedded:
        async with _open_embedded(settings) as audit:
            return prunable(await audit.months(), datetime.now(UTC), age)
    async with _open_opensearch(settings, alone=False) as audit:
        return prunable(await audit.months(), datetime.now(UTC), age)


async def _remove(age: timedelta, names: Collection[str], *, json: bool, embedded: bool) -> None:
    settings = settings_of_command()
    if embedded:
        from worker.embedding import with_embedded_defaults

        settings = with_embedded_defaults(settings)
        _refuse_while(await _in_store(settings))
        async with _open_embedded(settings) as audit:
            await _remove_from(audit, settings, age, names, json=json, embedded=True)
        return
    async with _open_opensearch(settings, alone=True) as audit:
        await audit.free()  # first: records may wait for what a killed command has blocked
        _refuse_while(await _in_broker(settings) or await _in_store(settings))
        await _remove_from(audit, settings, age, names, json=json, embedded=False)


async def _remove_from(
    audit: Retention, settings: "Settings", age: timedelta, names: Collection[str], *, json: bool, embedded: bool
) -> None:
    from worker.recording import open_recording

    now = datetime.now(UTC)
    months = [month for month in prunable(await audit.months(), now, age) if month.name in names]
    async with open_recording(settings, embedded=embedded) as recording:
        for month in months:
            await prune_month(audit, recording, month.name, now, changed_by())
            log.info("a month of the audit was removed", month=month.name, records=month.records)
            _tell(month, "removed", json=json)


def _refuse_while(reason: str | None) -> None:
    if reason is not None:
        fail(f"nothing was removed: {reason}", NOT_AVAILABLE)


async def _in_broker(settings: "Settings") -> str | None:
    """Why a month may have records that RabbitMQ holds; None where it holds none."""
    from worker.rabbit.outbox_queue import RabbitOutbox
    from worker.rabbit.publisher import Publisher

    # The publisher is never connected: nothing is published.
    name = "postbote audit prune"
    outbox = RabbitOutbox(settings.amqp_url, Publisher(settings.amqp_url, name), name=name)
    try:
        waiting = await outbox.depth()
    finally:
        await outbox.close()
    if waiting is None:
        return "RabbitMQ cannot be asked what its outbox holds: try again once it and its queues are there"
    if waiting:
        return f"{waiting} messages of records wait in the outbox: let a worker ship them, and run this again"
    return None


async def _in_store(settings: "Settings") -> str | None:
    """Why a month may have records that the database holds; None where it holds none, or there is no database."""
    from worker.store.database import Store
    from worker.store.outgoing import OutgoingKind, OutgoingShelf

    store = Store(settings.database_url)
    if not store.exists:
        return None
    try:
        if store.is_sqlite:
            await store.upgrade()
        backlog = (await OutgoingShelf(store).backlog()).get(OutgoingKind.AUDIT)
    finally:
        await store.close()
    if backlog is None:
        return None
    return (
        f"{backlog.count} records of changes wait in {store.location}: let `postbote api` ship them, and run this again"
    )


@contextlib.asynccontextmanager
async def _open_embedded(settings: "Settings") -> AsyncIterator[Retention]:
    from worker.backends import open_search
    from worker.embedded.retention import SqliteRetention

    async with open_search(settings, embedded=True):  # where there is no file yet, it makes one
        yield SqliteRetention(settings.data_dir / "audit.db")


@contextlib.asynccontextmanager
async def _open_opensearch(settings: "Settings", *, alone: bool) -> AsyncIterator["OpenSearchRetention"]:
    from worker.audit.retention import OpenSearchRetention
    from worker.audit.retention_turn import my_turn

    prefix = settings.audit_index_prefix
    async with open_link(settings) as link:
        if not alone:
            yield OpenSearchRetention(link, prefix, lambda: False)
            return
        async with my_turn(link, prefix, settings.worker_id) as still_ours:
            yield OpenSearchRetention(link, prefix, still_ours)


@contextlib.asynccontextmanager
async def open_link(settings: "Settings") -> AsyncIterator[Any]:
    """The requests of a command that changes the audit, as the user who may; closed at the end."""
    from worker.audit.link import OpenSearchAccess, OpenSearchLink
    from worker.backends import opensearch_of

    how = opensearch_of(settings)
    link = OpenSearchLink(OpenSearchAccess(**{name: value for name, value in how.items() if name != "index_prefix"}))
    try:
        yield link
    finally:
        await link.close()


def _confirm(found: Sequence[Month]) -> None:
    what = f"{len(found)} month{'' if len(found) == 1 else 's'} of {sum(month.records for month in found):,} records"
    if not sys.stdin.isatty():
        fail(f"{what} would be removed: there is no terminal to ask at: confirm with --yes")
    for month in found:
        typer.echo(f"  {_named(month)}", err=True)
    typer.confirm(f"Remove {what} for good?", abort=True, err=True)


def _tell(month: Month, what: str, *, json: bool) -> None:
    if json:
        line = {"action": what, "month": month.name, "records": month.records, "bytes": month.octets}
        typer.echo(jsonlib.dumps(line, separators=(",", ":")))
    else:
        typer.echo(f"{what}: {_named(month)}")


def _named(month: Month) -> str:
    return f"{month.name}, {month.records:,} records, {_size(month.octets)}"


def _size(octets: int) -> str:
    size = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if size < _KILO:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KILO
    return f"{size:.1f} TB"
