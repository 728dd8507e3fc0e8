"""What is noted in mapped memory outlives a kill, until it is committed, as far as there is room."""

import errno
import mmap
import os
import signal
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.journal import RESERVE_OCTETS
from worker.journal import ahead
from worker.journal.ahead import Ahead, read_ahead
from worker.journal.entry import JournalEntry
from worker.journal.journal import Journal


def entry(name: str, octets: int = 10) -> JournalEntry:
    return JournalEntry(name, "2026.11", b"x" * octets)


def names(path: Path, after: int = 0) -> list[str]:
    return [each.document_id for each in read_ahead(path, after)]


def journal_files_beside(folder: Path) -> list[Path]:
    return list(folder.glob("*.ahead"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.ahead"


def test_what_was_noted_by_a_process_that_was_killed_is_there_as_it_was(path: Path) -> None:
    child = os.fork()
    if child == 0:
        pages = Ahead(path)
        for number in range(1, 4):
            pages.note(number, entry(f"d\u00e9-{number}", 100 * number), 0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert read_ahead(path, 0) == [entry(f"d\u00e9-{number}", 100 * number) for number in range(1, 4)]
    assert names(path, after=2) == ["d\u00e9-3"]


def test_where_all_is_committed_it_begins_anew(path: Path) -> None:
    pages = Ahead(path)
    pages.note(1, entry("a"), 0)
    pages.note(2, entry("b"), 0)
    pages.settle(1)
    assert names(path) == ["a", "b"]
    pages.settle(2)
    assert names(path) == []
    pages.note(3, entry("c"), 2)
    assert names(path) == ["c"]


def test_a_half_is_used_again_when_its_entries_are_committed_and_not_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "HALF_OCTETS", 4096)
    pages = Ahead(path)
    for number in range(1, 9):
        pages.note(number, entry(str(number), 900), 0)
    assert names(path) == list("12345678")
    pages.note(9, entry("9", 900), 3)  # of the first half the last is not committed
    assert names(path) == list("12345678")
    pages.note(10, entry("10", 900), 4)
    assert names(path, after=4) == ["5", "6", "7", "8", "10"]


def test_what_is_larger_than_a_half_is_left_to_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "HALF_OCTETS", 4096)
    pages = Ahead(path)
    pages.note(1, entry("large", 5000), 0)
    pages.note(2, entry("small"), 0)
    assert names(path) == ["small"]


@pytest.mark.parametrize("cut", [1, 10, 60, 105])
def test_a_record_that_a_kill_has_cut_short_costs_itself_alone(path: Path, cut: int) -> None:
    pages = Ahead(path)
    pages.note(1, entry("whole"), 0)
    before = path.read_bytes().rstrip(b"\0")
    pages.note(2, entry("torn", 80), 0)
    after = path.read_bytes().rstrip(b"\0")
    pages.close()
    path.write_bytes(after[: len(after) - cut].ljust(2 * ahead.HALF_OCTETS, b"\0"))
    assert len(after) - len(before) > cut
    assert names(path) == ["whole"]


def test_a_disk_without_room_for_it_says_so_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Ahead(path)


def test_where_nobody_noted_anything_there_is_nothing(path: Path) -> None:
    assert read_ahead(path, 0) == []


async def test_a_file_system_that_maps_no_files_keeps_its_journal_and_says_once_what_that_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmapped(*_: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(mmap, "mmap", unmapped)
    journal = Journal(tmp_path, worker_id="w1", reserve_octets=RESERVE_OCTETS)
    with capture_logs() as logs:
        await journal.open()
        await journal.append([entry("a")])
        await journal.append([entry("b")])
        assert journal.holds(["a", "b"]) == {"a", "b"}
        await journal.close()
    assert [each["event"].partition(":")[2][:32] for each in logs] == [" this file system maps no files:"]
    assert journal_files_beside(tmp_path) == []
