"""Appending, forgetting, what is held, and what stays on the disk."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from tests.support.journal import RESERVE_OCTETS
from tests.support.journal_processes import entry
from worker.errors import JournalUnavailable
from worker.journal import ahead as ahead_module
from worker.journal import journal as journal_module
from worker.journal.ahead import read_ahead
from worker.journal.entry import JournalEntry
from worker.journal.file import JournalFile
from worker.journal.journal import Journal
from worker.journal.left_behind import ship_left_behind
from worker.journal.own import OwnJournal


async def found_by_the_next(folder: Path) -> list[str]:
    found: list[str] = []

    async def ship(entries):
        assert all(each == entry(each.document_id) for each in entries)
        found.extend(each.document_id for each in entries)

    following = Journal(folder, worker_id="next")
    await following.open()
    assert await ship_left_behind(following, ship) == len(found)
    await following.close()
    return found


FULL = OSError(28, "No space left on device")


def failing_with(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def sized(name: str, octets: int) -> JournalEntry:
    return JournalEntry(name, "2026.11", b"x" * octets)


async def until(come: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not come():
            await asyncio.sleep(0)


@pytest.fixture
def writes(monkeypatch) -> list[tuple[int, int]]:
    """(rows, deletions) of each transaction."""
    seen: list[tuple[int, int]] = []
    write = JournalFile.write

    def watched(self, cells, forgotten):
        seen.append((len(cells) // 4, len(forgotten)))
        write(self, cells, forgotten)

    monkeypatch.setattr(JournalFile, "write", watched)
    return seen


async def write(journal: Journal) -> None:
    """Have it write what there is now, and wait for that."""
    journal._write_now()
    await journal._thread.call(lambda _: None)


async def test_what_was_appended_is_held_and_found_by_the_next_worker(either, tmp_path):
    await either.append([entry("a"), entry("b")])
    assert either.holds(["a", "b", "c"]) == {"a", "b"}
    await either.close()
    assert await found_by_the_next(tmp_path / "journals") == ["a", "b"]


async def test_an_empty_append_is_done_at_once(either, writes):
    assert either.append([]).done()
    assert writes == []


class TestAheadOfTheFile:
    async def test_what_is_appended_is_kept_in_the_call_itself(self, journal, writes):
        assert journal.append([entry("a"), entry("b")]).done()
        assert journal.holds("abc") == {"a", "b"}
        assert writes == []

    async def test_what_is_forgotten_soon_is_never_written(self, journal, writes):
        await journal.append([entry(name) for name in "abcd"])
        journal.forget("abd")
        await write(journal)
        assert writes == [(2, 0)]  # "c" is held, and "d" the newest

    async def test_what_is_held_for_longer_is_written(self, journal, writes, monkeypatch):
        monkeypatch.setattr(journal_module, "WRITE_WITHIN_S", 0.01)
        await journal.append([entry("a")])
        await until(lambda: writes == [(1, 0)])

    async def test_a_journal_of_which_nothing_is_held_writes_nothing_more(self, journal, writes, monkeypatch):
        monkeypatch.setattr(journal_module, "WRITE_WITHIN_S", 0.01)
        await journal.append([entry("a")])
        journal.forget("a")
        await until(lambda: writes == [(1, 0)])
        await write(journal)
        assert journal._soon is None

    async def test_what_fills_half_of_the_memory_is_written_at_once(self, journal, writes, monkeypatch):
        monkeypatch.setattr(ahead_module, "HALF_OCTETS", 4096)
        monkeypatch.setattr(journal_module, "WRITE_WITHIN_S", 3600)
        appends = [journal.append([sized(f"{n}", 900)]) for n in range(5)]
        assert all(each.done() for each in appends)
        await until(lambda: writes == [(5, 0)])

    @pytest.mark.parametrize("large", [5000, 900], ids=["larger than a half", "both halves are full"])
    async def test_what_finds_no_room_there_is_kept_once_it_is_committed(self, journal, writes, monkeypatch, large):
        monkeypatch.setattr(ahead_module, "HALF_OCTETS", 4096)
        monkeypatch.setattr(journal, "_writing", large == 900)  # as if the disk took its time
        full = [journal.append([sized(f"{n}", 900)]) for n in range(8 if large == 900 else 0)]
        assert all(each.done() for each in full)
        late = journal.append([sized("late", large), entry("other")])
        assert not late.done()
        assert "late" not in journal.holds(["late"])
        journal._writing = False
        await write(journal)
        await late
        assert journal.holds(["late", "other"]) == {"late", "other"}
        assert writes[0] == (len(full) + 2, 0)

    async def test_what_comes_while_the_disk_takes_its_time_is_written_after_that(self, journal, writes, monkeypatch):
        monkeypatch.setattr(journal_module, "WRITE_WITHIN_S", 0.01)
        monkeypatch.setattr(journal, "_writing", True)
        await journal.append([entry("a")])
        await until(lambda: journal._soon is None)
        journal._writing = False
        await journal.append([entry("b")])
        await until(lambda: writes == [(2, 0)])

    async def test_a_row_that_is_replaced_and_forgotten_is_deleted(self, journal, writes, monkeypatch):
        await journal.append([entry("a")])
        await write(journal)
        monkeypatch.setattr(journal, "_writing", True)
        again = journal.append([entry("a")])
        journal.forget("a")
        await journal.append([entry("b")])
        journal._writing = False
        await write(journal)
        await again
        assert writes == [(1, 0), (1, 1)]

    async def test_of_a_file_that_begins_anew_nothing_is_ahead(self, journal, tmp_path):
        await journal.append([entry("a")])
        journal.forget("a")
        journal._fails("journal: disk is full")
        await journal.writable()
        assert read_ahead(next((tmp_path / "journals").glob("*.ahead")), 0) == []

    async def test_the_memory_begins_anew_where_all_is_written(self, journal, tmp_path):
        await journal.append([entry("a")])
        await write(journal)
        await asyncio.sleep(0)
        assert read_ahead(next((tmp_path / "journals").glob("*.ahead")), 0) == []


class TestIntoTheFile:
    """Where a file system maps no files."""

    async def test_what_arrives_during_a_commit_is_one_transaction(self, unmapped, writes):
        await asyncio.gather(*(unmapped.append([entry(f"{n}")]) for n in range(300)))
        assert sum(rows for rows, _ in writes) == 300
        assert len(writes) <= 2

    async def test_what_is_appended_reaches_the_disk_though_the_loop_is_busy(self, unmapped, writes):
        """A worker that is killed in a long turn of its loop has noted what the server said before it."""
        append = unmapped.append([entry("a")])  # this turn does not end before the rows are committed
        committed = threading.Event()
        unmapped._thread.post(lambda _: committed.set())
        assert committed.wait(5)
        assert writes == [(1, 0)]
        await append

    async def test_nothing_is_held_before_its_commit(self, unmapped, monkeypatch):
        seen = []
        own_write = OwnJournal.write

        def watched(self, cells, forgotten, *, empty):
            seen.append(unmapped.holds(["a"]))
            own_write(self, cells, forgotten, empty=empty)

        monkeypatch.setattr(OwnJournal, "write", watched)
        await unmapped.append([entry("a")])
        assert (seen, unmapped.holds(["a"])) == ([frozenset()], {"a"})

    async def test_forgotten_entries_are_gone_at_once_from_memory_and_soon_from_the_disk(
        self, unmapped, writes, monkeypatch
    ):
        monkeypatch.setattr(journal_module, "WRITE_WITHIN_S", 0.01)
        await unmapped.append([entry("a"), entry("b")])
        unmapped.forget(["a", "unknown"])
        assert unmapped.holds(["a", "b"]) == {"b"}
        await until(lambda: (0, 1) in writes)
        assert writes == [(2, 0), (0, 1)]

    async def test_forgotten_entries_ride_along_with_the_next_append(self, unmapped, writes):
        await unmapped.append([entry("a"), entry("b")])
        unmapped.forget(["a"])
        await unmapped.append([entry("c")])
        assert writes == [(2, 0), (1, 1)]

    async def test_many_forgotten_entries_do_not_wait(self, unmapped, writes, monkeypatch):
        monkeypatch.setattr(journal_module, "WRITE_WITHIN_S", 3600)
        await unmapped.append([entry(f"{n}") for n in range(600)])
        unmapped.forget(f"{n}" for n in range(600))
        await until(lambda: len(writes) == 2)
        assert writes == [(600, 0), (0, 599)]

    async def test_the_entry_of_a_cancelled_append_stays(self, unmapped, tmp_path):
        other = unmapped.append([entry("b")])
        cancelled = unmapped.append([entry("a")])
        await asyncio.sleep(0)
        cancelled.cancel()
        await other
        await unmapped.close()
        assert unmapped.holds("ab") == {"a", "b"}
        assert cancelled.cancelled()
        assert await found_by_the_next(tmp_path / "journals") == ["b", "a"]


async def test_the_newest_entry_stays_on_the_disk_until_another_is_there(either, writes):
    """By it, whoever finds the journal of a killed worker knows where its chain ended."""
    await either.append([entry("a"), entry("b")])
    await write(either)
    either.forget(["a", "b"])
    await write(either)
    await either.append([entry("c")])
    await write(either)
    assert [each for each in writes if each != (0, 0)] == [(2, 0), (0, 1), (1, 1)]
    assert either.holds(["a", "b", "c"]) == {"c"}


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ("+a -a +a", ["a"]),
        ("+a +a", ["a"]),
        ("+a +a -a", []),
        ("+a -a +a -a", []),
        ("+a +b -a +c +a -b", ["c", "a"]),
    ],
)
@pytest.mark.parametrize("awaited", [True, False], ids=["one after the other", "all at once"])
async def test_the_last_word_on_an_entry_counts(either, tmp_path, steps, left, awaited):
    journal = either
    appends = []
    for step in steps.split():
        if step[0] == "-":
            journal.forget([step[1]])
            continue
        appends.append(journal.append([entry(step[1])]))
        await (appends[-1] if awaited else asyncio.sleep(0))
    await asyncio.gather(*appends)
    assert journal.holds("abc") == set(left)
    await journal.close()
    assert await found_by_the_next(tmp_path / "journals") == left


async def test_pending_forgets_are_applied_by_closing(either, tmp_path):
    await either.append([entry("a"), entry("b")])
    either.forget(["a"])
    await either.close()
    assert await found_by_the_next(tmp_path / "journals") == ["b"]


async def test_a_journal_whose_entries_were_all_forgotten_leaves_no_file(either, tmp_path):
    await either.append([entry("a"), entry("b")])
    either.forget(["a", "b"])
    await either.close()
    await either.close()
    assert list((tmp_path / "journals").iterdir()) == []


async def test_a_closed_journal_says_so(journal):
    await journal.close()
    with pytest.raises(JournalUnavailable, match="journal: not open"):
        await journal.append([entry("a")])


async def test_nobody_else_may_read_the_addresses(journal, tmp_path):
    await journal.append([entry("a")])
    folder = tmp_path / "journals"
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys((".ahead", ".db", ".db-wal", ".lock", ".reserve"), 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_another_program_cannot_open_the_file_meanwhile(journal, tmp_path):
    database = next((tmp_path / "journals").glob("*.db"))
    intruder = sqlite3.connect(database, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        intruder.execute("SELECT * FROM entries")
    intruder.close()


async def test_a_folder_that_cannot_be_one_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnavailable, match=r"journal: .*/file/journals: cannot be written: Not a directory"):
        await Journal(tmp_path / "file" / "journals", worker_id="w").open()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "journal: disk is full: No space left on device"),
        (OSError(122, "Disk quota exceeded"), "journal: disk is full: Disk quota exceeded"),
        (OSError(5, "Input/output error"), "journal: cannot be written: Input/output error"),
        (RuntimeError("whatever"), "journal: cannot be written: whatever"),
    ],
)
class TestAFailure:
    async def test_is_told_to_those_who_wait_and_seen_from_outside(self, unmapped, monkeypatch, error, said):
        await unmapped.append([entry("kept")])
        with monkeypatch.context() as broken:
            broken.setattr(JournalFile, "write", failing_with(error))
            with pytest.raises(JournalUnavailable, match=said):
                await unmapped.append([entry("a"), entry("kept")])
        assert unmapped.failing == said
        assert unmapped.holds(["a", "kept"]) == {"kept"}
        await unmapped.append([entry("a")])
        await unmapped.writable()
        assert unmapped.failing is None
        assert unmapped.holds(["a", "kept"]) == {"a", "kept"}

    async def test_leaves_what_is_kept_ahead_of_the_file_and_it_is_written_when_that_works_again(
        self, journal, tmp_path, monkeypatch, error, said
    ):
        monkeypatch.setattr(journal_module, "WRITE_WITHIN_S", 0.01)
        with monkeypatch.context() as broken:
            broken.setattr(JournalFile, "write", failing_with(error))
            await journal.append([entry("a")])
            assert await journal.fails() == said
            await journal.append([entry("b")])
            assert journal.holds("ab") == {"a", "b"}
        await journal.writable()
        await journal.append([entry("c")])
        assert journal.failing is None
        await journal.close()
        assert await found_by_the_next(tmp_path / "journals") == ["a", "b", "c"]


async def test_what_is_under_way_when_the_disk_fills_up_goes_into_the_reserves_room(either, tmp_path, monkeypatch):
    reserve = next((tmp_path / "journals").glob("*.reserve"))
    assert reserve.stat().st_size == RESERVE_OCTETS
    file_write, told = JournalFile.write, asyncio.create_task(either.fails())
    with monkeypatch.context() as full:

        def fail_while_reserved(*arguments):
            if reserve.exists():
                raise OSError(28, "No space left on device")
            file_write(*arguments)

        full.setattr(JournalFile, "write", fail_while_reserved)
        await either.append([entry("a")])
        await either.append([entry("b")])
        assert await told == either.failing == "journal: disk is full: its reserve is used for what is under way"
    assert either.holds("ab") == {"a", "b"}
    await either.writable()
    assert either.failing is None
    assert reserve.stat().st_size == RESERVE_OCTETS


async def test_a_reserve_that_would_leave_no_room_is_not_taken(tmp_path):
    disk = os.statvfs(tmp_path)
    journal = Journal(tmp_path / "journals", worker_id="w", reserve_octets=disk.f_bavail * disk.f_frsize * 2)
    await journal.open()
    assert journal.failing == "journal: disk is full: No space left on device"
    assert list((tmp_path / "journals").glob("*.reserve")) == []
    await journal.close()


async def test_forgets_that_failed_are_written_later(either, tmp_path, monkeypatch):
    await either.append([entry("a"), entry("b")])
    await write(either)
    with monkeypatch.context() as broken:
        broken.setattr(JournalFile, "write", failing_with(FULL))
        either.forget(["a"])
        with contextlib.suppress(JournalUnavailable):
            await either.append([entry("c")])
        await either.fails()
    kept = sorted(either.holds("bc"))
    await either.close()
    assert await found_by_the_next(tmp_path / "journals") == kept


async def test_writable_tries_until_it_works_and_all_who_wait_learn_of_it(unmapped, monkeypatch):
    tries = []

    def fail(*_):
        tries.append(1)
        raise FULL

    with monkeypatch.context() as broken:
        broken.setattr(JournalFile, "write", fail)
        broken.setattr(JournalFile, "probe", fail)
        broken.setattr(journal_module, "_FIRST_PAUSE_S", 0.001)
        with pytest.raises(JournalUnavailable):
            await unmapped.append([entry("a")])
        waiting = [asyncio.create_task(unmapped.writable()) for _ in range(3)]
        await until(lambda: len(tries) >= 4)
        assert not any(each.done() for each in waiting)
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
    assert unmapped.failing is None


async def test_a_file_that_breaks_while_it_is_written_is_replaced(journal, tmp_path):
    folder = tmp_path / "journals"
    with structlog.testing.capture_logs() as logs:
        await journal.append([entry("a")])
        await write(journal)

        def wreck(own):
            own._opened()._db.execute("DROP TABLE entries")

        await journal._thread.call(wreck)
        await journal.append([entry("b")])
        assert (await journal.fails()).startswith("journal: file is broken: no such table")
        assert journal.holds("b") == frozenset()  # what was ahead of the file was set aside with it
        await journal.writable()
    await journal.append([entry("c")])
    await write(journal)
    assert journal.holds("abc") == {"a", "b", "c"}
    assert next(each["event"] for each in logs if each["log_level"] == "error") == "journal is broken and was set aside"
    assert len(list(folder.glob("*.db.broken"))) == 1
    await journal.close()
    assert await found_by_the_next(folder) == ["b", "c"]


async def test_the_file_does_not_grow_with_what_passes_through(journal, tmp_path):
    sizes = []
    for turn in range(60):
        names = [f"{turn}-{n}-{'x' * 30}" for n in range(300)]
        await journal.append([entry(each) for each in names])
        journal.forget(names)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "journals").iterdir()) - RESERVE_OCTETS)
    assert max(sizes) < 6_600_000  # of which what is ahead of the file takes one MiB
    assert sizes[-1] <= max(sizes[:30])


async def test_the_room_of_a_burst_is_given_back(journal, tmp_path):
    def size() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "journals").iterdir()) - RESERVE_OCTETS

    names = [f"{n}-{'x' * 40}" for n in range(6_000)]
    await journal.append([entry(each) for each in names])
    before = size()
    journal.forget(names)
    async with asyncio.timeout(30):
        while size() > before / 10:
            await asyncio.sleep(0.01)  # polling: a file announces nothing
