"""The tables of partners, organizations, users, sessions, tokens and one-time links.

Values that let somebody in (of a session, a token, a link) are stored as their SHA-256, never as they
are: they have 256 random bits, so that no slow hash is needed. Passwords are argon2 hashes.
"""

from sqlalchemy import Column, ForeignKeyConstraint, Index, Table, Text

from worker.store.models import UtcDateTime, metadata

partners = Table(
    "partners",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
)

organizations = Table(
    "organizations",
    metadata,
    Column("partner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    ForeignKeyConstraint(["partner"], ["partners.name"], name="fk_organizations_partner_partners"),
)

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("email", Text, nullable=False, unique=True),
    Column("name", Text),
    Column("partner", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("password_hash", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("ix_users_scope", "partner", "org"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("user_id", Text, nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("partner", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("used_at", UtcDateTime),
    Index("ix_tokens_scope", "partner", "org"),
)

links = Table(
    "links",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("user_id", Text, nullable=False, index=True),
    Column("purpose", Text, nullable=False),
    Column("email", Text),
    Column("expires_at", UtcDateTime, nullable=False),
)
