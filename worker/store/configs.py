"""The store of SMTP records, their history and their secrets, and the lineage of a scope for the delivery core.

Passwords are sealed before they reach the database and opened after they leave it. A version
only goes up, for each (scope, display name), also across a delete: whoever keeps a record by its
version never takes an older one for a newer one. What each method does inside its transaction
stands in `saving`, `ordering`, `named_secrets`, `features` and `sealing`.
"""

from collections.abc import Mapping, Sequence

from pydantic import SecretStr
from sqlalchemy import RowMapping, Select, case, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.config_change import Delete, Feature, Put
from schemas.smtp_config import CONTROLLER, SECRETS, Scope, ScopeLevel, SmtpConfig, label
from worker.control.principals import Actor, Kind
from worker.control.records import (
    Draft,
    HistoryEntry,
    NewPassword,
    NoPassword,
    SecretName,
    StoredRecord,
    StoredSecret,
)
from worker.control.references import Environment, open_for, opening
from worker.delivery.ports import ScopedConfigs
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.store import named_secrets, ordering, saving
from worker.store.changes import changes_of
from worker.store.database import Store
from worker.store.features import org_enabled, require_org, switch_org
from worker.store.history import Step, entries_of
from worker.store.models import config_versions, smtp_configs
from worker.store.models_people import partners
from worker.store.rows import ScopeKey, Secrets, scope_of, sealed_in, to_config, to_records
from worker.store.sealing import naming, reseal_all, tokens_of
from worker.store.secrets import SecretBox
from worker.store.statements import in_scope, named

LOOKUP_PATIENCE_S = 10.0  # mail waits for this answer, and goes on with an older one where there is none
POSTBOTE = Actor(Kind.COMMAND, "postbote", CONTROLLER)
"""Who changes something where nobody is named."""


def _nothing_is_set(name: str) -> None:
    """The environment of a store that was given none."""
    del name


class ConfigStore:
    """The stored SMTP records; fulfils `worker.control.ports.Records` and `worker.delivery.ports.ConfigSource`.

    Every method may raise StoreUnavailable. Those that return a password raise SecretUnreadable,
    naming the record, where no key opens it, and SecretKeyMissing where no key is set.
    """

    def __init__(self, database: Store | str, box: SecretBox, environment: Environment = _nothing_is_set) -> None:
        """Take the database, or its address, the keys, and where ``env:`` references lead."""
        self.database = Store(database) if isinstance(database, str) else database
        self._box = box
        self._open_secret = opening(box.open, environment)

    def __repr__(self) -> str:
        """Name the database; neither its password nor a key."""
        return f"ConfigStore({self.database!r}, {self._box!r})"

    async def open(self) -> None:
        """Check that the database can be read and has this version's schema."""
        await self.database.check_schema()

    async def close(self) -> None:
        """End every connection."""
        await self.database.close()

    async def records(self, scope: Scope | None = None) -> Sequence[StoredRecord]:
        """The scope's records, or all by their scopes: the default, the fallbacks in their order, then by age."""
        return to_records(await self._rows(_records(scope)))

    async def record(self, scope: Scope, name: str) -> StoredRecord | None:
        """One of them; needs no key, like the others."""
        return next((record for record in await self.records(scope) if record.name == name), None)

    async def opened(self, scope: Scope, name: str) -> SmtpConfig | None:
        """One of them with its secrets."""
        rows = await self._rows(_records(scope))
        return next((self._open(row) for row in rows if row["display_name"] == name), None)

    async def list(self, scope: Scope | None = None) -> list[SmtpConfig]:
        """Every record of exactly this scope, or all, with their secrets; in the order of `records`."""
        return [self._open(row) for row in await self._rows(_records(scope))]

    async def configs_for(self, scope: Scope) -> ScopedConfigs:
        """The default record of each scope in the lineage, the fallbacks of the one that sends, and its feature.

        An unreadable password is an error where its record would be used. A record that another
        one outranks, a fallback, or one of an org whose feature is off, is left out instead: it must
        not hold up mail that never needed it.
        """
        async with self.database.reading(LOOKUP_PATIENCE_S) as connection:
            rows = (await connection.execute(_used(scope))).mappings().all()
            enabled = scope.level is ScopeLevel.ORG and await org_enabled(connection, scope)
        defaults = {scope_of(row): row for row in rows if row["is_default"]}
        ranked = [wider for wider in scope.lineage() if wider in defaults]
        used = next((wider for wider in ranked if enabled or wider.level is not ScopeLevel.ORG), None)
        found = {wider: self._open_if_needed(defaults[wider], needed=wider == used) for wider in ranked}
        behind = [row for row in rows if row["fallback"] and scope_of(row) == used]
        opened = tuple(each for row in behind if (each := self._open_if_needed(row, needed=False)))
        return ScopedConfigs(
            {wider: config for wider, config in found.items() if config},
            org_enabled=enabled,
            fallbacks={used: opened} if used and opened else {},
        )

    async def drafted(self, draft: Draft) -> SmtpConfig:
        """What `save` would store, with its secrets; nothing is stored."""
        key = ScopeKey.of(draft.scope)
        async with self.database.reading() as connection:
            mine = select(smtp_configs).where(named(smtp_configs, key, draft.name))
            stored = (await connection.execute(mine)).mappings().one_or_none()
            highest = select(config_versions.c.version).where(named(config_versions, key, draft.name))
            version = (await connection.execute(highest)).scalar_one_or_none() or 0
            planned = await saving.planned_of(connection, draft, stored, self._box, draft.scope.lineage())
        opened = self._opened(draft.scope, draft.name, planned.sealed)
        secrets = {name: None if value is None else SecretStr(value) for name, value in opened._asdict().items()}
        return planned.config.model_copy(update={**secrets, "version": version + 1})

    async def save(
        self, draft: Draft, actor: Actor, *, expected: int | None = None, create: bool = False
    ) -> StoredRecord:
        """Store the whole record under its next version; errors as in `Records`, and SecretKeyMissing."""
        async with self.database.writing() as connection:
            await saving.save(connection, draft, Step.now(actor), self._box, expected=expected, create=create)
            return await _record(connection, draft.scope, draft.name)

    async def put(self, config: SmtpConfig, actor: Actor = POSTBOTE) -> SmtpConfig:
        """Store `config` as it is and return it with its new version; the given version is ignored."""
        fields = config.model_dump(mode="json", exclude={"partner", "org", "version", *SECRETS})
        password = NoPassword() if config.password is None else NewPassword(config.password.get_secret_value())
        dkim_key = None if config.dkim_key is None else config.dkim_key.get_secret_value()
        stored = await self.save(Draft(config.scope, config.display_name, fields, password, dkim_key), actor)
        return config.model_copy(update={"version": stored.version})

    async def remove(self, scope: Scope, name: str, actor: Actor = POSTBOTE, *, expected: int | None = None) -> bool:
        """Delete a record, readable or not; where it was the default, the first fallback or next record follows."""
        async with self.database.writing() as connection:
            return await saving.remove(connection, scope, name, Step.now(actor), expected=expected)

    async def history(self, scope: Scope, name: str) -> Sequence[HistoryEntry]:
        """Every version, newest first; also of a record that was deleted."""
        async with self.database.reading() as connection:
            return await entries_of(connection, ScopeKey.of(scope), name)

    async def roll_back(
        self, scope: Scope, name: str, version: int, actor: Actor, *, expected: int | None = None
    ) -> StoredRecord:
        """Store what `version` was as the next version; errors as in `Records`."""
        async with self.database.writing() as connection:
            step = Step.now(actor)
            await saving.roll_back(connection, (scope, name), version, step, self._box, expected=expected)
            return await _record(connection, scope, name)

    async def order(self, scope: Scope, names: Sequence[str], actor: Actor) -> Sequence[StoredRecord]:
        """Make the first name the default and the others its fallbacks, in this order; the rest is not used."""
        async with self.database.writing() as connection:
            await ordering.order(connection, scope, names, Step.now(actor))
            return to_records((await connection.execute(_records(scope))).mappings())

    async def set_org_feature(self, scope: Scope, actor: Actor = POSTBOTE, *, on: bool) -> None:
        """Let the org's own records count, or not; raise ValueError for another level's scope."""
        async with self.database.writing() as connection:
            await switch_org(connection, scope, Step.now(actor), on=on)

    async def org_feature(self, scope: Scope) -> bool:
        """Whether the org's own records count: off until it is set; ValueError as above."""
        async with self.database.reading() as connection:
            return await org_enabled(connection, require_org(scope))

    async def is_stranger(self, scope: Scope) -> bool:
        """Whether the control plane knows partners, and the scope's is none of them."""
        async with self.database.reading() as connection:
            known = set((await connection.scalars(select(partners.c.name))).all())
        return scope.partner is not None and bool(known) and scope.partner not in known

    async def secrets(self, scope: Scope) -> Sequence[StoredSecret]:
        """The scope's own secrets by name, without those that were given with a record."""
        async with self.database.reading() as connection:
            return await named_secrets.list_secrets(connection, scope)

    async def create_secret(self, scope: Scope, name: str, value: str, actor: Actor, *, shared: bool) -> StoredSecret:
        """Store it sealed; raises Taken, Refused, and SecretKeyMissing."""
        secret = SecretName(scope, name)
        sealed = named_secrets.seal_value(self._box, value)
        async with self.database.writing() as connection:
            return await named_secrets.create_secret(connection, secret, sealed, Step.now(actor), shared=shared)

    async def rotate_secret(self, scope: Scope, name: str, value: str, actor: Actor) -> StoredSecret:
        """Replace its value; each record that uses it gets its next version. Raises NotFound and as above."""
        sealed = named_secrets.seal_value(self._box, value)
        async with self.database.writing() as connection:
            return await named_secrets.rotate_secret(connection, SecretName(scope, name), sealed, Step.now(actor))

    async def delete_secret(self, scope: Scope, name: str, actor: Actor) -> None:
        """Delete it; raises NotFound, or InUse naming the records of its own scope and the count of others."""
        async with self.database.writing() as connection:
            await named_secrets.delete_secret(connection, SecretName(scope, name), Step.now(actor))

    async def changes(self, scope: Scope | None = None) -> Sequence[Put | Delete | Feature]:
        """What the config topic is told of this scope, or of all; needs no key.

        Raises StoreUnavailable, naming the record, where what is stored is no valid record.
        """
        async with self.database.reading() as connection:
            return await changes_of(connection, scope)

    async def tokens(self) -> Mapping[str, Sequence[str]]:
        """Everything sealed, by the record or secret that holds it; needs no key."""
        async with self.database.reading() as connection:
            return await tokens_of(connection)

    async def verify_secrets(self) -> None:
        """Open everything sealed; raise SecretUnreadable naming the first that fails and how many do."""
        failures = []
        for name, tokens in (await self.tokens()).items():
            try:
                naming(name, Secrets(*tokens), self._box.open)
            except SecretUnreadable as error:
                failures.append(error)
        if failures:
            msg = f"{len(failures)} of the stored passwords cannot be decrypted; first, {failures[0]}"
            raise SecretUnreadable(msg)

    async def reseal(self) -> int:
        """Seal everything with the first key; return how many records, and secrets of their own, hold something.

        After this the older keys may be dropped. Versions stay: nothing about sending changed.
        All or nothing: an unreadable one is raised as SecretUnreadable and none is changed.
        """
        async with self.database.writing() as connection:
            return await reseal_all(connection, self._box.reseal)

    async def _rows(self, query: Select[tuple[object, ...]]) -> Sequence[RowMapping]:
        async with self.database.reading() as connection:
            return (await connection.execute(query)).mappings().all()

    def _open(self, row: RowMapping) -> SmtpConfig:
        return to_config(row, self._opened(scope_of(row), row["display_name"], sealed_in(row)))

    def _opened(self, scope: Scope, name: str, sealed: Secrets) -> Secrets:
        return naming(label(scope, name), sealed, lambda secret: open_for(scope, secret, self._open_secret))

    def _open_if_needed(self, row: RowMapping, *, needed: bool) -> SmtpConfig | None:
        try:
            return self._open(row)
        except (SecretUnreadable, SecretKeyMissing):
            if needed:
                raise
            return None


async def _record(connection: AsyncConnection, scope: Scope, name: str) -> StoredRecord:
    rows = (await connection.execute(_records(scope))).mappings()
    return next(record for record in to_records(rows) if record.name == name)


def _records(scope: Scope | None) -> Select[tuple[object, ...]]:
    table = smtp_configs
    place = case((table.c.fallback, table.c.rank), else_=0)
    query = select(table).order_by(
        *(table.c.partner, table.c.org, table.c.is_default.desc(), table.c.fallback.desc(), place),
        *(table.c.created_at, table.c.id),
    )
    return query if scope is None else query.where(in_scope(table, ScopeKey.of(scope)))


def _used(scope: Scope) -> Select[tuple[object, ...]]:
    lineage = or_(*(in_scope(smtp_configs, ScopeKey.of(wider)) for wider in scope.lineage()))
    sends = or_(smtp_configs.c.is_default, smtp_configs.c.fallback)
    return select(smtp_configs).where(lineage, sends).order_by(smtp_configs.c.rank)
