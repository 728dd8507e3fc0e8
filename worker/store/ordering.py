"""The order of a scope's records: which is the default, and which send while it rests.

The config topic ranks by `rank`, and its lowest record that lives is the default: here it always is, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action
from schemas.smtp_config import Scope, label
from worker.control.errors import NotFound, Refused
from worker.store.history import Step
from worker.store.models import smtp_configs
from worker.store.rows import ScopeKey
from worker.store.statements import in_scope, lock_scope, next_version, rows_of, update_record
from worker.store.trail import leave_put


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands among those of its scope."""

    is_default: bool
    rank: int
    fallback: bool

    def differs(self, row: RowMapping) -> tuple[str, ...]:
        """What of the row's place is another one, by the names of its columns."""
        return tuple(name for name, value in self.columns().items() if row[name] != value)

    def columns(self) -> dict[str, Any]:
        """The columns to write."""
        return {"is_default": self.is_default, "rank": self.rank, "fallback": self.fallback}


async def order(connection: AsyncConnection, scope: Scope, names: Sequence[str], step: Step) -> None:
    """Make the first of `names` the default and the others its fallbacks; errors as `Records.order`."""
    key = ScopeKey.of(scope)
    await lock_scope(connection, key)
    rows = await rows_of(connection, in_scope(smtp_configs, key))
    _check(scope, names, {row["display_name"] for row in rows})
    await _move(connection, list(places(rows, names)), step)


async def promote(connection: AsyncConnection, rows: Sequence[RowMapping], step: Step) -> None:
    """Let the first of `rows`, which are what is left after the default was deleted, follow it."""
    if rows:
        first = min(rows, key=lambda row: int(row["rank"]))
        await _move(connection, [(first, Place(is_default=True, rank=first["rank"], fallback=False))], step)


def places(rows: Sequence[RowMapping], names: Sequence[str]) -> Iterator[tuple[RowMapping, Place]]:
    """Where each of `rows` stands if `names` come first; the others keep their order, and their ranks if they can."""
    by_name = {row["display_name"]: row for row in rows}
    for rank, name in enumerate(names):
        yield by_name[name], Place(is_default=rank == 0, rank=rank, fallback=rank > 0)
    last = len(names) - 1
    for row in sorted(rows, key=lambda row: int(row["rank"])):
        if row["display_name"] not in names:
            last = max(last + 1, row["rank"])
            yield row, Place(is_default=False, rank=last, fallback=False)


def _check(scope: Scope, names: Sequence[str], known: set[str]) -> None:
    if not names:
        raise Refused("names", "is empty: name the record that is to be the default")
    for name in names:
        if name not in known:
            raise NotFound("names", f"there is no {label(scope, name)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Refused("names", f"{twice!r} stands there twice")


async def _move(connection: AsyncConnection, moves: Sequence[tuple[RowMapping, Place]], step: Step) -> None:
    # The database knows one default at any moment: the old one goes before the new one comes.
    for row, place in sorted(moves, key=lambda move: move[1].is_default):
        changed = place.differs(row)
        if not changed:
            continue
        version = await next_version(connection, ScopeKey(row["partner"], row["org"]), row["display_name"])
        values = {**place.columns(), "version": version, "updated_at": step.at, "updated_by": step.actor.name}
        await leave_put(connection, await update_record(connection, row["id"], values), step, Action.ORDERED, changed)
