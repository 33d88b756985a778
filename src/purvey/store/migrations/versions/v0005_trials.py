"""Trials of sweeps."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table of trials."""
    op.create_table(
        "trials",
        sa.Column("position", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("sweep_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("parameters", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("stopped", sa.String(), nullable=True),
        sa.Column("artifact", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["sweep_id"], ["jobs.id"], name="fk_trials_sweep_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_trials_job_id"),
        sa.PrimaryKeyConstraint("position", name="pk_trials"),
        sa.UniqueConstraint("sweep_id", "number", name="uq_trials_sweep_id_number"),
        sa.UniqueConstraint("job_id", name="uq_trials_job_id"),
        sqlite_autoincrement=True,
    )
