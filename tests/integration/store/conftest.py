"""A store on each kind of database: a SQLite file, and a database of a real PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.store.samples import KEY
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'postbote.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[ConfigStore]:
    """An open store with an upgraded schema."""
    opened = ConfigStore(url, SecretBox([KEY]))
    await opened.database.upgrade()
    await opened.open()
    yield opened
    await opened.close()
