"""``postbote audit verify``: is the audit of a range whole?

Standard output carries the answer, standard error progress and the one line of an error. Exit codes: 0 whole,
1 something was found or the audit is not available now, 2 bad input.
"""

import asyncio
import json as jsonlib
import re
from collections.abc import Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from schemas.audit_times import epoch_ms, parse_time
from worker.cli_audit_asking import NOT_AVAILABLE, fail
from worker.cli_audit_story import console
from worker.cli_audit_view import plain
from worker.errors import PostboteError, SettingsError
from worker.proof.findings import Finding, Report

if TYPE_CHECKING:  # a command that is only asked for its help loads no library
    from collections.abc import AsyncIterator, Callable, Iterator

    from worker.proof.findings import Counts
    from worker.proof.ports import ProofReader, Span
    from worker.proof.verify_heads import Witness
    from worker.proof.verifying import Question
    from worker.settings import Settings

_FOUND = 1
_INTERRUPTED = 130
_DURATION = re.compile(r"\d+[smhdwMy]\Z", re.ASCII)
_COLUMNS = ("kind", "writer", "number", "index", "id", "time", "what is wrong")


def verify(
    *,
    since: Annotated[str, typer.Option(help="1h, 7d, now-7d/d, or ISO 8601 with a zone")] = "24h",
    until: Annotated[str | None, typer.Option(help="Like --since; now, unless given")] = None,
    writer: Annotated[
        str | None, typer.Option(help="One writer's chain alone, as the field chain.writer names it")
    ] = None,
    heads: Annotated[
        Path | None, typer.Option(help="Logs kept elsewhere, as JSON lines: each head in them has to be there")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document")] = False,
    embedded: Annotated[bool, typer.Option("--embedded", help="Read the embedded form's file")] = False,
) -> None:
    """Prove that no record of a range was changed, removed, inserted or reordered."""
    now = datetime.now(UTC)
    span = _span(since, until, now)
    witnesses = [] if heads is None else _witnesses(heads)
    report = _ask(span, now, writer, witnesses, embedded=embedded)
    if json:
        typer.echo(jsonlib.dumps(document_of(report), separators=(",", ":")))
    else:
        show(report)
    raise typer.Exit(0 if report.whole else _FOUND)


def _span(since: str, until: str | None, now: datetime) -> "Span":
    from worker.proof.ports import Span

    begin = _time("--since", since, now)
    end = now if until is None else _time("--until", until, now, round_up=True)
    if begin > end:
        fail("--since: is later than --until")
    return Span(epoch_ms(begin), epoch_ms(end))


def _time(option: str, text: str, now: datetime, *, round_up: bool = False) -> datetime:
    try:
        return parse_time(f"now-{text}" if _DURATION.match(text) else text, now, round_up=round_up)
    except (ValueError, OverflowError) as error:
        fail(f"{option}: {error}")


def _witnesses(path: Path) -> "list[Witness]":
    from worker.proof.verify_heads import EVENT, read_witnesses

    try:
        with path.open("rb") as lines:
            found = read_witnesses(lines)
    except OSError as error:
        fail(f"--heads: {path} cannot be read: {error.strerror}")
    except ValueError as error:
        fail(f"--heads: {path}: {error}")
    if not found:
        fail(f'--heads: {path} has no line with the event "{EVENT}"')
    return found


def _ask(span: "Span", now: datetime, writer: str | None, witnesses: "Sequence[Witness]", *, embedded: bool) -> Report:
    async def asked() -> Report:
        from worker.proof.verifying import verify as walk
        from worker.settings import load_settings

        settings = load_settings()
        question = _question(settings, span, now, writer, witnesses)
        async with open_proofs(settings, embedded=embedded) as reader:
            with _progress() as shown:
                return await walk(reader, question, shown)

    try:
        return asyncio.run(asked())
    except KeyboardInterrupt:
        fail("interrupted", _INTERRUPTED)
    except SettingsError as error:
        fail(str(error))
    except PostboteError as error:
        fail(str(error), NOT_AVAILABLE)


def _question(
    settings: "Settings", span: "Span", now: datetime, writer: str | None, witnesses: "Sequence[Witness]"
) -> "Question":
    from worker.proof.verify_heads import HeadKeys
    from worker.proof.verifying import Question
    from worker.recipients import privacy_of

    hash_of = privacy_of(settings).hash_of
    keys = HeadKeys.read(settings.audit_verify_keys or _own_key(settings))
    return Question(span, now, writer, keys, hash_of, settings.audit_head_s, witnesses)


def _own_key(settings: "Settings") -> Iterable[str]:
    if settings.audit_signing_key is None:
        return ()
    from worker.proof.signing import Signer

    return (Signer.read(settings.audit_signing_key.get_secret_value()).public_key,)


@asynccontextmanager
async def open_proofs(settings: "Settings", *, embedded: bool = False) -> "AsyncIterator[ProofReader]":
    """Open the audit for verifying: OpenSearch, or the embedded form's file. Raises AuditUnavailable."""
    if embedded:
        from worker.embedded.proof_reader import open_proof_reader

        async with open_proof_reader(settings.data_dir / "audit.db") as reader:
            yield reader
        return
    from worker.audit.proof_reader import OpenSearchProofReader
    from worker.backends import reading_of

    opened = OpenSearchProofReader(**reading_of(settings))
    try:
        yield opened
    finally:
        await opened.close()


@contextmanager
def _progress() -> "Iterator[Callable[[Counts], None]]":
    """A line on standard error that says how far it is, where that is a terminal."""
    err = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("reading", total=None)

        def shown(counts: "Counts") -> None:
            progress.update(bar, description=f"{counts.records:,} records of {counts.writers:,} writers")

        yield shown


# How it looks


def document_of(report: Report) -> dict[str, Any]:
    """The answer as one JSON object."""
    counts = report.counts
    return {
        "whole": report.whole,
        "findings": [finding.to_document() for finding in report.sorted()],
        "cut": report.cut,
        "notes": report.notes,
        "records": counts.records,
        "beside": counts.beside,
        "unchained": counts.unchained,
        "writers": counts.writers,
        "heads": counts.heads,
        "voids": counts.voids,
        "witnessed": counts.witnessed,
        "took_s": round(report.took_s, 3),
    }


def show(report: Report, out: Console | None = None) -> None:
    """Print a table for each kind of finding, then the notes, and a last line of what was looked at."""
    out = out or console()
    for kind, findings in groupby(report.sorted(), key=lambda each: each.kind):
        out.print(_table(kind, findings))
    if report.cut:
        out.print(plain(f"more than {len(report.findings)} findings: the walk ended there"))
    for note in report.notes:
        out.print(plain(note))
    out.print(plain(_summary(report)))


def _table(kind: str, findings: Iterable[Finding]) -> Table:
    table = Table(*_COLUMNS, title=kind, title_justify="left", title_style="bold red")
    for column in table.columns:
        column.overflow = "fold"
    for each in findings:
        cells = (each.kind.value, each.writer, each.number, each.index, each.document_id, _clock(each.time), each.says)
        table.add_row(*(plain(cell or "-") for cell in cells))
    return table


def _clock(text: str | None) -> str | None:
    try:
        moment = datetime.fromisoformat(text or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _summary(report: Report) -> str:
    counts = report.counts
    found = "whole" if report.whole else f"{len(report.findings)} findings"
    witnessed = f", {counts.witnessed} heads of the log" if counts.witnessed else ""
    took = timedelta(seconds=report.took_s).total_seconds()
    looked_at = f"{counts.records} records of {counts.writers} writers, {counts.heads} heads{witnessed}"
    return f"{found}: {looked_at}, {took:.2f} s"
