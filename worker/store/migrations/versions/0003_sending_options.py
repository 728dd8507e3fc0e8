"""What a record says of BDAT, REQUIRETLS and DKIM; the signing key is sealed like the password."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; records that are there already do without all of it."""
    for flag in ("chunking", "require_tls"):
        op.add_column("smtp_configs", sa.Column(flag, sa.Boolean, nullable=False, server_default=sa.false()))
    for text in ("dkim_domain", "dkim_selector", "dkim_secret"):
        op.add_column("smtp_configs", sa.Column(text, sa.Text))


def downgrade() -> None:
    """Drop them, and every signing key with them."""
    for column in ("chunking", "require_tls", "dkim_domain", "dkim_selector", "dkim_secret"):
        op.drop_column("smtp_configs", column)
