"""Alembic's entry: runs the steps on the connection, and in the transaction, that it is handed."""

from alembic import context

import worker.store.models_people  # noqa: F401 # its tables join the same metadata
from worker.store.models import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter a column in place: later steps get Alembic's copy-and-move there.
    render_as_batch=True,
)
context.run_migrations()
