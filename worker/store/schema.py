"""The schema's version: where a database stands, and bringing it to where this code stands.

Works on a connection that is in a transaction already; whoever opened that transaction commits
it, so that an upgrade happens whole or not at all.
"""

import pkgutil
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from worker.errors import StoreUnavailable
from worker.store.migrations import versions

if TYPE_CHECKING:  # 7 MiB, and a database that stands where it should does without
    from alembic.config import Config

UPGRADE_COMMAND = "postbote db upgrade"
_VERSION_TABLE = "alembic_version"

# Any number will do, as long as nothing else in the database locks the same one ("postbote").
_ADVISORY_LOCK = 0x706F7374626F7465


def upgrade(connection: Connection) -> None:
    """Run the steps that `connection`'s database lacks.

    SQLite's caller holds the write lock (BEGIN IMMEDIATE); on PostgreSQL an advisory lock makes
    a second upgrade wait here. Raises StoreUnavailable for a database from a newer Postbote.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    current = _current(connection)
    _refuse_newer(current)
    if current != _head():
        _run_steps(connection)


def _run_steps(connection: Connection) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check(connection: Connection) -> None:
    """Return if the database stands at this code's schema, else raise StoreUnavailable."""
    current = _current(connection)
    _refuse_newer(current)
    if current != _head():
        msg = f"the database has schema {current or 'none'}, this version needs {_head()}: run `{UPGRADE_COMMAND}`"
        raise StoreUnavailable(msg)


def revisions() -> list[str]:
    """The steps that this code knows, oldest first: each module's name begins with its revision."""
    return sorted(module.name.partition("_")[0] for module in pkgutil.iter_modules(versions.__path__))


def _head() -> str:
    return revisions()[-1]


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "worker.store:migrations")
    return config


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    # Alembic's own table; it has one row, or none before the first step.
    found = connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}"))  # noqa: S608 # a constant
    current: str | None = found.scalar_one_or_none()
    return current


def _refuse_newer(current: str | None) -> None:
    if current is not None and current not in revisions():
        msg = f"the database has schema {current}, which this version does not know: use a newer Postbote"
        raise StoreUnavailable(msg)
