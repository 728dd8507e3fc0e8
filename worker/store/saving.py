"""Storing and deleting records: one transaction each, which its caller opened."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action
from schemas.smtp_config import SECRETS, Scope, label
from worker.control.errors import NotFound, Stale, Taken
from worker.control.records import (
    INLINE,
    Draft,
    KeepPassword,
    NoPassword,
    Password,
    SecretName,
    UseReference,
    UseSecret,
)
from worker.store.drafting import Plan, inline_name, plan
from worker.store.history import Step, version_of
from worker.store.models import smtp_configs
from worker.store.named_secrets import drop_inline, find_secret, keep_inline
from worker.store.ordering import promote
from worker.store.rows import ScopeKey
from worker.store.secrets import SecretBox
from worker.store.statements import (
    delete_record,
    in_scope,
    insert_record,
    lock_scope,
    lock_scopes,
    next_version,
    rows_of,
    update_record,
)
from worker.store.trail import leave_delete, leave_put

_LATEST = 2**31 - 1  # of the column of versions
_NO_FIELDS = {"partner", "org", "display_name", "version", *SECRETS}


async def save(
    connection: AsyncConnection, draft: Draft, step: Step, box: SecretBox, *, expected: int | None, create: bool
) -> None:
    """Store `draft` under its next version; errors as `worker.control.ports.Records.save`."""
    await _hold(connection, draft)
    rows = await rows_of(connection, in_scope(smtp_configs, ScopeKey.of(draft.scope)))
    stored = _pick(rows, draft.name)
    if create and stored is not None:
        raise Taken("display_name", f"{draft.scope} has a record {draft.name!r} already")
    check_version(stored, expected)
    planned = await planned_of(connection, draft, stored, box, draft.scope.lineage())
    await _write(connection, draft, rows, planned, (step, Action.CREATED if stored is None else Action.UPDATED))


async def planned_of(
    connection: AsyncConnection, draft: Draft, stored: RowMapping | None, box: SecretBox, owners: Iterable[Scope]
) -> Plan:
    """What storing `draft` would write; a secret that it names is looked for among `owners`."""
    found = None
    if isinstance(draft.password, UseSecret):
        found = await find_secret(connection, draft.scope, draft.password.name, owners)
    return plan(draft, stored, found, box)


async def remove(connection: AsyncConnection, scope: Scope, name: str, step: Step, *, expected: int | None) -> bool:
    """Delete a record, readable or not, and its own password; False where there is none. Raises Stale."""
    key = ScopeKey.of(scope)
    await lock_scope(connection, key)
    rows = await rows_of(connection, in_scope(smtp_configs, key))
    stored = _pick(rows, name)
    if stored is None:
        return False
    check_version(stored, expected)
    await delete_record(connection, stored["id"])
    await drop_inline(connection, SecretName(scope, inline_name(name)))
    await leave_delete(connection, stored, step)
    if stored["is_default"]:
        await promote(connection, [row for row in rows if row["id"] != stored["id"]], step)
    return True


async def roll_back(
    connection: AsyncConnection,
    record: tuple[Scope, str],
    version: int,
    step: Step,
    box: SecretBox,
    *,
    expected: int | None,
) -> None:
    """Store what `version` was as the next one; errors as `worker.control.ports.Records.roll_back`."""
    scope, name = record
    await lock_scopes(connection, map(ScopeKey.of, scope.lineage()))
    rows = await rows_of(connection, in_scope(smtp_configs, ScopeKey.of(scope)))
    stored = _pick(rows, name)
    was = await version_of(connection, ScopeKey.of(scope), name, version) if 0 < version <= _LATEST else None
    if was is None:
        raise NotFound("version", f"{label(scope, name)} has no version {version} to go back to")
    check_version(stored, expected)
    draft, owners = _draft_of(scope, name, was)
    try:
        planned = await planned_of(connection, draft, stored, box, owners)
    except NotFound:  # its secret is gone, or not shared any more
        planned = plan(replace(draft, password=KeepPassword()), stored, None, box)
    await _write(connection, draft, rows, planned, (step, Action.ROLLED_BACK))


def check_version(stored: RowMapping | None, expected: int | None) -> None:
    """Raise Stale unless the record has the version that is expected."""
    current = 0 if stored is None else stored["version"]
    if expected is None or expected == current:
        return
    now = f"it has version {current} now" if current else "it is gone"
    raise Stale("version", f"version {expected} was expected and {now}: read it again", current)


async def _hold(connection: AsyncConnection, draft: Draft) -> None:
    # A secret of a wider scope may be replaced or deleted meanwhile; see `named_secrets`.
    lineage = draft.scope.lineage() if isinstance(draft.password, UseSecret) else (draft.scope,)
    await lock_scopes(connection, map(ScopeKey.of, lineage))


def _pick(rows: Iterable[RowMapping], name: str) -> RowMapping | None:
    return next((row for row in rows if row["display_name"] == name), None)


def _draft_of(scope: Scope, name: str, was: RowMapping) -> tuple[Draft, tuple[Scope, ...]]:
    """What a version was, as a draft, and who owns the secret that it names."""
    fields = {field: value for field, value in was["fields"].items() if field not in _NO_FIELDS}
    owner = Scope(was["secret_partner"] or None, was["secret_org"] or None)
    return Draft(scope, name, fields, _password_of(was)), (owner,)


def _password_of(was: RowMapping) -> Password:
    if was["reference"] is not None:
        return UseReference(was["reference"])
    if was["fields"]["username"] is None:
        return NoPassword()
    if was["secret_name"] is None or was["secret_name"].startswith(INLINE):
        return KeepPassword()
    return UseSecret(was["secret_name"])


async def _write(
    connection: AsyncConnection, draft: Draft, rows: Sequence[RowMapping], planned: Plan, what: tuple[Step, Action]
) -> None:
    step, action = what
    key, stored = ScopeKey.of(draft.scope), _pick(rows, draft.name)
    version = await next_version(connection, key, draft.name)
    values = {**planned.columns(), "version": version, "updated_at": step.at, "updated_by": step.actor.name}
    if stored is None:
        place = _place_in(rows)
        row = await insert_record(
            connection, {**key._asdict(), "display_name": draft.name, **values, **place, "created_at": step.at}
        )
    else:
        row = await update_record(connection, stored["id"], values)
    await _settle_inline(connection, draft, stored, planned, step)
    await leave_put(connection, row, step, action, planned.changed)


def _place_in(rows: Sequence[RowMapping]) -> dict[str, Any]:
    """A new record comes last; the first of its scope is the scope's default."""
    return {
        "is_default": not any(row["is_default"] for row in rows),
        "rank": max((row["rank"] + 1 for row in rows), default=0),
        "fallback": False,
    }


async def _settle_inline(
    connection: AsyncConnection, draft: Draft, stored: RowMapping | None, planned: Plan, step: Step
) -> None:
    own = SecretName(draft.scope, inline_name(draft.name))
    secret, source = planned.password
    if source != own:
        await drop_inline(connection, own)
    elif secret is not None and (stored is None or secret != stored["secret"]):
        await keep_inline(connection, own, secret, step)
