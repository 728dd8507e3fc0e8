"""Between a row of ``smtp_configs`` and an `SmtpConfig`, and what of it may be shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError
from sqlalchemy import RowMapping

from schemas.smtp_config import SECRETS, Scope, SmtpConfig, label
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


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """A stored record without its secrets, made without any key: what lists and pages show.

    `fields` holds JSON values under `SmtpConfig`'s names, the password left out.
    """

    scope: Scope
    name: str
    is_default: bool
    password_set: bool
    dkim_key_set: bool
    fingerprint: str
    warnings: tuple[str, ...]
    fields: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One flat object for JSON."""
        return {
            "scope": str(self.scope),
            **self.fields,
            "is_default": self.is_default,
            "password_set": self.password_set,
            "dkim_key_set": self.dkim_key_set,
            "fingerprint": self.fingerprint,
            "warnings": list(self.warnings),
        }


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


def to_values(config: SmtpConfig, sealed: Secrets, version: int) -> dict[str, Any]:
    """The columns that a put writes; the secrets are `sealed`."""
    values = config.model_dump(mode="json", include=set(_FIELDS))
    return {**values, **to_columns(sealed), "version": version}


def to_config(row: RowMapping, opened: Secrets) -> SmtpConfig:
    """The record in `row`, with its `opened` secrets.

    Raises StoreUnavailable, naming record and field, where what is stored is no valid record.
    """
    scope = scope_of(row)
    values = {name: row[name] for name in _FIELDS}
    values |= {"partner": scope.partner, "org": scope.org, "display_name": row["display_name"]}
    secrets = opened._asdict()
    try:
        return SmtpConfig.model_validate(
            {**values, **{name: None if value is None else SecretStr(value) for name, value in secrets.items()}}
        )
    except ValidationError as error:
        raise invalid(scope, row["display_name"], error) from None


def invalid(scope: Scope, name: str, error: ValidationError) -> StoreUnavailable:
    """The error to raise where what is stored is no valid record; names record and field, quotes nothing."""
    found = error.errors(include_input=False, include_url=False, include_context=False)[0]
    fault = ".".join(str(part) for part in found["loc"]) or "record"
    return StoreUnavailable(f"the stored {label(scope, name)} is not valid ({fault}: {found['msg']}): save it again")


def to_summary(row: RowMapping) -> RecordSummary:
    """What may be shown of `row`; needs no key, so that a lost key hides no record."""
    sealed = sealed_in(row)
    # A user name needs a password beside it to be valid; the stand-ins never leave the function.
    config = to_config(row, sealed.each(lambda _: ""))
    return RecordSummary(
        scope=config.scope,
        name=config.display_name,
        is_default=row["is_default"],
        password_set=sealed.password is not None,
        dkim_key_set=sealed.dkim_key is not None,
        fingerprint=config.fingerprint,
        warnings=config.warnings(),
        fields=config.model_dump(mode="json", exclude=set(SECRETS)),
    )
