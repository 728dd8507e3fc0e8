"""Who there is, opened by the settings. Part of the composition root (see ``app``)."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from worker.control.mails import Mails
from worker.settings import Settings

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second to import: only the commands that need it wait for it
    from worker.store.people import PeopleStore


@contextlib.asynccontextmanager
async def open_people(settings: Settings) -> AsyncIterator["PeopleStore"]:
    """Open the store of people; a SQLite file is created and brought up to date.

    Raises StoreUnavailable, for a PostgreSQL with an older schema naming the command that upgrades it.
    """
    from worker.store.database import Store
    from worker.store.people import PeopleStore

    database = Store(settings.database_url)
    try:
        if database.is_sqlite:
            await database.upgrade()
        await database.check_schema()
        yield PeopleStore(database)
    finally:
        await database.close()


def mails(settings: Settings) -> Mails:
    """The control plane's mails, whose links lead to where the settings say that users reach the API."""
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    return Mails((settings.public_url or f"http://{host}:{settings.http_port}").rstrip("/"))
