"""The statements that write, each on a transaction that `database.Store.writing` opened.

They run alike on SQLite and PostgreSQL. Every writer calls `lock_scope` first: SQLite has one
writer at a time anyhow, PostgreSQL puts the writers of one scope in a line at that row.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.models import config_versions, features, smtp_configs
from worker.store.rows import ScopeKey


def in_scope(table: Table, key: ScopeKey) -> ColumnElement[bool]:
    """The condition that a row of `table` belongs to the scope."""
    return and_(table.c.partner == key.partner, table.c.org == key.org)


def named(table: Table, key: ScopeKey, name: str) -> ColumnElement[bool]:
    """The condition that a row of `table` is the scope's record of that name."""
    return and_(in_scope(table, key), table.c.display_name == name)


async def lock_scope(connection: AsyncConnection, key: ScopeKey) -> None:
    """Hold the scope for this transaction; its row is made where it has none."""
    await connection.execute(_insert(connection, features).values(**key._asdict()).on_conflict_do_nothing())
    await connection.execute(select(features.c.org_smtp).where(in_scope(features, key)).with_for_update())


async def next_version(connection: AsyncConnection, key: ScopeKey, name: str) -> int:
    """Raise the high-water mark of (scope, name) by one and return it; it begins at 1."""
    made = _insert(connection, config_versions).values(**key._asdict(), display_name=name, version=1)
    raised = made.on_conflict_do_update(
        index_elements=["partner", "org", "display_name"],
        set_={"version": config_versions.c.version + 1},
    ).returning(config_versions.c.version)
    return int((await connection.execute(raised)).scalar_one())


async def write_record(
    connection: AsyncConnection, key: ScopeKey, name: str, values: dict[str, Any], now: datetime
) -> None:
    """Replace the record, or make it: the first of its scope is the scope's default."""
    replaced = update(smtp_configs).where(named(smtp_configs, key, name)).values(**values, updated_at=now)
    if (await connection.execute(replaced)).rowcount:
        return
    default = select(smtp_configs.c.id).where(in_scope(smtp_configs, key), smtp_configs.c.is_default)
    first = (await connection.execute(default)).first() is None
    made = smtp_configs.insert().values(
        **key._asdict(), display_name=name, **values, is_default=first, created_at=now, updated_at=now
    )
    await connection.execute(made)


async def delete_record(connection: AsyncConnection, key: ScopeKey, name: str) -> bool:
    """Remove the record; the oldest other one follows a default. False where there was none."""
    chosen = named(smtp_configs, key, name)
    was_default = (await connection.execute(select(smtp_configs.c.is_default).where(chosen))).scalar_one_or_none()
    if was_default is None:
        return False
    await connection.execute(delete(smtp_configs).where(chosen))
    if was_default:
        await _promote_oldest(connection, key)
    return True


async def _promote_oldest(connection: AsyncConnection, key: ScopeKey) -> None:
    # By id and not by time: clocks differ between hosts, and readers of the config topic rank records alike.
    oldest = select(smtp_configs.c.id).where(in_scope(smtp_configs, key)).order_by(smtp_configs.c.id).limit(1)
    follower = (await connection.execute(oldest)).scalar_one_or_none()
    if follower is not None:
        await connection.execute(update(smtp_configs).where(smtp_configs.c.id == follower).values(is_default=True))


def _insert(connection: AsyncConnection, table: Table) -> sqlite.Insert | postgresql.Insert:
    # Both spell ON CONFLICT alike; SQLAlchemy has no common form of it.
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
