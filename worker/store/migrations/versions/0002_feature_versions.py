"""A version for each org's feature, so that readers of the config topic know the newer of two messages."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; what was turned on already has its first version."""
    op.add_column("features", sa.Column("version", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE features SET version = 1 WHERE org_smtp")


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("features", "version")
