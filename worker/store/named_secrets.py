"""Passwords by name: made, replaced, used by records, deleted when nobody uses them.

A record keeps a sealed copy of what it uses. So replacing a secret writes every copy, also of
records in narrower scopes, in one transaction. Writers that begin to use a wider scope's secret hold
that scope, too: none can miss a value that is being replaced, nor use one that is being deleted.
"""

from collections.abc import Iterable, Sequence

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, RowMapping, and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action
from schemas.smtp_config import Scope
from schemas.text import Identifier
from worker.control.errors import InUse, NotFound, Refused, Taken
from worker.control.records import INLINE, SecretName, StoredSecret
from worker.store.drafting import Placed, check_secret
from worker.store.history import Step
from worker.store.models import secrets, smtp_configs
from worker.store.rows import ScopeKey, scope_of
from worker.store.secrets import SecretBox
from worker.store.statements import (
    in_scope,
    insert_into,
    lock_scope,
    lock_scopes,
    next_version,
    rows_of,
    update_record,
)
from worker.store.trail import leave_put, leave_secret

_NAMES: TypeAdapter[str] = TypeAdapter(Identifier)


async def find_secret(connection: AsyncConnection, scope: Scope, name: str, owners: Iterable[Scope]) -> Placed:
    """The first secret of that name among `owners` that `scope` may use.

    Raises NotFound, in the same words where there is none and where it is not shared.
    """
    for owner in owners:
        row = await _row(connection, ScopeKey.of(owner), name)
        if row is not None and (owner == scope or row["shared"]) and not name.startswith(INLINE):
            return Placed(row["sealed"], SecretName(owner, name))
    raise NotFound("secret", f"there is no secret {name!r} that {scope} may use")


async def keep_inline(connection: AsyncConnection, name: SecretName, sealed: str, step: Step) -> None:
    """Store the password that was given with a record, in place of one that was given before."""
    values = {"sealed": sealed, "updated_at": step.at, "updated_by": step.actor.name}
    made = insert_into(connection, secrets).values(
        **ScopeKey.of(name.scope)._asdict(), name=name.name, version=1, created_at=step.at, **values
    )
    replaced = made.on_conflict_do_update(
        index_elements=["partner", "org", "name"], set_={**values, "version": secrets.c.version + 1}
    )
    await connection.execute(replaced)


async def drop_inline(connection: AsyncConnection, name: SecretName) -> None:
    """Forget the password that was given with a record."""
    await connection.execute(delete(secrets).where(_named(ScopeKey.of(name.scope), name.name)))


async def list_secrets(connection: AsyncConnection, scope: Scope) -> Sequence[StoredSecret]:
    """The scope's own secrets by name, without those that were given with a record."""
    key = ScopeKey.of(scope)
    found = (await connection.execute(select(secrets).where(in_scope(secrets, key)))).mappings().all()
    owned = sorted((row for row in found if not row["name"].startswith(INLINE)), key=lambda row: str(row["name"]))
    return tuple([to_secret(row, await _own_users(connection, key, row["name"])) for row in owned])


async def create_secret(
    connection: AsyncConnection, name: SecretName, sealed: str, step: Step, *, shared: bool
) -> StoredSecret:
    """Store it; raises Taken, and Refused for a name that cannot be one."""
    key = ScopeKey.of(name.scope)
    _check_name(name.name)
    await lock_scope(connection, key)
    if await _row(connection, key, name.name) is not None:
        raise Taken("name", f"{name.scope} has a secret {name.name!r} already")
    values = {"sealed": sealed, "shared": shared, "version": 1, "created_at": step.at, "updated_at": step.at}
    made = secrets.insert().values(**key._asdict(), name=name.name, updated_by=step.actor.name, **values)
    row = (await connection.execute(made.returning(*secrets.c))).mappings().one()
    await leave_secret(connection, row, step, Action.CREATED)
    return to_secret(row, ())


async def rotate_secret(connection: AsyncConnection, name: SecretName, sealed: str, step: Step) -> StoredSecret:
    """Replace its value, and every copy of it; raises NotFound."""
    key = ScopeKey.of(name.scope)
    await lock_scope(connection, key)
    await _require(connection, name)
    await _hold_users(connection, key, name.name)
    for row in await rows_of(connection, _uses(key, name.name)):
        version = await next_version(connection, ScopeKey(row["partner"], row["org"]), row["display_name"])
        values = {"secret": sealed, "version": version, "updated_at": step.at, "updated_by": step.actor.name}
        await leave_put(
            connection, await update_record(connection, row["id"], values), step, Action.ROTATED, ("password",)
        )
    values = {"sealed": sealed, "updated_at": step.at, "updated_by": step.actor.name}
    raised = update(secrets).where(_named(key, name.name)).values(**values, version=secrets.c.version + 1)
    changed = (await connection.execute(raised.returning(*secrets.c))).mappings().one()
    await leave_secret(connection, changed, step, Action.ROTATED)
    return to_secret(changed, await _own_users(connection, key, name.name))


async def delete_secret(connection: AsyncConnection, name: SecretName, step: Step) -> None:
    """Delete it; raises NotFound, or InUse naming the records of its own scope and the count of others."""
    key = ScopeKey.of(name.scope)
    await lock_scope(connection, key)
    row = await _require(connection, name)
    users = await rows_of(connection, _uses(key, name.name))
    if users:
        raise InUse("name", f"secret {name.name!r} is used by {_spell(name.scope, users)}")
    await connection.execute(delete(secrets).where(_named(key, name.name)))
    await leave_secret(connection, row, step, Action.DELETED)


def seal_value(box: SecretBox, value: str) -> str:
    """The token of a secret's value; raises Refused for one that cannot be stored, and SecretKeyMissing."""
    return box.seal(check_secret("value", value))


def to_secret(row: RowMapping, used_by: Iterable[str]) -> StoredSecret:
    """What may be shown of `row`."""
    return StoredSecret(
        scope=scope_of(row),
        name=row["name"],
        shared=row["shared"],
        version=row["version"],
        updated_at=row["updated_at"],
        updated_by=row["updated_by"],
        used_by=tuple(used_by),
    )


async def _require(connection: AsyncConnection, name: SecretName) -> RowMapping:
    row = None if name.name.startswith(INLINE) else await _row(connection, ScopeKey.of(name.scope), name.name)
    if row is None:
        raise NotFound("name", f"{name.scope} has no secret {name.name!r}")
    return row


async def _row(connection: AsyncConnection, key: ScopeKey, name: str) -> RowMapping | None:
    return (await connection.execute(select(secrets).where(_named(key, name)))).mappings().one_or_none()


async def _hold_users(connection: AsyncConnection, key: ScopeKey, name: str) -> None:
    owners = select(smtp_configs.c.partner, smtp_configs.c.org).where(_uses(key, name)).distinct()
    keys = [ScopeKey(*row) for row in await connection.execute(owners)]
    await lock_scopes(connection, (each for each in keys if each != key))


async def _own_users(connection: AsyncConnection, key: ScopeKey, name: str) -> Sequence[str]:
    names = select(smtp_configs.c.display_name).where(_uses(key, name), in_scope(smtp_configs, key))
    return sorted((await connection.execute(names)).scalars())


def _named(key: ScopeKey, name: str) -> ColumnElement[bool]:
    return and_(in_scope(secrets, key), secrets.c.name == name)


def _uses(key: ScopeKey, name: str) -> ColumnElement[bool]:
    table = smtp_configs.c
    return and_(table.secret_partner == key.partner, table.secret_org == key.org, table.secret_name == name)


def _check_name(name: str) -> None:
    try:
        _NAMES.validate_python(name)
    except ValidationError as error:
        raise Refused("name", error.errors(include_input=False, include_url=False)[0]["msg"]) from None
    if name.startswith(INLINE):
        raise Refused("name", f"names that begin with {INLINE} belong to passwords that were given with a record")


def _spell(owner: Scope, users: Sequence[RowMapping]) -> str:
    own = [f"record {row['display_name']!r}" for row in users if scope_of(row) == owner]
    others = len(users) - len(own)
    if others:
        own.append(f"{others} record{'s' if others > 1 else ''} of scopes below")
    return ", ".join(own)
