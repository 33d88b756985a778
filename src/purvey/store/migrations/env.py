"""Alembic's entry: runs the migrations on the connection that `schema.migrate` hands over.

To write a new one, add `versions/vNNNN_<what>.py` by hand and list its number in
`schema.KNOWN_VERSIONS`; the tests compare the result with `tables.METADATA`.
"""

from alembic import context

from purvey.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # SQLite can; all or nothing is the caller's transaction
)
with context.begin_transaction():
    context.run_migrations()
