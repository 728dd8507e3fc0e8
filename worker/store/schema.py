"""The schema's version: where a database stands, and bringing it to where this code stands.

Works on a connection that is in a transaction already; whoever opened that transaction commits
it, so that an upgrade happens whole or not at all.
"""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from worker.errors import StoreUnavailable

UPGRADE_COMMAND = "postbote db upgrade"

# Any number will do, as long as nothing else in the database locks the same one ("postbote").
_ADVISORY_LOCK = 0x706F7374626F7465


def upgrade(connection: Connection) -> None:
    """Run the steps that `connection`'s database lacks.

    SQLite's caller holds the write lock (BEGIN IMMEDIATE); on PostgreSQL an advisory lock makes
    a second upgrade wait here. Raises StoreUnavailable for a database from a newer Postbote.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    config = _config()
    _refuse_newer(_current(connection), ScriptDirectory.from_config(config))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check(connection: Connection) -> None:
    """Return if the database stands at this code's schema, else raise StoreUnavailable."""
    scripts = ScriptDirectory.from_config(_config())
    current = _current(connection)
    _refuse_newer(current, scripts)
    if current != scripts.get_current_head():
        msg = (
            f"the database has schema {current or 'none'}, this version needs "
            f"{scripts.get_current_head()}: run `{UPGRADE_COMMAND}`"
        )
        raise StoreUnavailable(msg)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "worker.store:migrations")
    return config


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(current: str | None, scripts: ScriptDirectory) -> None:
    if current is not None and current not in {step.revision for step in scripts.walk_revisions()}:
        msg = f"the database has schema {current}, which this version does not know: use a newer Postbote"
        raise StoreUnavailable(msg)
