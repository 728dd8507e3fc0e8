"""How ``postbote config`` shows SMTP records to people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.smtp_config import label
from worker.control.records import INLINE, HistoryEntry, StoredRecord, StoredSecret

_PIPE_WIDTH = 200  # columns of a table that no terminal limits


def print_record(summary: StoredRecord) -> None:
    """One line for each field; of a secret only that it is set."""
    shown: dict[str, object] = {"scope": summary.scope, **summary.fields, "is_default": summary.is_default}
    shown["fallback"] = summary.fallback
    shown["password"] = _password(summary)
    shown["dkim_key"] = "set" if summary.dkim_key_set else None
    if shown["ca_bundle"]:
        shown["ca_bundle"] = "set"
    for field in ("partner", "org"):
        del shown[field]
    shown["updated"] = f"{_moment(summary.updated_at)} by {summary.updated_by or 'an older version'}"
    for field, value in shown.items():
        typer.echo(f"{field}: {_spell(value)}")


def print_warnings(summary: StoredRecord) -> None:
    """What an operator should keep seeing, on standard error."""
    for warning in summary.warnings:
        typer.echo(f"warning: {label(summary.scope, summary.name)}: {warning}", err=True)


def print_notices(summary: StoredRecord, default: StoredRecord, *, counts: bool, stranger: bool) -> None:
    """Why a record that was saved does not send, or may never be asked for, on standard error."""
    if stranger:
        told = f"there is no partner {summary.scope.partner}: only events that spell it so are sent by this record"
        typer.echo(f"notice: {told} (postbote partner list)", err=True)
    if not summary.is_default:
        typer.echo(f"notice: {label(default.scope, default.name)} stays the one that sends its mail", err=True)
    if not counts:
        command = f"postbote config feature --scope {summary.scope} --on"
        typer.echo(f"notice: records of {summary.scope} do not count until they are turned on: {command}", err=True)


def print_history(entries: Sequence[HistoryEntry]) -> None:
    """One row for each version, newest first."""
    table = Table("version", "at", "action", "by", "from", "changed")
    for entry in entries:
        by = Text(f"{entry.actor.name} ({entry.actor.kind} of {entry.actor.scope})")
        changed = Text(", ".join(entry.changed))
        at, origin = _moment(entry.at), entry.actor.origin or ""
        table.add_row(str(entry.version), at, entry.action.value, by, Text(origin), changed)
    _show(table)


def print_secrets(found: Sequence[StoredSecret]) -> None:
    """One row for each secret, never a value."""
    table = Table("scope", "name", "shared", "version", "updated", "used by")
    for secret in found:
        shared, used_by = "yes" if secret.shared else "", Text(", ".join(secret.used_by))
        updated = _moment(secret.updated_at)
        table.add_row(str(secret.scope), Text(secret.name), shared, str(secret.version), updated, used_by)
    _show(table)


def _password(summary: StoredRecord) -> str | None:
    if summary.reference is not None:
        return f"read from {summary.reference}"
    if summary.secret is not None and not summary.secret.name.startswith(INLINE):
        return f"secret {summary.secret.name!r} of {summary.secret.scope}"
    return "set" if summary.password_set else None


def _moment(at: datetime) -> str:
    return at.isoformat(" ", "seconds")


def _spell(value: object) -> str:
    match value:
        case None | []:
            return "not set"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(str(item) for item in value)
        case _:
            return str(value)


def print_table(summaries: Sequence[StoredRecord]) -> None:
    """One row for each record."""
    table = Table("scope", "name", "default", "server", "tls", "username", "from", "version")
    for summary in summaries:
        fields = summary.fields
        table.add_row(
            str(summary.scope),
            Text(summary.name),  # as it stands: Rich would read [brackets] as markup
            "yes" if summary.is_default else f"fallback {summary.fallback}" if summary.fallback else "",
            f"{fields['host']}:{fields['port']}",
            fields["tls"],
            Text(fields["username"] or "anonymous"),
            Text(fields["from_address"] or ""),
            str(fields["version"]),
        )
    _show(table)


def _show(table: Table) -> None:
    for column in table.columns:
        column.overflow = "fold"
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
