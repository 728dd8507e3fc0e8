"""Between the rows of people and their values, and the digests under which ways in are stored."""

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Annotated

from pydantic import StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import RowMapping

from schemas.address import Address
from schemas.text import RequiredText, TenantName
from worker.control.errors import Refused
from worker.control.people import Credentials, Organization, Partner, Token, User, UserState
from worker.control.principals import Role
from worker.store.rows import scope_of

TOKEN_PREFIX = "pbt_"  # noqa: S105 # secret scanners find a leaked token by it
_MAX_NAME = 200
_ADDRESS: TypeAdapter[str] = TypeAdapter(Address)
_TENANT: TypeAdapter[str] = TypeAdapter(TenantName)
_SHOWN: TypeAdapter[str] = TypeAdapter(Annotated[RequiredText, StringConstraints(max_length=_MAX_NAME, pattern=r"\S")])


def utc_now() -> datetime:
    """The time by which everything here is kept."""
    return datetime.now(UTC)


def new_value() -> str:
    """A value that lets somebody in: 256 random bits in 43 characters that may stand in a URL."""
    return secrets.token_urlsafe(32)


def digest_of(value: str) -> str:
    """Under what a value is stored: its SHA-256 in hex."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def stored_email(email: str, path: str = "email") -> str:
    """The address as it is stored, in lower case; raises Refused, which never repeats it."""
    try:
        return _ADDRESS.validate_python(email).lower()
    except ValidationError:
        raise Refused(path, "not a valid mail address (expected local-part@domain)") from None


def known_email(email: str) -> str | None:
    """The address as it would be stored; None where nobody can have it."""
    try:
        return stored_email(email)
    except Refused:
        return None


def tenant_name(name: str, path: str = "name") -> str:
    """The name unchanged, if a partner or org may be called that; else raises Refused."""
    try:
        return _TENANT.validate_python(name)
    except ValidationError:
        raise Refused(path, "expected 1 to 63 letters, digits, . _ or -, a letter or digit first") from None


def shown_name(name: str, path: str = "name") -> str:
    """The name unchanged, if it is one line of 1 to 200 characters; else raises Refused."""
    try:
        return _SHOWN.validate_python(name)
    except ValidationError:
        raise Refused(path, f"expected one line of 1 to {_MAX_NAME} printable characters") from None


def user_of(row: RowMapping) -> User:
    """The user in a row of ``users``."""
    return User(
        id=row["id"],
        email=row["email"],
        name=row["name"],
        scope=scope_of(row),
        role=Role(row["role"]),
        state=UserState(row["state"]),
        created_at=row["created_at"],
    )


def credentials_of(row: RowMapping) -> Credentials:
    """The same with the hash of the password."""
    return Credentials(user_of(row), row["password_hash"])


def token_of(row: RowMapping) -> Token:
    """The token in a row of ``tokens``."""
    return Token(
        id=row["id"],
        name=row["name"],
        scope=scope_of(row),
        role=Role(row["role"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
        used_at=row["used_at"],
    )


def partner_of(row: RowMapping) -> Partner:
    """The partner in a row of ``partners``."""
    return Partner(row["name"], row["created_at"], row["created_by"])


def organization_of(row: RowMapping) -> Organization:
    """The organization in a row of ``organizations``, joined with its feature; it has none until it was set."""
    return Organization(
        row["partner"], row["name"], row["created_at"], row["created_by"], smtp_enabled=bool(row["org_smtp"])
    )
