"""What the commands about people share: the store, the one who acts, passwords, tables and errors.

Exit codes: 0 done, 1 not found or not available now, 2 bad input or a wrong setting. No command takes a
password as an argument, where every user of the host could read it, and none prints one.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.smtp_config import CONTROLLER, Scope, ScopeLevel
from worker.control.errors import NotFound, Refused
from worker.control.principals import Actor, Kind
from worker.errors import PostboteError, SettingsError
from worker.settings import load_settings

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second to import: only the commands that need it wait for it
    from worker.store.people import PeopleStore

NOT_AVAILABLE = 1
BAD_INPUT = 2
_PIPE_WIDTH = 200  # columns of a table that no terminal limits
T = TypeVar("T")

ScopeText = Annotated[str, typer.Option("--scope", help="controller, partner:NAME or org:PARTNER/NAME")]
AnyScopeText = Annotated[str | None, typer.Option("--scope", help="Only of exactly this scope")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


def run(work: Callable[[PeopleStore], Awaitable[T]]) -> T:
    """Do `work` on the store that the environment's settings describe; an error is one line and an exit code."""

    async def inside() -> T:
        from worker.people import open_people

        async with open_people(load_settings()) as people:
            return await work(people)

    with failing_readably():
        return asyncio.run(inside())


@contextmanager
def failing_readably() -> Iterator[None]:
    """Turn what went wrong into one line on standard error and an exit code."""
    try:
        yield
    except NotFound as error:
        fail(str(error), NOT_AVAILABLE)
    except (Refused, SettingsError) as error:
        fail(str(error))
    except PostboteError as error:
        fail(str(error), NOT_AVAILABLE)


def fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    """Say why, and end."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def notice(message: str) -> None:
    """Say it where it is in no pipe's way."""
    typer.echo(f"notice: {message}", err=True)


def command_actor() -> Actor:
    """Whoever runs the command, as the audit names them: the user of this host."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number that has no name
        name = f"uid {os.getuid()}"
    return Actor(Kind.COMMAND, name, CONTROLLER)


def parse_scope(text: str) -> Scope:
    """The scope of an option; anything else ends the command."""
    try:
        return Scope.parse(text)
    except ValueError as error:
        fail(f"scope: {error}")


async def require_scope(people: PeopleStore, scope: Scope) -> None:
    """Raise NotFound, with the remedy, for a partner or org that does not exist: its name may be misspelt."""
    if scope.partner is None:
        return
    if scope.partner not in [each.name for each in await people.partners()]:
        raise NotFound("scope", f"there is no partner {scope.partner}: `postbote partner create {scope.partner}`")
    if scope.level is ScopeLevel.ORG and await people.organization(scope.partner, scope.org or "") is None:
        remedy = f"`postbote org create {scope.partner}/{scope.org} --admin-email …`"
        raise NotFound("scope", f"there is no organization {scope.partner}/{scope.org}: {remedy}")


def read_password(*, from_stdin: bool, option: str = "--password-stdin", found: str | None = None) -> str:
    """A new password: from standard input, as `found` elsewhere, or typed twice at a terminal."""
    if from_stdin:
        return _one_line_of(sys.stdin.read())
    if found is not None:
        return found
    if not _at_terminal():
        fail(f"password: give it by {option}: there is no terminal to ask at")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


async def hash_of(password: str, email: str) -> str:
    """The hash to store; raises Refused where it cannot be a password."""
    from worker.control.passwords import Passwords

    return await Passwords().hash(password, email=email)


def print_json(value: object) -> None:
    """Print it on standard output."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, none: str) -> None:
    """Print rows of the same columns as JSON or as a table; `none` is said where there are none."""
    if as_json:
        print_json(rows)
    elif not rows:
        typer.echo(none)
    else:
        table = Table(*(column.replace("_", " ") for column in rows[0]))
        for row in rows:
            table.add_row(*_cells(row.values()))
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def spell_time(moment: datetime | None) -> str | None:
    """A time in ISO 8601, to the second."""
    return None if moment is None else moment.isoformat(timespec="seconds")


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _cells(values: Iterable[Any]) -> Iterator[Text]:
    for value in values:
        shown = {None: "", True: "yes", False: "no"}.get(value, value) if not isinstance(value, str) else value
        yield Text(str(shown), overflow="fold")  # as it stands: Rich would read [brackets] as markup


def _one_line_of(text: str) -> str:
    line = text.removesuffix("\n").removesuffix("\r")
    if not line or "\n" in line:
        fail("password: expected exactly one line on standard input")
    return line
