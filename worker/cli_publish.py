"""``postbote publish``: read events from files, check them, publish each with confirm."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.cloudevents import STRUCTURED, InvalidEvent, parse_event
from worker.api.ports import EventIntake
from worker.app import open_intake, with_embedded_defaults
from worker.delivery.ports import Lane
from worker.errors import PublishRefused
from worker.settings import Settings

_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Numbered:
    """One event of a file, and where it stands there."""

    where: str
    body: bytes
    kind: str


async def publish_files(
    settings: Settings, files: Sequence[str], lane: str, *, embedded: bool, unchecked: bool
) -> None:
    """Publish every event of `files`; nothing is published where one of them cannot be read.

    Exits with 2 for a bad lane, file or event, with 1 where the broker refused some.
    """
    chosen = _lane(lane)
    events = [event for name in files for event in _events(name)]
    if not unchecked:
        _check(events)
    if embedded:
        settings = with_embedded_defaults(settings)
    async with open_intake(settings, embedded=embedded) as intake:
        failures = await _publish_all(intake, events, chosen)
    for failure in failures:
        typer.echo(f"postbote: {failure}", err=True)
    typer.echo(f"published {len(events) - len(failures)} of {len(events)} events to the {chosen} lane", err=True)
    if failures:
        raise typer.Exit(1)


async def _publish_all(intake: EventIntake, events: Sequence[Numbered], lane: Lane) -> list[str]:
    failures: list[str] = []
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(event: Numbered) -> None:
        async with places:
            try:
                await intake.submit(event.body, content_type=STRUCTURED, headers={}, lane=lane, kind=event.kind)
            except PublishRefused as error:
                failures.append(f"{event.where}: {error}")

    with _progress() as progress:
        task = progress.add_task("publishing", total=len(events))
        async with asyncio.TaskGroup() as group:
            for event in events:
                published = group.create_task(one(event))
                published.add_done_callback(lambda _: progress.advance(task))
    return failures


def _progress() -> Progress:
    """A bar on standard error, drawn only for a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _check(events: Sequence[Numbered]) -> None:
    wrong = False
    for event in events:
        try:
            parse_event(event.body, STRUCTURED)
        except InvalidEvent as error:
            wrong = True
            for found in error.errors:
                typer.echo(f"postbote: {event.where}: {found}", err=True)
    if wrong:
        typer.echo("postbote: nothing was published (--unchecked publishes invalid events, too)", err=True)
        raise typer.Exit(2)


def _events(name: str) -> Iterator[Numbered]:
    """Read a JSON object, a JSON array of them, or one object a line."""
    content = _read(name)
    try:
        whole = orjson.loads(content)
    except orjson.JSONDecodeError:
        yield from _lines(name, content)
        return
    many = whole if isinstance(whole, list) else [whole]
    for number, event in enumerate(many, 1):
        yield _numbered(f"{name}[{number}]" if isinstance(whole, list) else name, event)


def _lines(name: str, content: bytes) -> Iterator[Numbered]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            _refuse(f"{name}:{number}: not JSON: {error}")
        yield _numbered(f"{name}:{number}", event)


def _numbered(where: str, event: object) -> Numbered:
    if not isinstance(event, dict):
        _refuse(f"{where}: not a JSON object")
    return Numbered(where, orjson.dumps(event), str(event.get("type", "unknown"))[:200])


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        _refuse(f"{name}: {error.strerror}")


def _lane(name: str) -> Lane:
    try:
        return Lane(name)
    except ValueError:
        _refuse(f"--lane: expected one of {', '.join(Lane)}")


def _refuse(words: str) -> NoReturn:
    typer.echo(f"postbote: {words}", err=True)
    raise typer.Exit(2)
