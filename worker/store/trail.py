"""What a change leaves behind in its own transaction: history, what the workers hear, what the audit keeps."""

import uuid
from collections.abc import Sequence

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action, ChangedBy, ChangeRecord, ChangeType
from worker.store.changes import to_delete, to_feature, to_put
from worker.store.history import Step, remember
from worker.store.outgoing import post_change, post_record
from worker.store.rows import scope_of


async def leave_put(
    connection: AsyncConnection, row: RowMapping, step: Step, action: Action, changed: Sequence[str] = ()
) -> None:
    """`row` of ``smtp_configs`` has just got its next version."""
    await remember(connection, row, step, action, changed)
    await post_change(connection, to_put(row))
    await _audit(connection, row, row["display_name"], step, (ChangeType.SMTP_CONFIG, action, changed))


async def leave_delete(connection: AsyncConnection, row: RowMapping, step: Step) -> None:
    """`row` of ``smtp_configs`` has just been deleted."""
    await remember(connection, row, step, Action.DELETED, ())
    await post_change(connection, to_delete(row))
    await _audit(connection, row, row["display_name"], step, (ChangeType.SMTP_CONFIG, Action.DELETED, ()))


async def tell_feature(connection: AsyncConnection, row: RowMapping) -> None:
    """`row` of ``features`` has just been set for an org that is made with it: its own record tells the audit."""
    await post_change(connection, to_feature(row))


async def leave_feature(connection: AsyncConnection, row: RowMapping, step: Step) -> None:
    """`row` of ``features`` has just been switched."""
    await tell_feature(connection, row)
    action = Action.SWITCHED_ON if row["org_smtp"] else Action.SWITCHED_OFF
    await _audit(connection, row, row["org"], step, (ChangeType.ORGANIZATION, action, ("smtp_enabled",)))


async def leave_secret(connection: AsyncConnection, row: RowMapping, step: Step, action: Action) -> None:
    """`row` of ``secrets`` has just been made, changed or deleted."""
    changed = ("value",) if action is Action.ROTATED else ()
    await _audit(connection, row, row["name"], step, (ChangeType.SECRET, action, changed))


async def _audit(
    connection: AsyncConnection,
    row: RowMapping,
    subject: str,
    step: Step,
    what: tuple[ChangeType, Action, Sequence[str]],
) -> None:
    kind, action, changed = what
    scope, actor = scope_of(row), step.actor
    record = ChangeRecord.model_validate(
        {
            "@timestamp": step.at,
            "id": uuid.uuid4().hex,
            "type": kind,
            "action": action,
            "partner": scope.partner,
            "org": scope.org,
            "subject": subject,
            "version": row["version"],
            "changed": tuple(changed),
            "actor": ChangedBy(kind=actor.kind, name=actor.name, scope=str(actor.scope), origin=actor.origin),
        }
    )
    await post_record(connection, record)
