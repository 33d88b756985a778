"""Answers kept under idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table of kept answers."""
    op.create_table(
        "kept_answers",
        sa.Column("position", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_kept_answers_project_id"),
        sa.PrimaryKeyConstraint("position", name="pk_kept_answers"),
        sa.UniqueConstraint(
            "project_id", "route", "key", name="uq_kept_answers_project_id_route_key"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_kept_answers_project_id_subject",
        "kept_answers",
        ["project_id", "subject"],
        unique=False,
    )
    op.create_index("ix_kept_answers_created_at", "kept_answers", ["created_at"], unique=False)
