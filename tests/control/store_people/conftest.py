"""A store of people on a SQLite file, with a clock that stands still."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.store_people.people_samples import Clock
from tests.support.databases import upgraded
from worker.store.database import Store
from worker.store.people import PeopleStore


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'postbote.db'}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def people(url: str, clock: Clock) -> AsyncIterator[PeopleStore]:
    database = Store(url)
    await upgraded(database)
    yield PeopleStore(database, now=clock)
    await database.close()
