"""The values of SMTP records, their history and their secrets, as the control plane handles them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.audit_change import Action
from schemas.smtp_config import Scope, SmtpConfig
from worker.control.principals import Actor


@dataclass(frozen=True, slots=True)
class SecretName:
    """A stored secret by its name; `scope` owns it."""

    scope: Scope
    name: str


@dataclass(frozen=True, slots=True)
class KeepPassword:
    """The password as it is stored for the record; refused where host, port or username is another one."""


@dataclass(frozen=True, slots=True)
class NoPassword:
    """An anonymous record."""


@dataclass(frozen=True, slots=True, repr=False)
class NewPassword:
    """A password given with the record; it becomes a secret of its own, which only this record uses."""

    value: str


@dataclass(frozen=True, slots=True)
class UseSecret:
    """A stored secret, of the record's own scope, or of a wider one that shares it."""

    name: str


@dataclass(frozen=True, slots=True)
class UseReference:
    """``env:NAME`` or ``file:PATH``, read where mail is sent; for the controller's records only."""

    reference: str


Password = KeepPassword | NoPassword | NewPassword | UseSecret | UseReference


@dataclass(frozen=True, slots=True)
class Draft:
    """A record as somebody wants it stored.

    `fields` are `SmtpConfig`'s, as JSON values, without partner, org, version, password and dkim_key;
    what is left out has its default. `dkim_key`: None keeps the stored one where domain and selector
    are unchanged, else there is none.
    """

    scope: Scope
    name: str
    fields: Mapping[str, Any]
    password: Password
    dkim_key: str | None = None


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A stored record without its secrets, made without any key: what lists and pages show.

    `fields` holds JSON values under `SmtpConfig`'s names, the secrets left out. `fallback`: its place
    among those used while the default rests, from 1; None where it is not used. `secret`: the named
    secret behind the password; `reference`: ``env:NAME`` or ``file:PATH`` behind it.
    """

    scope: Scope
    name: str
    is_default: bool
    fallback: int | None
    password_set: bool
    dkim_key_set: bool
    secret: SecretName | None
    reference: str | None
    fingerprint: str
    version: int
    updated_at: datetime
    updated_by: str | None
    warnings: tuple[str, ...]
    fields: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One flat object for JSON."""
        own = self.secret is not None and not self.secret.name.startswith(INLINE)
        return {
            "scope": str(self.scope),
            **self.fields,
            "is_default": self.is_default,
            "fallback": self.fallback,
            "password_set": self.password_set,
            "secret": self.secret.name if own and self.secret else None,
            "reference": self.reference,
            "dkim_key_set": self.dkim_key_set,
            "fingerprint": self.fingerprint,
            "updated_at": self.updated_at.isoformat(),
            "updated_by": self.updated_by,
            "warnings": list(self.warnings),
        }


INLINE = "config:"
"""How the names of secrets begin that were given with a record; its display name follows."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One version of a record: what it was, who made it so, and which fields differ from the one before."""

    version: int
    action: Action
    at: datetime
    actor: Actor
    changed: tuple[str, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret without its value; `shared`: scopes below may use it, too. `used_by` names records."""

    scope: Scope
    name: str
    shared: bool
    version: int
    updated_at: datetime
    updated_by: str | None
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EffectiveRecord:
    """What sends a scope's mail now: the record with its secrets, which never leave the process."""

    config: SmtpConfig
    org_enabled: bool
