"""A store of people on a database of a real PostgreSQL, with a clock that stands still."""

from collections.abc import AsyncIterator

import pytest

from tests.control.store_people.people_samples import Clock
from worker.store.database import Store
from worker.store.people import PeopleStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def people(postgres_url: str, clock: Clock) -> AsyncIterator[PeopleStore]:
    database = Store(postgres_url)
    await database.upgrade()
    yield PeopleStore(database, now=clock)
    await database.close()
