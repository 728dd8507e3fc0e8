"""``postbote audit forget``: no record says an address any more, and each is still found by its keyed hash.

Exit codes: 0 done, 1 not available now or records left whose chain would break, 2 bad input or no key.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from schemas.address import normalize_address
from schemas.audit_change import ChangedBy
from worker.cli_audit_asking import NOT_AVAILABLE, fail, json_line
from worker.errors import PostboteError, SettingsError

if TYPE_CHECKING:  # a command that is only asked for its help loads no adapter
    from worker.control.forgetting import Forgetting, Forgotten, Told
    from worker.settings import Settings

_NO_KEY = (
    "the audit has no key to remember the address by: set POSTBOTE_AUDIT_HASH_KEY, the same for every worker and API"
    " (`openssl rand -base64 32` makes one)"
)
_LEFT = (
    "{count} left as they are: they were chained before a key was set, and without the address they no longer fit"
    " their chain. With --unprovable they are rewritten too, and `postbote audit verify` names them as changed"
)


def forget(
    *,
    recipient: Annotated[str, typer.Option(help="Mail address to forget, in any case")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing")] = False,
    unprovable: Annotated[
        bool, typer.Option("--unprovable", help="Also records whose chain breaks by it: verify will name them")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document")] = False,
    embedded: Annotated[bool, typer.Option("--embedded", help="In the embedded form's file")] = False,
) -> None:
    """Replace an address in all records by its keyed hash, by which they are still found."""
    from worker.logs import configure_logging
    from worker.settings import load_settings

    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format, keep_addresses=False)
        whom = _whom(settings, recipient, unprovable=unprovable)
        told = asyncio.run(_count(settings, whom, embedded=embedded)) if dry_run or not yes else None
        if not dry_run:
            if told is not None and told.rewritten:
                _confirm(told.rewritten)
            told = asyncio.run(_forget(settings, whom, embedded=embedded))
    except SettingsError as error:
        fail(str(error))
    except PostboteError as error:
        fail(f"{error}; what was rewritten stays so: run it again", NOT_AVAILABLE)
    if told is not None:
        _tell(told, whom.keyed_hash, dry_run=dry_run, json=json)


def _whom(settings: "Settings", recipient: str, *, unprovable: bool) -> "Forgotten":
    from worker.control.forgetting import Forgotten
    from worker.recipients import privacy_of

    try:
        address = normalize_address(recipient)
    except ValueError as error:
        fail(f"--recipient: {error}")
    keyed_hash = privacy_of(settings).hash_of(address)
    if keyed_hash is None:
        fail(_NO_KEY)
    return Forgotten(address, keyed_hash, unprovable)


async def _count(settings: "Settings", whom: "Forgotten", *, embedded: bool) -> "Told":
    from worker.control.forgetting import forget as carry_out

    async with _opened(settings, embedded=embedded) as audit:
        return await carry_out(audit, whom, _nothing, dry_run=True)


async def _forget(settings: "Settings", whom: "Forgotten", *, embedded: bool) -> "Told":
    from worker.cli_people import command_actor
    from worker.control.forgetting import deed
    from worker.control.forgetting import forget as carry_out
    from worker.recording import open_recording

    user = command_actor()
    actor = ChangedBy(kind=user.kind.value, name=user.name, scope=str(user.scope))

    async def record() -> None:
        async with open_recording(settings, embedded=embedded) as recording:
            await recording.record(deed(whom, actor))

    async with _opened(settings, embedded=embedded) as audit:
        with _progress() as report:
            return await carry_out(audit, whom, record, report)


async def _nothing() -> None:
    """Where nothing is rewritten, nothing is recorded."""


@contextlib.asynccontextmanager
async def _opened(settings: "Settings", *, embedded: bool) -> "AsyncIterator[Forgetting]":
    if embedded:
        from worker.backends import open_embedded
        from worker.embedded.forgetting import SqliteForgetting

        async with open_embedded(settings):  # where there is no file yet, it makes one
            file = await SqliteForgetting(settings.data_dir / "audit.db").open()
            try:
                yield file
            finally:
                await file.close()
        return
    from worker.audit.forgetting import OpenSearchForgetting
    from worker.backends import opensearch_of

    server = OpenSearchForgetting(**opensearch_of(settings))
    try:
        yield server
    finally:
        await server.close()


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as shown:
        task = shown.add_task("looking for the address", total=None)
        yield lambda rewritten: shown.update(task, description=f"{_records(rewritten)} rewritten")


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        fail(f"{_records(count)} would be rewritten: there is no terminal to ask at: confirm with --yes")
    typer.confirm(f"Rewrite {_records(count)} without the address?", abort=True, err=True)


def _tell(told: "Told", keyed_hash: str, *, dry_run: bool, json: bool) -> None:
    if json:
        counts = {"rewritten": told.rewritten, "unprovable": told.unprovable, "contested": told.contested}
        typer.echo(json_line({"recipient_hash": keyed_hash, "dry_run": dry_run, **counts}))
    else:
        done = "would be rewritten" if dry_run else "rewritten"
        typer.echo(f"{_records(told.rewritten)} {done}: known by the hash {keyed_hash}")
    if told.unprovable:
        typer.echo(_LEFT.format(count=_records(told.unprovable)), err=True)
    if told.contested:
        typer.echo(f"{_records(told.contested)} kept changing meanwhile: run it again", err=True)
    if told.unprovable or told.contested:
        raise typer.Exit(NOT_AVAILABLE)


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"
