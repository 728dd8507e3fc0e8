"""``postbote audit migrate``: bring the audit's indices up to this version while everything goes on.

Standard output carries what was done, standard error its progress. Exit codes: 0 done (also where nothing
was to do), 1 OpenSearch is away or does not allow it; run again, it goes on from where it was.
"""

import json as jsonlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from schemas.audit_change import ChangeRecord
from worker.cli_audit_prune import changed_by, open_link, run, settings_of_command

if TYPE_CHECKING:  # a command that is only asked for its help loads no adapter
    from worker.audit.link import OpenSearchLink
    from worker.audit.migration import Migration, Planned
    from worker.recording import Recording

log = structlog.get_logger(__name__)


def migrate(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line")] = False,
) -> None:
    """Install this version's index templates, and bring older months up to it; nobody who asks or writes notices."""
    count = run(_plan(json=json) if dry_run else _migrate(json=json))
    if not count:
        typer.echo("every index of the audit is up to date", err=True)


async def _plan(*, json: bool) -> int:
    from worker.audit.migration import Migration, Step

    settings = settings_of_command()
    async with open_link(settings) as link:
        migration = Migration(link, settings.audit_index_prefix, changed_by(), lambda: False)
        todo = [planned for planned in await migration.plan() if planned.step is not Step.NOTHING]
    for planned in todo:
        _tell(planned, f"needs {planned.step.value}", json=json)
    return len(todo)


async def _migrate(*, json: bool) -> int:
    from worker.audit.migration import Migration
    from worker.audit.retention_turn import my_turn
    from worker.recording import open_recording

    settings = settings_of_command()
    prefix = settings.audit_index_prefix
    async with open_link(settings) as link, my_turn(link, prefix, settings.worker_id) as still_ours:
        migration = Migration(link, prefix, changed_by(), still_ours)
        await migration.plan()  # a newer version's audit is left alone
        await migration.prepare()
        async with open_recording(settings) as recording:
            return await _carry_out(migration, _Recorder(recording, link, prefix), json=json)


@dataclass(frozen=True, slots=True)
class _Recorder:
    recording: "Recording"
    link: "OpenSearchLink"
    prefix: str

    async def record(self, change: ChangeRecord) -> None:
        await self.recording.record(change)

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        from worker.audit.retention import recorded

        return await recorded(self.link, self.prefix, ids)


async def _carry_out(migration: "Migration", recorder: _Recorder, *, json: bool) -> int:
    from worker.audit.migration import Step

    todo = [planned for planned in await migration.plan() if planned.step is not Step.NOTHING]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=None)

        def report(planned: "Planned", done: int, of: int) -> None:
            progress.update(task, description=planned.month.name, completed=done, total=of)

        for planned in todo:
            log.debug("a month of the audit is migrated", index=planned.month.index, step=planned.step.value)
            await migration.carry_out(planned, recorder, report)
            log.info("a month of the audit was migrated", index=planned.month.index, step=planned.step.value)
            _tell(planned, f"got {planned.step.value}", json=json)
    return len(todo)


def _tell(planned: "Planned", what: str, *, json: bool) -> None:
    month = planned.month
    if json:
        line: dict[str, Any] = {"action": what, "month": month.name, "index": month.index, "records": planned.records}
        typer.echo(jsonlib.dumps({**line, "version": month.version or None}, separators=(",", ":")))
    else:
        typer.echo(f"{month.index} {what}, {planned.records:,} records")
