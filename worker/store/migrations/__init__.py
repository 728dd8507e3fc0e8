"""The schema's history; `worker.store.schema` runs it, nobody needs Alembic's own command."""
