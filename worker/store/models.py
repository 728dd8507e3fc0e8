"""The tables of SMTP records: records, versions, history, secrets, features, and what is to be told of changes.

Those of people and organizations stand in `models_people`. Plain SQLAlchemy Core. A missing partner or
org is stored as the empty string, never NULL: two NULLs are distinct to a unique constraint, two '' are not.
"""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, in UTC: SQLite keeps no zone, and would hand back a naive one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC."""
        del dialect
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What comes without a zone is UTC."""
        del dialect
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


# Named alike on every database, so that a later migration can drop a constraint by its name.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

smtp_configs = Table(
    "smtp_configs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("partner", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("tls", Text, nullable=False),
    Column("verify_tls", Boolean, nullable=False),
    Column("ca_bundle", Text),
    Column("username", Text),
    Column("secret", Text),  # a token of `secrets.SecretBox`, or a reference; never the password itself
    Column("secret_partner", Text),  # the named secret that it was copied from: its owner and its name
    Column("secret_org", Text),
    Column("secret_name", Text),
    Column("from_address", Text),
    Column("reply_to", Text),
    Column("allowed_from", JSON, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("max_connections", Integer, nullable=False),
    Column("rate_per_minute", Integer),
    Column("timeout_s", Float, nullable=False),
    Column("chunking", Boolean, nullable=False, server_default=false()),
    Column("require_tls", Boolean, nullable=False, server_default=false()),
    Column("dkim_domain", Text),
    Column("dkim_selector", Text),
    Column("dkim_secret", Text),  # the signing key, sealed like `secret`
    Column("version", Integer, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("rank", Integer, nullable=False, server_default="0"),  # among its scope's records: the default's is lowest
    Column("fallback", Boolean, nullable=False, server_default=false()),  # used while those before it rest
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text),
    UniqueConstraint("partner", "org", "display_name"),
)

# Two defaults in one scope would make resolution a matter of luck: the database refuses them.
Index(
    "uq_smtp_configs_one_default",
    smtp_configs.c.partner,
    smtp_configs.c.org,
    unique=True,
    sqlite_where=text("is_default"),
    postgresql_where=text("is_default"),
)

# The highest version that each (scope, name) ever had. It outlives the record, so that a record
# which is deleted and made anew never repeats a version that some worker already acted on.
config_versions = Table(
    "config_versions",
    metadata,
    Column("partner", Text, primary_key=True),
    Column("org", Text, primary_key=True),
    Column("display_name", Text, primary_key=True),
    Column("version", Integer, nullable=False),
)

# One row for each scope that was ever written to. A writer locks its scope's row first, which
# puts the writers of one scope in a line on databases that lock by row.
features = Table(
    "features",
    metadata,
    Column("partner", Text, primary_key=True),
    Column("org", Text, primary_key=True),
    Column("org_smtp", Boolean, nullable=False, server_default=false()),
    Column("version", Integer, nullable=False, server_default="0"),  # raised each time the feature is set
)

# Passwords by name. One that was given with a record is named `config:` and the record's name.
secrets = Table(
    "secrets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("partner", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("shared", Boolean, nullable=False, server_default=false()),  # scopes below may use it, too
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", Text),
    UniqueConstraint("partner", "org", "name"),
)

# One row for each version of each record, also of those that were deleted since; never a secret.
config_history = Table(
    "config_history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("partner", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("action", Text, nullable=False),
    Column("fields", JSON, nullable=False),
    Column("reference", Text),
    Column("secret_partner", Text),
    Column("secret_org", Text),
    Column("secret_name", Text),
    Column("changed", JSON, nullable=False),
    Column("actor_kind", Text, nullable=False),
    Column("actor_name", Text, nullable=False),
    Column("actor_scope", Text, nullable=False),
    Column("origin", Text),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_config_history_record", "partner", "org", "display_name", "version"),
)

# What a change has to tell others, written in the change's own transaction; see `outgoing`.
outgoing = Table(
    "outgoing",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("posted_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,  # a number is never used again: whoever ships deletes by it
)
