"""Between a row of ``smtp_configs`` and an `SmtpConfig`, and what of it may be shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError
from sqlalchemy import RowMapping

from schemas.smtp_config import Scope, SmtpConfig, label
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
    """A stored record without its password, made without any key: what lists and pages show.

    `fields` holds JSON values under `SmtpConfig`'s names, the password left out.
    """

    scope: Scope
    name: str
    is_default: bool
    password_set: bool
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
            "fingerprint": self.fingerprint,
            "warnings": list(self.warnings),
        }


def scope_of(row: RowMapping) -> Scope:
    """The scope that owns the row."""
    return Scope(row["partner"] or None, row["org"] or None)


def to_values(config: SmtpConfig, secret: str | None, version: int) -> dict[str, Any]:
    """The columns that a put writes; `secret` is the sealed password, never the password."""
    values = config.model_dump(mode="json", include=set(_FIELDS))
    return {**values, "secret": secret, "version": version}


def to_config(row: RowMapping, password: str | None) -> SmtpConfig:
    """The record in `row`, with its opened password.

    Raises StoreUnavailable, naming record and field, where what is stored is no valid record.
    """
    scope = scope_of(row)
    values = {name: row[name] for name in _FIELDS}
    values |= {"partner": scope.partner, "org": scope.org, "display_name": row["display_name"]}
    secret = None if password is None else SecretStr(password)
    try:
        return SmtpConfig.model_validate({**values, "password": secret})
    except ValidationError as error:
        raise invalid(scope, row["display_name"], error) from None


def invalid(scope: Scope, name: str, error: ValidationError) -> StoreUnavailable:
    """The error to raise where what is stored is no valid record; names record and field, quotes nothing."""
    found = error.errors(include_input=False, include_url=False, include_context=False)[0]
    fault = ".".join(str(part) for part in found["loc"]) or "record"
    return StoreUnavailable(f"the stored {label(scope, name)} is not valid ({fault}: {found['msg']}): save it again")


def to_summary(row: RowMapping) -> RecordSummary:
    """What may be shown of `row`; needs no key, so that a lost key hides no record."""
    password_set = row["secret"] is not None
    # A user name needs a password beside it to be valid; this stand-in never leaves the function.
    config = to_config(row, "" if password_set else None)
    return RecordSummary(
        scope=config.scope,
        name=config.display_name,
        is_default=row["is_default"],
        password_set=password_set,
        fingerprint=config.fingerprint,
        warnings=config.warnings(),
        fields=config.model_dump(mode="json", exclude={"password"}),
    )
