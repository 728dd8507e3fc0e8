"""``postbote audit export``: all records that a question finds, as CSV or NDJSON, in the memory of one page."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from schemas.audit_filters import Format
from worker.cli_audit_asking import NOT_AVAILABLE, Text, ask, fail, filtered, question

if TYPE_CHECKING:
    from worker.api.ports import AuditSearch
    from worker.control.audit_walk import Walk

_STANDARD_OUTPUT = "-"
_OWNER_ONLY = 0o600  # addresses of people
_INTERRUPTED = 130


@filtered()
def export(
    *,
    filters: dict[str, Text],
    form: Annotated[str, typer.Option("--format", help="csv or ndjson")] = "csv",
    out: Annotated[str, typer.Option(help="File, which is whole or not there; - is standard output")] = "-",
    embedded: Annotated[bool, typer.Option("--embedded", help="Ask the embedded form's file")] = False,
) -> None:
    """Write all records of a question to a file: 1,000,000 at most."""
    if form not in {Format.CSV, Format.NDJSON}:
        fail("--format: expected csv or ndjson")
    query = question(filters)

    async def write(search: "AuditSearch") -> "Walk":
        from worker.control.audit_walk import Walk

        walk = Walk(search, query)
        with _opened(out) as file:
            await _write(walk, Format(form), file)
        return walk

    try:
        walk = ask(write, embedded=embedded)
    except KeyboardInterrupt:
        fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        fail(f"--out: cannot be written: {error.strerror}", NOT_AVAILABLE)
    typer.echo(f"{walk.given} records{f' of {walk.total}: cut' if walk.cut else ''}", err=True)


async def _write(walk: "Walk", form: Format, file: BinaryIO) -> None:
    from worker.control.audit_rows import cut_of, head_of, lines_of

    lines = lines_of(form)
    file.write(head_of(form))
    with _progress() as progress:
        bar = progress.add_task("records", total=None)
        async for page in walk.pages():
            file.write(lines(page))
            del page  # or it stays until the next is here, and there are two
            progress.update(bar, completed=walk.given, total=min(walk.total, walk.most))
    if walk.cut:
        file.write(cut_of(form, walk.most))
    file.flush()


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _opened(out: str) -> Iterator[BinaryIO]:
    if out == _STANDARD_OUTPUT:
        with nullcontext(sys.stdout.buffer) as stream:
            yield stream
        return
    target, part = Path(out), Path(f"{out}.part")
    try:
        file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY), "wb")
    except OSError as error:
        fail(f"--out: {part} cannot be written: {error.strerror}")
    try:
        with file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
