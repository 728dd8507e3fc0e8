"""What the store holds, as the messages of the config topic say it; secrets stay sealed."""

from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy import ColumnElement, RowMapping, Select, Table, and_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.config_change import Delete, Feature, PublishedConfig, Put
from schemas.smtp_config import Scope
from worker.store.models import config_versions, features, smtp_configs
from worker.store.rows import ScopeKey, invalid, scope_of
from worker.store.statements import in_scope

_COLUMNS = tuple(name for name in PublishedConfig.model_fields if name in smtp_configs.c)


async def changes_of(connection: AsyncConnection, scope: Scope | None) -> list[Put | Delete | Feature]:
    """Every record, delete and feature of `scope`, or of all of them, as one transaction sees them.

    A name without a record was deleted with the highest version that it ever had.
    """
    puts = [to_put(row) for row in await _rows(connection, _of(scope, smtp_configs))]
    deletes = [to_delete(row) for row in await _rows(connection, _deleted(scope))]
    ever_set = _of(scope, features).where(features.c.version > 0, features.c.org != "")
    return [*puts, *deletes, *(to_feature(row) for row in await _rows(connection, ever_set))]


async def _rows(connection: AsyncConnection, query: Select[tuple[object, ...]]) -> Sequence[RowMapping]:
    return (await connection.execute(query)).mappings().all()


def _of(scope: Scope | None, table: Table) -> Select[tuple[object, ...]]:
    return select(table).where(_within(scope, table))


def _within(scope: Scope | None, table: Table) -> ColumnElement[bool]:
    return true() if scope is None else in_scope(table, ScopeKey.of(scope))


def _deleted(scope: Scope | None) -> Select[tuple[object, ...]]:
    key = ("partner", "org", "display_name")
    living = and_(*(smtp_configs.c[column] == config_versions.c[column] for column in key))
    return _of(scope, config_versions).where(~select(smtp_configs.c.id).where(living).exists())


def to_put(row: RowMapping) -> Put:
    """The record in `row`; raises StoreUnavailable, naming it, where what is stored is no valid record."""
    scope = scope_of(row)
    values = {name: row[name] for name in _COLUMNS} | {"partner": scope.partner, "org": scope.org}
    try:
        config = PublishedConfig.model_validate(values)
        return Put(
            config=config,
            secret=row["secret"],
            dkim_secret=row["dkim_secret"],
            order=row["rank"],
            fallback=row["fallback"],
        )
    except ValidationError as error:
        raise invalid(scope, row["display_name"], error) from None


def to_delete(row: RowMapping) -> Delete:
    """That the record in `row` is gone, which has its last version."""
    scope = scope_of(row)
    return Delete(partner=scope.partner, org=scope.org, display_name=row["display_name"], version=row["version"])


def to_feature(row: RowMapping) -> Feature:
    """What `row` says of its org."""
    return Feature(partner=row["partner"], org=row["org"], org_smtp=row["org_smtp"], version=row["version"])
