"""Journals for the tests, open and left behind."""

import contextlib
import errno
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.journal import RESERVE_OCTETS, play
from worker.journal import own
from worker.journal.journal import Journal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """As usual: with memory that outlives the process ahead of the file."""
    async with opened(tmp_path) as mapped:
        yield mapped


@pytest.fixture
async def unmapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    """On a file system that maps no files: what is kept is committed."""
    map_nothing(monkeypatch)
    async with opened(tmp_path) as without:
        yield without


@pytest.fixture(params=["ahead of the file", "into the file"])
async def either(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Journal]:
    """One after the other, for what holds in both cases."""
    if request.param == "into the file":
        map_nothing(monkeypatch)
    async with opened(tmp_path) as one:
        yield one


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Journal]:
    journal = Journal(folder / "journals", worker_id="w1", reserve_octets=RESERVE_OCTETS)
    await journal.open()
    yield journal
    await journal.close()


def map_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmapped(*_: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(own, "Ahead", unmapped)


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
