"""The journal on disks that are full or read-only, and under many kills; mounts small file systems, so it needs root."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.disk import fill
from tests.support.journal import RESERVE_OCTETS, play
from worker.errors import JournalUnavailable
from worker.journal.entry import JournalEntry
from worker.journal.journal import Journal
from worker.journal.left_behind import ship_left_behind

DOCUMENT = b"x" * 1000
ALL = [f"entry-{n}" for n in range(4000)]


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "journal-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"a small disk cannot be mounted here (root is needed): {done.stderr}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two MiB beside what is mapped ahead of the file."""
    yield from mounted(tmp_path / "small", "size=3m")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "ro", "size=2m,ro")


def entries(start: int, count: int = 20) -> list[JournalEntry]:
    return [JournalEntry(f"entry-{n}", "2026.11", DOCUMENT) for n in range(start, start + count)]


async def append_until_full(journal: Journal) -> set[str]:
    """Returns the ids whose append returned."""
    kept: set[str] = set()

    async def append_all() -> None:
        for start in range(0, len(ALL), 20):
            await journal.append(entries(start))
            kept.update(each.document_id for each in entries(start))

    with pytest.raises(JournalUnavailable, match="journal: disk is full"):
        await append_all()
    return kept


async def shipped_from(folder: Path) -> set[str]:
    found: set[str] = set()

    async def ship(batch):
        found.update(each.document_id for each in batch)

    following = Journal(folder, worker_id="next", reserve_octets=RESERVE_OCTETS)
    await following.open()
    await ship_left_behind(following, ship)
    await following.close()
    return found


async def test_a_full_disk_is_told_and_loses_nothing_that_was_committed(small_disk):
    """DESIGN section 6, number 1."""
    folder = small_disk / "journals"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"b" * 1_200_000)
    journal = Journal(folder, worker_id="w", reserve_octets=RESERVE_OCTETS)
    await journal.open()
    kept = await append_until_full(journal)
    assert journal.failing.startswith("journal: disk is full: ")
    held = journal.holds(ALL)
    assert held >= kept
    waiting = asyncio.create_task(journal.writable())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.shield(waiting)
    ballast.unlink()
    async with asyncio.timeout(30):
        await waiting
    assert journal.failing is None
    await journal.append(entries(5000))
    await journal.close()
    assert await shipped_from(folder) == held | {each.document_id for each in entries(5000)}


async def test_a_disk_that_the_journal_itself_has_filled_is_free_once_all_is_forgotten(small_disk):
    journal = Journal(small_disk / "journals", worker_id="w", reserve_octets=RESERVE_OCTETS)
    await journal.open()
    kept = await append_until_full(journal)
    assert len(kept) >= 200
    journal.forget(ALL)
    async with asyncio.timeout(30):
        await journal.writable()
    await journal.append(entries(5000))
    await journal.close()
    assert await shipped_from(small_disk / "journals") == {each.document_id for each in entries(5000)}


async def test_a_worker_that_starts_on_a_full_disk_ships_what_was_left_behind(small_disk):
    folder = small_disk / "journals"
    dead = Journal(folder, worker_id="dead", reserve_octets=RESERVE_OCTETS)
    await dead.open()
    kept = await append_until_full(dead)
    await dead.close()
    (small_disk / "ballast").write_bytes(b"")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(b"b" * 3_200_000)
    journal = Journal(folder, worker_id="starting", reserve_octets=RESERVE_OCTETS)
    await journal.open()
    assert journal.failing.startswith("journal: disk is full: ")
    found: set[str] = set()

    async def ship(batch):
        found.update(each.document_id for each in batch)

    await ship_left_behind(journal, ship)
    assert found >= kept  # and what found no room: it was noted in mapped memory before that
    async with asyncio.timeout(30):
        await journal.writable()
    await journal.append(entries(0))
    journal.forget(each.document_id for each in entries(0))
    await journal.close()
    assert list(folder.iterdir()) == []


async def test_what_is_under_way_when_the_disk_fills_up_is_kept_and_shipped_from_the_full_disk(small_disk):
    """DESIGN section 6, numbers 1 and 2."""
    folder = small_disk / "journals"
    journal = Journal(folder, worker_id="w", reserve_octets=RESERVE_OCTETS)
    await journal.open()
    await journal.append(entries(0))
    fill(small_disk)
    await journal.append(entries(100))
    await journal.append(entries(200))
    async with asyncio.timeout(30):
        assert await journal.fails() == "journal: disk is full: its reserve is used for what is under way"
    await journal.close()
    under_way = {each.document_id for start in (0, 100, 200) for each in entries(start)}
    assert await shipped_from(folder) == under_way


async def test_a_read_only_disk_is_a_clear_error_at_the_start(read_only_disk):
    with pytest.raises(JournalUnavailable, match=r"journal: .*/journals: cannot be written: Read-only file system"):
        await Journal(read_only_disk / "journals", worker_id="w", reserve_octets=RESERVE_OCTETS).open()


def test_120_kills_lose_nothing(tmp_path):
    """DESIGN section 6, numbers 1 and 2."""
    found = play("kills", tmp_path / "journals", 120, 5)
    assert (found["kills"], found["lost"], found["torn"], found["files"]) == (120, [], 0, [])
    assert found["appended"] > 1000


def test_of_several_workers_that_start_at_once_exactly_one_ships_each_journal(tmp_path):
    found = play("race", tmp_path / "journals", 8, 4)
    assert (found["left"], found["files"]) == (8, [])
    shipped = [each for one in found["shipped"] for each in one]
    assert sorted(shipped) == sorted(f"{owner}-{turn}" for owner in range(8) for turn in range(1200))
    assert sum(bool(one) for one in found["shipped"]) > 1, "nobody raced"


def test_no_growth_after_200_000_entries_and_a_bounded_cost_for_each(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.journal", "--entries", "200000", "--folder", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    (figures,) = json.loads(done.stdout)
    assert figures["entries"] == 200_000
    assert figures["largest_mib"] < 16  # half of them are the reserve
    assert figures["rss_growth_mib"] < 10
    assert figures["left_over_files"] == 0
