"""A store on a SQLite file, opened for a test and closed after it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.store.samples import KEY
from tests.support.databases import upgraded
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'postbote.db'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[ConfigStore]:
    opened = ConfigStore(url, SecretBox([KEY]))
    await upgraded(opened.database)
    await opened.open()
    yield opened
    await opened.close()
