"""SMTP records, their high-water versions, features of scopes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the three tables."""
    _create_smtp_configs()
    op.create_table(
        "config_versions",
        sa.Column("partner", sa.Text, nullable=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("partner", "org", "display_name", name="pk_config_versions"),
    )
    op.create_table(
        "features",
        sa.Column("partner", sa.Text, nullable=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("org_smtp", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("partner", "org", name="pk_features"),
    )


def downgrade() -> None:
    """Drop them, and every stored record with them."""
    for table in ("features", "config_versions", "smtp_configs"):
        op.drop_table(table)


def _create_smtp_configs() -> None:
    op.create_table(
        "smtp_configs",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("partner", sa.Text, nullable=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("tls", sa.Text, nullable=False),
        sa.Column("verify_tls", sa.Boolean, nullable=False),
        sa.Column("ca_bundle", sa.Text),
        sa.Column("username", sa.Text),
        sa.Column("secret", sa.Text),
        sa.Column("from_address", sa.Text),
        sa.Column("reply_to", sa.Text),
        sa.Column("allowed_from", sa.JSON, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("max_connections", sa.Integer, nullable=False),
        sa.Column("rate_per_minute", sa.Integer),
        sa.Column("timeout_s", sa.Float, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_smtp_configs"),
        sa.UniqueConstraint("partner", "org", "display_name", name="uq_smtp_configs_partner_org_display_name"),
    )
    op.create_index(
        "uq_smtp_configs_one_default",
        "smtp_configs",
        ["partner", "org"],
        unique=True,
        sqlite_where=sa.text("is_default"),
        postgresql_where=sa.text("is_default"),
    )
