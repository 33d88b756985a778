"""Seconds of recordings in the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the unit to the ledger; rows that are there heard nothing."""
    op.add_column(
        "usage_ledger",
        sa.Column("audio_s", sa.Float(), nullable=False, server_default="0"),
    )
