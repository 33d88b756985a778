"""Numbered, forward-only changes of the schema, run by Alembic."""
