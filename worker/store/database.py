"""The database behind the store: its address, its transactions, and its errors translated.

SQLite by file (in WAL mode, one writer at a time) or PostgreSQL. Whatever the driver raises
leaves here as `StoreUnavailable`, in one line and without the address's password.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random

from worker.errors import SettingsError, StoreUnavailable
from worker.store import schema

SETTING = "POSTBOTE_DATABASE_URL"
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_FORMS = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
_BUSY_TIMEOUT_S = 10.0  # how long SQLite waits for another process's write, which takes milliseconds
_CONNECT_TIMEOUT_S = 10
_UPGRADE_PATIENCE_S = 60.0  # another process may be moving a large table
# A server that is frozen, or behind a link that swallows everything, would be waited for until TCP gives up, which
# may be never. psycopg takes up to 10 s more, in which it asks the server to cancel.
PATIENCE_S = 60.0
_ONE_STATE = "REPEATABLE READ"  # by default, each statement on PostgreSQL sees what was committed before it
_BEGIN = "postbote_begin"


class Store:
    """One database: reading and writing transactions, and its schema.

    Nothing is opened before the first use; `close` ends the connections, and a later use opens
    new ones. Raises SettingsError for an address that names no database of a known kind.
    """

    def __init__(self, url: str) -> None:
        """Take the address, as `POSTBOTE_DATABASE_URL` spells it."""
        self._url = _read_url(url)
        self._engine = _make_engine(self._url)

    def __repr__(self) -> str:
        """Name the database, without user or password."""
        return f"Store({self.location})"

    @property
    def is_sqlite(self) -> bool:
        """True for a SQLite file, which belongs to this host alone and may be upgraded at start."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def exists(self) -> bool:
        """False where a SQLite file is not there: connecting to it would leave an empty one behind."""
        return not self.is_sqlite or Path(self.location).exists()

    @property
    def location(self) -> str:
        """Where the records are, for people: never a user or a password."""
        if self.is_sqlite:
            return str(self._url.database)
        return f"{self._url.host or 'local'}/{self._url.database or ''}"

    @asynccontextmanager
    async def reading(self, patience_s: float = PATIENCE_S) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state of the database.

        Raises StoreUnavailable, also where a server has not answered all of it within `patience_s` seconds.
        """
        with self._translated():
            async with self._within(patience_s), self._engine.connect() as connection:
                if not self.is_sqlite:
                    await connection.execution_options(isolation_level=_ONE_STATE)
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes, committed on leaving; raises StoreUnavailable."""
        with self._translated():
            async with self._within(PATIENCE_S), self._engine.connect() as connection:
                # SQLite: take the write lock at once. A read that turns into a write cannot wait
                # for another writer, because its snapshot would be out of date by then.
                await connection.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
                async with connection.begin():
                    yield connection

    async def upgrade(self) -> None:
        """Create the schema or bring it up to date; safe in several processes at once.

        Raises StoreUnavailable, also where the database was written by a newer Postbote.
        """
        if self.is_sqlite:
            self._create_private_file()
        with self._translated():
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_is_locked),
                stop=stop_after_delay(_UPGRADE_PATIENCE_S),
                wait=wait_random(0.02, 0.2),
                reraise=True,
            ):
                with attempt:
                    await self._upgrade_once()

    async def check_schema(self) -> None:
        """Return if the schema is this version's; else raise StoreUnavailable naming the remedy."""
        if not self.exists:
            msg = f"there is no database at {self.location}: create it with `{schema.UPGRADE_COMMAND}`"
            raise StoreUnavailable(msg)
        async with self.reading() as connection:
            await connection.run_sync(schema.check)

    async def close(self) -> None:
        """End every connection."""
        await self._engine.dispose()

    async def _upgrade_once(self) -> None:
        async with self._engine.connect() as connection:
            if self.is_sqlite:
                await _use_wal(connection)
            await connection.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
            async with connection.begin():
                await connection.run_sync(schema.upgrade)

    def _create_private_file(self) -> None:
        # Its secrets are sealed, but hosts and user names are nobody else's business either.
        path = Path(self.location)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
        except OSError as error:
            msg = f"cannot create the database {path}: {error.strerror}"
            raise StoreUnavailable(msg) from error

    def _within(self, seconds: float) -> asyncio.Timeout:
        # A file has no server that could keep silent, and waits for locks by a limit of its own.
        return asyncio.timeout(None if self.is_sqlite else seconds)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            msg = f"the database at {self.location} cannot be used: it does not answer"
            raise StoreUnavailable(msg) from error
        except (DBAPIError, PoolTimeout) as error:
            msg = f"the database at {self.location} cannot be used: {_reason(error)}"
            raise StoreUnavailable(msg) from error


def _read_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        msg = f"{SETTING}: not a database address; expected {_FORMS}"
        raise SettingsError(msg) from None
    if url.drivername not in _DRIVERS:
        msg = f"{SETTING}: {url.drivername} is not supported; expected {_FORMS}"
        raise SettingsError(msg)
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite" and (not url.database or url.database.startswith((":", "file:"))):
        # Connections could not share a database in memory, nor could processes.
        msg = f"{SETTING}: SQLite needs a plain file name; expected {_FORMS}"
        raise SettingsError(msg)
    return url


def _make_engine(url: URL) -> AsyncEngine:
    sqlite = url.get_backend_name() == "sqlite"
    # A PostgreSQL made without a locale has no encoding of its own: psycopg would answer in bytes.
    remote = {"connect_timeout": _CONNECT_TIMEOUT_S, "client_encoding": "utf8"}
    connect_args: dict[str, Any] = {"timeout": _BUSY_TIMEOUT_S} if sqlite else remote
    engine = create_async_engine(
        url,
        connect_args=connect_args,
        hide_parameters=True,  # an error's text must not quote a record
        pool_pre_ping=not sqlite,
        pool_timeout=_CONNECT_TIMEOUT_S,
    )
    if sqlite:
        event.listen(engine.sync_engine, "connect", _erase_what_is_deleted)
        event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _erase_what_is_deleted(connection: DBAPIConnection, _record: object) -> None:
    # A mail that has gone out held a link that lets its reader in: left alone, SQLite forgets only where it stood.
    cursor = connection.cursor()
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # Left alone, the driver begins late, and not at all before DDL: no transaction to build on.
    statement = connection.get_execution_options().get(_BEGIN, "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)


async def _use_wal(connection: AsyncConnection) -> None:
    # The mode is kept in the file, and can be set outside a transaction only.
    await connection.execution_options(**{_BEGIN: ""})
    await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    await connection.rollback()


def _is_locked(error: BaseException) -> bool:
    # Two processes that switch a new file to WAL at once do not wait for each other as writers do.
    return isinstance(error, DBAPIError) and "database is locked" in str(error.orig)


def _reason(error: SQLAlchemyError) -> str:
    said = str(error.orig if isinstance(error, DBAPIError) else error)
    return (said.splitlines() or [type(error).__name__])[0]
