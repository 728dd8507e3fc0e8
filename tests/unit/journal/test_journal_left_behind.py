"""What is found of dead workers, and what happens to files that are no journals."""

import shutil
import sqlite3

import pytest
import structlog

from tests.support.journal import play
from tests.support.journal_processes import entry
from worker.journal.left_behind import ship_left_behind

COUNT = 1203


class Shipped:
    def __init__(self, failing_at: int | None = None) -> None:
        self.sizes: list[int] = []
        self.ids: list[str] = []
        self._failing_at = failing_at

    async def __call__(self, entries):
        if len(self.sizes) == self._failing_at:
            raise ConnectionError("no OpenSearch")
        assert all(each == entry(each.document_id) for each in entries)
        self.sizes.append(len(entries))
        self.ids += [each.document_id for each in entries]


def others(folder, journal_file):
    """Names in the folder that are not the living journal's."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(journal_file))


@pytest.fixture
def folder(tmp_path, journal):
    return tmp_path / "journals"


@pytest.fixture
def own(folder, journal) -> str:
    return next(folder.glob("*.lock")).stem


async def test_a_dead_workers_entries_are_shipped_in_order_and_in_bounded_batches(journal, folder, own, leave_behind):
    leave_behind()
    shipped = Shipped()
    assert await ship_left_behind(journal, shipped) == COUNT
    assert shipped.ids == [f"left-{n}" for n in range(COUNT)]
    assert shipped.sizes == [500, 500, 203]
    assert others(folder, own) == []


async def test_what_no_file_has_yet_follows_its_rows_in_batches_as_bounded(journal, folder, own):
    play("leave", folder, 3, 1200)
    shipped = Shipped()
    assert await ship_left_behind(journal, shipped) == 1203
    assert shipped.ids == [f"left-{n}" for n in range(1203)]
    assert shipped.sizes == [3, 500, 500, 200]
    assert others(folder, own) == []


async def test_what_was_ahead_of_a_broken_file_is_shipped(journal, folder, own):
    play("leave", folder, 3, 20)
    tear_everything(next(path for path in folder.glob("*.db") if path.stem != own))
    shipped = Shipped()
    assert await ship_left_behind(journal, shipped) == 20
    assert shipped.ids == [f"left-{n}" for n in range(3, 23)]
    assert all(name.endswith(".broken") for name in others(folder, own))


async def test_an_orphan_says_whose_it_was(journal, leave_behind):
    leave_behind()
    seen = [(orphan.worker_id, len(await orphan.read())) async for orphan in journal.left_behind()]
    assert seen == [("the-dead-one", 500)]


async def test_a_file_stays_whole_until_all_of_it_is_shipped(journal, leave_behind):
    leave_behind()
    with pytest.raises(ConnectionError):
        await ship_left_behind(journal, Shipped(failing_at=2))
    second = Shipped()
    assert await ship_left_behind(journal, second) == COUNT


async def test_the_journal_at_hand_is_nobodys_orphan(journal):
    await journal.append([entry("mine")])
    assert await ship_left_behind(journal, Shipped()) == 0
    assert journal.holds(["mine"]) == {"mine"}


def tear_everything(database):
    database.write_bytes(b"\x00garbage\xff" * 4000)
    database.with_name(database.name + "-wal").unlink()


def tear_pages(database):
    """Checkpointed, then every page but the first overwritten."""
    sqlite3.connect(database).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa7" * (size - 4096))


def make_foreign(database):
    database.unlink()
    database.with_name(database.name + "-wal").unlink(missing_ok=True)
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE something_else (x)")
    other.close()


@pytest.mark.parametrize("tear", [tear_everything, tear_pages, make_foreign])
async def test_a_broken_file_is_set_aside_and_blocks_nothing(journal, folder, own, leave_behind, tear):
    database = leave_behind()
    for suffix in ("", "-wal"):
        shutil.copy(f"{database}{suffix}", folder / f"journal-zz.db{suffix}")
    tear(database)
    shipped = Shipped()
    with structlog.testing.capture_logs() as logs:
        assert await ship_left_behind(journal, shipped) == COUNT
        assert await ship_left_behind(journal, Shipped()) == 0
    errors = [each for each in logs if each["log_level"] == "error"]
    assert [each["event"] for each in errors] == ["journal is broken and was set aside"]
    assert f"{database.name}.broken" in others(folder, own)
    assert all(name.endswith(".broken") for name in others(folder, own))


async def test_what_can_be_read_of_a_torn_file_is_shipped_before_it_is_set_aside(journal, folder, own, leave_behind):
    database = leave_behind()
    sqlite3.connect(database).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(size * 9 // 10 // 4096 * 4096)
        file.write(b"\xa7" * 4096 * 3)
    shipped = Shipped()
    with structlog.testing.capture_logs() as logs:
        found = await ship_left_behind(journal, shipped)
    assert 500 <= found < COUNT
    assert [each["log_level"] for each in logs].count("error") == 2
    assert others(folder, own) == [f"{database.stem}.ahead.broken", f"{database.name}.broken"]


async def test_a_torn_end_of_the_wal_costs_only_what_was_not_committed(journal, folder, own, leave_behind):
    database = leave_behind()
    wal = database.with_name(database.name + "-wal")
    with wal.open("ab") as file:
        file.write(b"\x00" * 5000)
    assert await ship_left_behind(journal, Shipped()) == COUNT
    assert others(folder, own) == []


@pytest.mark.parametrize("leftover", ["journal-77.db", "journal-77.lock"])
async def test_empty_leftovers_are_removed(journal, folder, own, leftover):
    (folder / leftover).write_bytes(b"")
    assert await ship_left_behind(journal, Shipped()) == 0
    assert others(folder, own) == []


async def test_a_file_that_another_program_reads_is_left_for_later(journal, folder, leave_behind, monkeypatch):
    monkeypatch.setattr("worker.journal.file._BUSY_TIMEOUT_S", 0.01)
    database = leave_behind()
    reader = sqlite3.connect(database)
    reader.execute("BEGIN IMMEDIATE")
    with structlog.testing.capture_logs() as logs:
        assert await ship_left_behind(journal, Shipped()) == 0
    assert logs[0]["event"] == "journal is left where it is"
    reader.close()
    assert await ship_left_behind(journal, Shipped()) == COUNT


async def test_other_files_are_not_touched(journal, folder, own):
    (folder / "notes.db").write_bytes(b"mine")
    (folder / "postbote.lock").write_bytes(b"")
    assert await ship_left_behind(journal, Shipped()) == 0
    assert others(folder, own) == ["notes.db", "postbote.lock"]
