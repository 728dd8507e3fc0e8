"""Whether an org's own records count: off until it is set."""

from sqlalchemy import RowMapping, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.smtp_config import Scope, ScopeLevel
from worker.store.history import Step
from worker.store.models import features
from worker.store.rows import ScopeKey
from worker.store.statements import in_scope, lock_scope
from worker.store.trail import leave_feature, tell_feature


def require_org(scope: Scope) -> Scope:
    """Return `scope`, or raise ValueError where it is no org's."""
    if scope.level is not ScopeLevel.ORG:
        msg = f"the feature belongs to an org, not to {scope}: expected org:PARTNER/NAME"
        raise ValueError(msg)
    return scope


async def org_enabled(connection: AsyncConnection, org: Scope) -> bool:
    """Whether the org's own records count."""
    query = select(features.c.org_smtp).where(in_scope(features, ScopeKey.of(org)))
    return bool((await connection.execute(query)).scalar_one_or_none())


async def begin_org(connection: AsyncConnection, org: Scope, *, on: bool) -> None:
    """Set the feature of an org that is being made, and let the workers know."""
    key = ScopeKey.of(require_org(org))
    await lock_scope(connection, key)
    await tell_feature(connection, await _set(connection, key, on=on))


async def switch_org(connection: AsyncConnection, org: Scope, step: Step, *, on: bool) -> None:
    """Let the org's own records count, or not, and leave word of it; none where it was so already."""
    key = ScopeKey.of(require_org(org))
    await lock_scope(connection, key)
    if await org_enabled(connection, org) is not on:
        await leave_feature(connection, await _set(connection, key, on=on), step)


async def _set(connection: AsyncConnection, key: ScopeKey, *, on: bool) -> RowMapping:
    """The row under its next version; its caller holds the scope."""
    raised = update(features).values(org_smtp=on, version=features.c.version + 1).where(in_scope(features, key))
    return (await connection.execute(raised.returning(*features.c))).mappings().one()
