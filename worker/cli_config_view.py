"""How ``postbote config`` shows SMTP records to people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # SQLAlchemy comes with it
    from worker.store.rows import RecordSummary

_PIPE_WIDTH = 200  # columns of a table that no terminal limits


def print_record(summary: RecordSummary) -> None:
    """One line for each field; of a secret only that it is set."""
    shown: dict[str, object] = {"scope": summary.scope, **summary.fields, "is_default": summary.is_default}
    shown["password"] = "set" if summary.password_set else None
    shown["dkim_key"] = "set" if summary.dkim_key_set else None
    if shown["ca_bundle"]:
        shown["ca_bundle"] = "set"
    for field in ("partner", "org"):
        del shown[field]
    for field, value in shown.items():
        typer.echo(f"{field}: {_spell(value)}")


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


def print_table(summaries: Sequence[RecordSummary]) -> None:
    """One row for each record."""
    table = Table("scope", "name", "default", "server", "tls", "username", "from", "version")
    for column in table.columns:
        column.overflow = "fold"
    for summary in summaries:
        fields = summary.fields
        table.add_row(
            str(summary.scope),
            Text(summary.name),  # as it stands: Rich would read [brackets] as markup
            "yes" if summary.is_default else "",
            f"{fields['host']}:{fields['port']}",
            fields["tls"],
            Text(fields["username"] or "anonymous"),
            Text(fields["from_address"] or ""),
            str(fields["version"]),
        )
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
