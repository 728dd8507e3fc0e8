"""The control plane: named secrets, history, an order of records, people, and what is to be told of changes.

Passwords that stand beside their record become secrets of their own, named ``config:`` and the record's name.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_SCOPE = ("partner", "org")
_FIELDS = (
    *("host", "port", "tls", "verify_tls", "ca_bundle", "username", "from_address", "reply_to", "allowed_from"),
    *("retries", "max_connections", "rate_per_minute", "timeout_s", "chunking", "require_tls", "dkim_domain"),
    *("dkim_selector", "version"),
)


def upgrade() -> None:
    """Add columns and tables, and give what is there already its place in them."""
    _extend_smtp_configs()
    _create_secrets()
    _create_history()
    op.create_table(
        "outgoing",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("posted_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    _create_people()
    _create_ways_in()


def downgrade() -> None:
    """Drop them, and everybody's access with them; sealed passwords stay beside their records."""
    for table in (
        "links",
        "tokens",
        "sessions",
        "users",
        "organizations",
        "partners",
        "outgoing",
        "config_history",
        "secrets",
    ):
        op.drop_table(table)
    for column in ("secret_partner", "secret_org", "secret_name", "rank", "fallback", "updated_by"):
        op.drop_column("smtp_configs", column)


def _extend_smtp_configs() -> None:
    for text in ("secret_partner", "secret_org", "secret_name", "updated_by"):
        op.add_column("smtp_configs", sa.Column(text, sa.Text))
    op.add_column("smtp_configs", sa.Column("rank", sa.Integer, nullable=False, server_default="0"))
    op.add_column("smtp_configs", sa.Column("fallback", sa.Boolean, nullable=False, server_default=sa.false()))
    op.execute("UPDATE smtp_configs SET rank = id WHERE NOT is_default")
    op.execute(
        "UPDATE smtp_configs SET secret_partner = partner, secret_org = org, "
        "secret_name = 'config:' || display_name WHERE secret IS NOT NULL"
    )


def _create_secrets() -> None:
    op.create_table(
        "secrets",
        sa.Column("id", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in (*_SCOPE, "name", "sealed")),
        sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_by", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_secrets"),
        sa.UniqueConstraint("partner", "org", "name", name="uq_secrets_partner_org_name"),
    )
    op.execute(
        "INSERT INTO secrets (partner, org, name, sealed, version, created_at, updated_at) "
        "SELECT partner, org, 'config:' || display_name, secret, 1, created_at, updated_at "
        "FROM smtp_configs WHERE secret IS NOT NULL"
    )


def _create_history() -> None:
    op.create_table(
        "config_history",
        sa.Column("id", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in (*_SCOPE, "display_name")),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("reference", "secret_partner", "secret_org", "secret_name")),
        sa.Column("changed", sa.JSON, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("actor_kind", "actor_name", "actor_scope")),
        sa.Column("origin", sa.Text),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_config_history"),
    )
    op.create_index("ix_config_history_record", "config_history", [*_SCOPE, "display_name", "version"])
    _begin_history()


def _begin_history() -> None:
    """What is stored now can be gone back to; who made it so is not known."""
    connection = op.get_bind()
    tables = sa.MetaData()
    records = sa.Table("smtp_configs", tables, sa.Column("allowed_from", sa.JSON), autoload_with=connection)
    history = sa.Table(
        "config_history",
        tables,
        *(sa.Column(name, sa.JSON) for name in ("fields", "changed")),
        autoload_with=connection,
    )
    for row in connection.execute(sa.select(records)).mappings().all():
        own = {name: row[name] for name in (*_SCOPE, "display_name")}
        scope = {name: row[name] or None for name in _SCOPE}
        connection.execute(
            history.insert().values(
                **own,
                version=row["version"],
                action="created",
                fields={**own, **scope, **{name: row[name] for name in _FIELDS}},
                **{name: row[name] for name in ("secret_partner", "secret_org", "secret_name")},
                changed=[],
                actor_kind="command",
                actor_name="postbote db upgrade",
                actor_scope="controller",
                at=row["updated_at"],
            )
        )


def _create_people() -> None:
    op.create_table(
        "partners",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_partners"),
    )
    op.create_table(
        "organizations",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("partner", "name")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("partner", "name", name="pk_organizations"),
        sa.ForeignKeyConstraint(["partner"], ["partners.name"], name="fk_organizations_partner_partners"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        *(sa.Column(name, sa.Text, nullable=False) for name in (*_SCOPE, "role", "state")),
        sa.Column("password_hash", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_index("ix_users_scope", "users", [*_SCOPE])


def _create_ways_in() -> None:
    op.create_table(
        "sessions",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("digest", "user_id")),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("created_at", "expires_at")),
        sa.PrimaryKeyConstraint("digest", name="pk_sessions"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "tokens",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("id", "digest", "name", *_SCOPE, "role")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True)) for name in ("expires_at", "revoked_at", "used_at")),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_index("ix_tokens_scope", "tokens", [*_SCOPE])
    op.create_table(
        "links",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("digest", "user_id", "purpose")),
        sa.Column("email", sa.Text),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_links"),
    )
    op.create_index("ix_links_user_id", "links", ["user_id"])
