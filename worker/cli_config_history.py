"""``postbote config history|rollback|order``: earlier versions of a record, and which records stand in.

Exit codes as in `cli_config`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.smtp_config import label
from worker.cli_config import (
    NOT_AVAILABLE,
    Json,
    ScopeText,
    _changing,
    _fail,
    _fail_if,
    _parse_scope,
    _print_json,
    _run,
)
from worker.cli_config_view import print_history, print_table, print_warnings
from worker.cli_people import command_actor

if TYPE_CHECKING:
    from worker.control.records import HistoryEntry

Name = Annotated[str, typer.Option(help="The record's name in its scope")]


def show_history(*, scope: ScopeText, name: Name = "default", json: Json = False) -> None:
    """List a record's versions, newest first: who made them, from where, and which fields differ."""
    owner = _parse_scope(scope)
    entries = _run(lambda store: store.history(owner, name))
    if json:
        _print_json([_to_json(entry) for entry in entries])
    elif entries:
        print_history(entries)
    if not entries:
        _fail(f"name: there is no history of {label(owner, name)}", NOT_AVAILABLE)


def roll_back(
    *,
    scope: ScopeText,
    version: Annotated[int, typer.Option(help="The version that it is to be again")],
    name: Name = "default",
    json: Json = False,
) -> None:
    """Store what a version was as the next one; its password as far as that is still stored for its server."""
    owner = _parse_scope(scope)
    record, untold = _run(lambda store: _changing(store, store.roll_back(owner, name, version, command_actor())))
    if json:
        _print_json(record.to_json())
    else:
        typer.echo(f"rolled {label(owner, name)} back to version {version}, which is version {record.version} now")
        print_warnings(record)
    _fail_if(untold)


def order(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The default, then what stands in for it")],
    *,
    scope: ScopeText,
    json: Json = False,
) -> None:
    """Make the first record its scope's default; the others send, in this order, while those before them rest."""
    owner = _parse_scope(scope)
    records, untold = _run(lambda store: _changing(store, store.order(owner, names, command_actor())))
    if json:
        _print_json([record.to_json() for record in records])
    else:
        print_table(records)
    _fail_if(untold)


def _to_json(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "action": entry.action.value,
        "at": entry.at.isoformat(),
        "actor": {**asdict(entry.actor), "scope": str(entry.actor.scope)},
        "changed": list(entry.changed),
        "fields": dict(entry.fields),
    }
