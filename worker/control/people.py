"""The values of partners, organizations, users, tokens, sessions and one-time links."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from schemas.smtp_config import Scope
from worker.control.principals import Role


class UserState(StrEnum):
    """invited: has no password yet; active; disabled: may not come in, and is kept for the history."""

    INVITED = "invited"
    ACTIVE = "active"
    DISABLED = "disabled"


class Purpose(StrEnum):
    """What a one-time link is for."""

    SET_PASSWORD = "set_password"  # noqa: S105 # the word, not a secret
    CONFIRM_EMAIL = "confirm_email"

    @property
    def lifetime(self) -> timedelta:
        """For how long its links can be used."""
        return timedelta(hours=72 if self is Purpose.SET_PASSWORD else 24)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in; `email` is in lower case and unique."""

    id: str
    email: str
    name: str | None
    scope: Scope
    role: Role
    state: UserState
    created_at: datetime


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A user and the argon2 hash of the password, None where there is none yet."""

    user: User
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class NewUser:
    """Who is to be made; `password_hash` None: invited, and asked for a password by a link."""

    email: str
    name: str | None
    scope: Scope
    role: Role
    password_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token without its value."""

    id: str
    name: str
    scope: Scope
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Link:
    """What a one-time link leads to; `email` is the new address to confirm."""

    purpose: Purpose
    user: User
    email: str | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization; `smtp_enabled`: its own SMTP records count, and its SMTP endpoints exist."""

    partner: str
    name: str
    created_at: datetime
    created_by: str
    smtp_enabled: bool


@dataclass(frozen=True, slots=True)
class Partner:
    """A partner."""

    name: str
    created_at: datetime
    created_by: str
