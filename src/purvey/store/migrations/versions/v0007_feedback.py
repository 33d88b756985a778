"""Feedback on answers, and versions of datasets."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the table of feedback; every dataset that is there is the first version of its own."""
    op.add_column("datasets", sa.Column("parent", sa.String(), nullable=True))
    op.add_column("datasets", sa.Column("family", sa.String(), nullable=True))
    op.add_column(
        "datasets", sa.Column("version", sa.BigInteger(), nullable=False, server_default="1")
    )
    op.create_index("ix_datasets_project_id_family", "datasets", ["project_id", "family"])
    op.create_table(
        "feedback",
        sa.Column("position", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("input", sa.String(), nullable=True),
        sa.Column("output", sa.String(), nullable=True),
        sa.Column("rating", sa.String(), nullable=True),
        sa.Column("correction", sa.String(), nullable=True),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_feedback_project_id"),
        sa.PrimaryKeyConstraint("position", name="pk_feedback"),
        sa.UniqueConstraint("id", name="uq_feedback_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_feedback_project_id_position", "feedback", ["project_id", "position"])
    op.create_index("ix_feedback_project_id_model", "feedback", ["project_id", "model"])
