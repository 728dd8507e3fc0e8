"""The tables: SMTP records, their high-water versions, and the features of each scope.

Plain SQLAlchemy Core; the statements stand in `configs`. A missing partner or org is stored as
the empty string, never NULL: two NULLs are distinct to a unique constraint, two '' are not.
"""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

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
    Column("secret", Text),  # a token of `secrets.SecretBox`, never the password itself
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
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
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
