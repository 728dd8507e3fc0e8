"""The SMTP records: put, read, delete, and the lineage of a scope for the delivery core.

Passwords are sealed before they reach the database and opened after they leave it. A version
only goes up, for each (scope, display name), also across a delete: whoever keeps a record by its
version never takes an older one for a newer one.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import RowMapping, Select, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.config_change import Delete, Feature, Put
from schemas.smtp_config import Scope, ScopeLevel, SmtpConfig, label
from worker.delivery.ports import ScopedConfigs
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.store.changes import changes_of
from worker.store.database import Store
from worker.store.models import features, smtp_configs
from worker.store.rows import (
    RecordSummary,
    ScopeKey,
    Secrets,
    scope_of,
    sealed_in,
    to_columns,
    to_config,
    to_summary,
    to_values,
)
from worker.store.secrets import SecretBox
from worker.store.statements import delete_record, in_scope, lock_scope, next_version, write_record

LOOKUP_PATIENCE_S = 10.0  # mail waits for this answer, and goes on with an older one where there is none


class ConfigStore:
    """The stored SMTP records; fulfils `worker.delivery.ports.ConfigSource`.

    Every method may raise StoreUnavailable. Those that return a password raise SecretUnreadable,
    naming the record, where no key opens it, and SecretKeyMissing where no key is set.
    """

    def __init__(self, database: Store | str, box: SecretBox) -> None:
        """Take the database, or its address, and the keys."""
        self.database = Store(database) if isinstance(database, str) else database
        self._box = box

    def __repr__(self) -> str:
        """Name the database; neither its password nor a key."""
        return f"ConfigStore({self.database!r}, {self._box!r})"

    async def open(self) -> None:
        """Check that the database can be read and has this version's schema."""
        await self.database.check_schema()

    async def close(self) -> None:
        """End every connection."""
        await self.database.close()

    async def put(self, config: SmtpConfig) -> SmtpConfig:
        """Store the whole record and return it with its new version; the given version is ignored.

        Raises SecretKeyMissing where it has a password and no key is set.
        """
        key = ScopeKey.of(config.scope)
        secrets = (None if each is None else each.get_secret_value() for each in (config.password, config.dkim_key))
        sealed = Secrets(*secrets).each(self._box.seal)
        async with self.database.writing() as connection:
            await lock_scope(connection, key)
            version = await next_version(connection, key, config.display_name)
            values = to_values(config, sealed, version)
            await write_record(connection, key, config.display_name, values, datetime.now(UTC))
        return config.model_copy(update={"version": version})

    async def get(self, scope: Scope, name: str) -> SmtpConfig | None:
        """The scope's record of that display name, or None."""
        rows = await self._rows(_records(scope).where(smtp_configs.c.display_name == name))
        return self._open(rows[0]) if rows else None

    async def delete(self, scope: Scope, name: str) -> bool:
        """Remove a record, readable or not; False where there was none.

        Where it was its scope's default, the oldest other record becomes the default.
        """
        key = ScopeKey.of(scope)
        async with self.database.writing() as connection:
            await lock_scope(connection, key)
            return await delete_record(connection, key, name)

    async def list(self, scope: Scope | None = None) -> list[SmtpConfig]:
        """Every record of exactly this scope, or all: by scope, in each the default first, then by age."""
        return [self._open(row) for row in await self._rows(_records(scope))]

    async def summaries(self, scope: Scope | None = None) -> Sequence[RecordSummary]:
        """What may be shown of the same records in the same order; needs no key."""
        return tuple(to_summary(row) for row in await self._rows(_records(scope)))

    async def set_org_feature(self, scope: Scope, *, on: bool) -> None:
        """Let the org's own records count, or not; raise ValueError for another level's scope."""
        key = ScopeKey.of(_org(scope))
        async with self.database.writing() as connection:
            await lock_scope(connection, key)
            raised = update(features).values(org_smtp=on, version=features.c.version + 1)
            await connection.execute(raised.where(in_scope(features, key)))

    async def org_feature(self, scope: Scope) -> bool:
        """Whether the org's own records count: off until it is set; ValueError as above."""
        async with self.database.reading() as connection:
            return await _org_enabled(connection, _org(scope))

    async def configs_for(self, scope: Scope) -> ScopedConfigs:
        """The default record of each scope in the lineage, and whether the org's counts.

        An unreadable password is an error where its record would be used. A record that another
        one outranks, or of an org whose feature is off, is left out instead: it must not hold up
        mail that never needed it.
        """
        async with self.database.reading(LOOKUP_PATIENCE_S) as connection:
            found = await connection.execute(_defaults(scope))
            rows = {scope_of(row): row for row in found.mappings()}
            enabled = scope.level is ScopeLevel.ORG and await _org_enabled(connection, scope)
        return ScopedConfigs(self._open_lineage(scope, rows, org_enabled=enabled), org_enabled=enabled)

    async def changes(self, scope: Scope | None = None) -> Sequence[Put | Delete | Feature]:
        """What the config topic is told of this scope, or of all; needs no key.

        Raises StoreUnavailable, naming the record, where what is stored is no valid record.
        """
        async with self.database.reading() as connection:
            return await changes_of(connection, scope)

    async def verify_secrets(self) -> None:
        """Open every stored password; raise SecretUnreadable naming the first that fails and how many do."""
        failures = []
        for row in await self._rows(_records(None)):
            try:
                self._open(row)
            except SecretUnreadable as error:
                failures.append(error)
        if failures:
            msg = f"{len(failures)} of the stored passwords cannot be decrypted; first, {failures[0]}"
            raise SecretUnreadable(msg)

    async def reseal(self) -> int:
        """Seal every stored password with the first key and return how many there were.

        After this the older keys may be dropped. Versions stay: nothing about sending changed.
        All or nothing: an unreadable one is raised as SecretUnreadable and none is changed.
        """
        has_secrets = or_(smtp_configs.c.secret.is_not(None), smtp_configs.c.dkim_secret.is_not(None))
        sealed = select(smtp_configs).where(has_secrets).order_by(smtp_configs.c.id)
        async with self.database.writing() as connection:
            rows = (await connection.execute(sealed.with_for_update())).mappings().all()
            for row in rows:
                columns = to_columns(self._named(row, self._box.reseal))
                await connection.execute(update(smtp_configs).where(smtp_configs.c.id == row["id"]).values(**columns))
        return len(rows)

    async def _rows(self, query: Select[tuple[object, ...]]) -> Sequence[RowMapping]:
        async with self.database.reading() as connection:
            return (await connection.execute(query)).mappings().all()

    def _open(self, row: RowMapping) -> SmtpConfig:
        return to_config(row, self._named(row, self._box.open))

    def _named(self, row: RowMapping, use: Callable[[str], str]) -> Secrets:
        try:
            return sealed_in(row).each(use)
        except SecretUnreadable as error:
            msg = f"{label(scope_of(row), row['display_name'])}: {error}"
            raise SecretUnreadable(msg) from None

    def _open_lineage(
        self, scope: Scope, rows: Mapping[Scope, RowMapping], *, org_enabled: bool
    ) -> dict[Scope, SmtpConfig]:
        ranked = [wider for wider in scope.lineage() if wider in rows]
        counting = [wider for wider in ranked if org_enabled or wider.level is not ScopeLevel.ORG]
        records = {}
        for wider in ranked:
            try:
                records[wider] = self._open(rows[wider])
            except (SecretUnreadable, SecretKeyMissing):
                if counting[:1] == [wider]:
                    raise
        return records


def _records(scope: Scope | None) -> Select[tuple[object, ...]]:
    table = smtp_configs
    query = select(table).order_by(
        table.c.partner, table.c.org, table.c.is_default.desc(), table.c.created_at, table.c.id
    )
    return query if scope is None else query.where(in_scope(table, ScopeKey.of(scope)))


def _defaults(scope: Scope) -> Select[tuple[object, ...]]:
    lineage = or_(*(in_scope(smtp_configs, ScopeKey.of(wider)) for wider in scope.lineage()))
    return select(smtp_configs).where(lineage, smtp_configs.c.is_default)


def _org(scope: Scope) -> Scope:
    if scope.level is not ScopeLevel.ORG:
        msg = f"the feature belongs to an org, not to {scope}: expected org:PARTNER/NAME"
        raise ValueError(msg)
    return scope


async def _org_enabled(connection: AsyncConnection, org: Scope) -> bool:
    query = select(features.c.org_smtp).where(in_scope(features, ScopeKey.of(org)))
    return bool((await connection.execute(query)).scalar_one_or_none())
