"""Between a row of ``smtp_configs`` and an `SmtpConfig`, and what of it may be shown."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError
from sqlalchemy import RowMapping

from schemas.config_change import is_reference
from schemas.smtp_config import SECRETS, Scope, SmtpConfig, label
from worker.control.records import SecretName, StoredRecord
from worker.errors import StoreUnavailable
from worker.store.models import smtp_configs

_KEY = {"partner", "org", "display_name"}
_FIELDS = tuple(name for name in SmtpConfig.model_fields if name in smtp_configs.c and name not in _KEY)


class ScopeKey(NamedTuple):
    """A scope as the tables spell it: '' where there is no partner or no org."""

    partner: str
    org: str

    @classmethod
    def of(cls, scope: Scope) -> "ScopeKey":
        """Spell `scope`."""
        return cls(scope.partner or "", scope.org or "")


def scope_of(row: RowMapping) -> Scope:
    """The scope that owns the row."""
    return Scope(row["partner"] or None, row["org"] or None)


class Secrets(NamedTuple):
    """The secrets of a record: sealed where they are stored, opened where they are used."""

    password: str | None = None
    dkim_key: str | None = None

    def each(self, change: Callable[[str], str]) -> "Secrets":
        """The same, each of them sealed, opened or resealed by `change`."""
        return Secrets(*(None if secret is None else change(secret) for secret in self))


def sealed_in(row: RowMapping) -> Secrets:
    """The secrets of the row, as they are stored."""
    return Secrets(row["secret"], row["dkim_secret"])


def to_columns(sealed: Secrets) -> dict[str, str | None]:
    """The columns of sealed secrets."""
    return {"secret": sealed.password, "dkim_secret": sealed.dkim_key}


def source_of(row: RowMapping) -> SecretName | None:
    """The named secret that the row's password was copied from."""
    if row["secret_name"] is None:
        return None
    return SecretName(Scope(row["secret_partner"] or None, row["secret_org"] or None), row["secret_name"])


def source_columns(source: SecretName | None) -> dict[str, str | None]:
    """The columns of the named secret behind a password."""
    partner, org = (None, None) if source is None else ScopeKey.of(source.scope)
    return {"secret_partner": partner, "secret_org": org, "secret_name": source.name if source else None}


def field_columns(config: SmtpConfig) -> dict[str, Any]:
    """The columns of what `config` says, but its key, its version and its secrets."""
    return config.model_dump(mode="json", include=set(_FIELDS) - {"version"})


def to_fields(config: SmtpConfig) -> dict[str, Any]:
    """What lists, pages and the history show of `config`, as JSON values: everything but its secrets."""
    return config.model_dump(mode="json", exclude=set(SECRETS))


def stored_fields(row: RowMapping) -> dict[str, Any]:
    """The same of `row`, be it a valid record or not: what cannot be read any more can still be deleted."""
    scope = scope_of(row)
    key = {"partner": scope.partner, "org": scope.org, "display_name": row["display_name"]}
    return {**key, **{name: row[name] for name in _FIELDS}}


def to_config(row: RowMapping, opened: Secrets) -> SmtpConfig:
    """The record in `row`, with its `opened` secrets.

    Raises StoreUnavailable, naming record and field, where what is stored is no valid record.
    """
    secrets = {name: None if value is None else SecretStr(value) for name, value in opened._asdict().items()}
    try:
        return SmtpConfig.model_validate({**stored_fields(row), **secrets})
    except ValidationError as error:
        raise invalid(scope_of(row), row["display_name"], error) from None


def shown_config(row: RowMapping) -> SmtpConfig:
    """The record in `row` with empty stand-ins for its secrets: for what is shown of it, and needs no key."""
    # A user name needs a password beside it to be valid.
    return to_config(row, sealed_in(row).each(lambda _: ""))


def invalid(scope: Scope, name: str, error: ValidationError) -> StoreUnavailable:
    """The error to raise where what is stored is no valid record; names record and field, quotes nothing."""
    found = error.errors(include_input=False, include_url=False, include_context=False)[0]
    fault = ".".join(str(part) for part in found["loc"]) or "record"
    return StoreUnavailable(f"the stored {label(scope, name)} is not valid ({fault}: {found['msg']}): save it again")


def to_records(rows: Iterable[RowMapping]) -> tuple[StoredRecord, ...]:
    """What may be shown of `rows`, which have each scope's fallbacks in their order; needs no key."""
    fallbacks: Counter[Scope] = Counter()
    found = []
    for row in rows:
        if row["fallback"]:
            fallbacks[scope_of(row)] += 1
        found.append(_to_record(row, fallbacks[scope_of(row)] if row["fallback"] else None))
    return tuple(found)


def _to_record(row: RowMapping, fallback: int | None) -> StoredRecord:
    config = shown_config(row)
    return StoredRecord(
        scope=config.scope,
        name=config.display_name,
        is_default=row["is_default"],
        fallback=fallback,
        password_set=row["secret"] is not None,
        dkim_key_set=row["dkim_secret"] is not None,
        secret=source_of(row),
        reference=row["secret"] if row["secret"] is not None and is_reference(row["secret"]) else None,
        fingerprint=config.fingerprint,
        version=config.version,
        updated_at=row["updated_at"],
        updated_by=row["updated_by"],
        warnings=config.warnings(),
        fields=to_fields(config),
    )
