"""Marks on usage that is estimated."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the mark to the ledger; rows that are there were counted."""
    op.add_column(
        "usage_ledger",
        sa.Column("is_estimated", sa.BigInteger(), nullable=False, server_default="0"),
    )
