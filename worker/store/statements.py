"""The statements that write records, each on a transaction that `database.Store.writing` opened.

They run alike on SQLite and PostgreSQL. Every writer calls `lock_scopes` first, and of the rows that it
changes it takes records before secrets, each by their ids: whoever keeps to that order waits for
others and never deadlocks. SQLite has one writer at a time anyhow.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Table, and_, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.models import config_versions, features, smtp_configs
from worker.store.rows import ScopeKey


def in_scope(table: Table, key: ScopeKey) -> ColumnElement[bool]:
    """The condition that a row of `table` belongs to the scope."""
    return and_(table.c.partner == key.partner, table.c.org == key.org)


def named(table: Table, key: ScopeKey, name: str) -> ColumnElement[bool]:
    """The condition that a row of `table` is about the scope's record of that name."""
    return and_(in_scope(table, key), table.c.display_name == name)


async def lock_scope(connection: AsyncConnection, key: ScopeKey) -> None:
    """Hold the scope for this transaction; its row is made where it has none."""
    await connection.execute(insert_into(connection, features).values(**key._asdict()).on_conflict_do_nothing())
    await connection.execute(select(features.c.org_smtp).where(in_scope(features, key)).with_for_update())


async def lock_scopes(connection: AsyncConnection, keys: Iterable[ScopeKey]) -> None:
    """Hold several, the widest first, always in the same order."""
    for key in sorted(set(keys)):
        await lock_scope(connection, key)


async def rows_of(connection: AsyncConnection, of: ColumnElement[bool]) -> Sequence[RowMapping]:
    """The records that `of` chooses by their ids, held for this transaction."""
    chosen = select(smtp_configs).where(of).order_by(smtp_configs.c.id).with_for_update()
    return (await connection.execute(chosen)).mappings().all()


async def next_version(connection: AsyncConnection, key: ScopeKey, name: str) -> int:
    """Raise the high-water mark of (scope, name) by one and return it; it begins at 1."""
    made = insert_into(connection, config_versions).values(**key._asdict(), display_name=name, version=1)
    raised = made.on_conflict_do_update(
        index_elements=["partner", "org", "display_name"],
        set_={"version": config_versions.c.version + 1},
    ).returning(config_versions.c.version)
    return int((await connection.execute(raised)).scalar_one())


async def insert_record(connection: AsyncConnection, values: dict[str, Any]) -> RowMapping:
    """Make a record and return its row."""
    made = smtp_configs.insert().values(**values).returning(*smtp_configs.c)
    return (await connection.execute(made)).mappings().one()


async def update_record(connection: AsyncConnection, row_id: int, values: dict[str, Any]) -> RowMapping:
    """Change a record and return its row as it is now."""
    changed = update(smtp_configs).where(smtp_configs.c.id == row_id).values(**values).returning(*smtp_configs.c)
    return (await connection.execute(changed)).mappings().one()


async def delete_record(connection: AsyncConnection, row_id: int) -> None:
    """Remove a record."""
    await connection.execute(delete(smtp_configs).where(smtp_configs.c.id == row_id))


def insert_into(connection: AsyncConnection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, which both databases spell alike and SQLAlchemy has no common form of."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
