"""The history of records: one row for each version, written in the transaction of its change.

It holds what the record said and which named secret or reference was behind its password, never a
password. A deleted record's history stays, and its last row says who deleted it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import RowMapping, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action
from schemas.config_change import is_reference
from schemas.smtp_config import Scope
from worker.control.principals import Actor, Kind
from worker.control.records import HistoryEntry
from worker.store.models import config_history
from worker.store.rows import ScopeKey, source_columns, source_of, stored_fields
from worker.store.statements import named


@dataclass(frozen=True, slots=True)
class Step:
    """Who changes something, and when: the same for all that one transaction does."""

    actor: Actor
    at: datetime

    @classmethod
    def now(cls, actor: Actor) -> "Step":
        """A step of this moment."""
        return cls(actor, datetime.now(UTC))


async def remember(
    connection: AsyncConnection, row: RowMapping, step: Step, action: Action, changed: Sequence[str]
) -> None:
    """Write the version in `row`, a row of ``smtp_configs``, into the history."""
    secret = row["secret"]
    actor = step.actor
    await connection.execute(
        config_history.insert().values(
            **{column: row[column] for column in ("partner", "org", "display_name", "version")},
            action=action.value,
            fields=stored_fields(row),
            reference=secret if secret is not None and is_reference(secret) else None,
            **source_columns(source_of(row)),
            changed=list(changed),
            actor_kind=actor.kind.value,
            actor_name=actor.name,
            actor_scope=str(actor.scope),
            origin=actor.origin,
            at=step.at,
        )
    )


async def entries_of(connection: AsyncConnection, key: ScopeKey, name: str) -> Sequence[HistoryEntry]:
    """Every version of a record, newest first."""
    found = await connection.execute(_of(key, name))
    return tuple(_to_entry(row) for row in found.mappings())


async def version_of(connection: AsyncConnection, key: ScopeKey, name: str, version: int) -> RowMapping | None:
    """The history's row of what `version` was; None where there never was one."""
    was = _of(key, name).where(config_history.c.version == version, config_history.c.action != Action.DELETED.value)
    return (await connection.execute(was.limit(1))).mappings().first()


def _of(key: ScopeKey, name: str) -> Select[tuple[object, ...]]:
    # A delete has the version that it deleted, and stands above it.
    newest = (config_history.c.version.desc(), config_history.c.id.desc())
    return select(config_history).where(named(config_history, key, name)).order_by(*newest)


def _to_entry(row: RowMapping) -> HistoryEntry:
    actor = Actor(Kind(row["actor_kind"]), row["actor_name"], Scope.parse(row["actor_scope"]), row["origin"])
    return HistoryEntry(row["version"], Action(row["action"]), row["at"], actor, tuple(row["changed"]), row["fields"])
