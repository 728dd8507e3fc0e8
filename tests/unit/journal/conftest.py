"""Journals for the tests, open and left behind."""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.journal import RESERVE_OCTETS, play
from worker.journal.journal import Journal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path / "journals", worker_id="w1", reserve_octets=RESERVE_OCTETS)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def _dead_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dead") / "journals"
    play("leave", folder, 1203)
    return folder


@pytest.fixture
def leave_behind(_dead_journal: Path, tmp_path: Path) -> Callable[[], Path]:
    """Put the journal of a killed worker, of 1,203 entries, into `tmp_path/journals`; returns its database."""

    def leave() -> Path:
        folder = tmp_path / "journals"
        shutil.copytree(_dead_journal, folder, dirs_exist_ok=True)
        return next(folder / path.name for path in _dead_journal.glob("*.db"))

    return leave
