"""One furnished data folder for all tests of the whole API, and a running copy of it for each."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.api_whole.whole import Furnished, Whole, a_copy, furnish


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Furnished:
    folder = tmp_path_factory.mktemp("whole") / "data"
    return asyncio.run(furnish(folder))


@pytest.fixture
async def whole(furnished: Furnished, tmp_path: Path) -> AsyncIterator[Whole]:
    async with a_copy(furnished, tmp_path / "data") as running:
        yield running
