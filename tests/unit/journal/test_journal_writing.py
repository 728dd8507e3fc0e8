"""Appending, forgetting, what is held, and what stays on the disk."""

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
import structlog

from tests.support.journal import RESERVE_OCTETS
from tests.support.journal_processes import entry
from worker.errors import JournalUnavailable
from worker.journal import journal as journal_module
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


async def test_what_was_appended_is_held_and_found_by_the_next_worker(journal, tmp_path):
    await journal.append([entry("a"), entry("b")])
    assert journal.holds(["a", "b", "c"]) == {"a", "b"}
    await journal.close()
    assert await found_by_the_next(tmp_path / "journals") == ["a", "b"]


async def test_an_empty_append_is_done_at_once(journal, writes):
    await journal.append([])
    assert writes == []


async def test_what_arrives_during_a_commit_is_one_transaction(journal, writes):
    await asyncio.gather(*(journal.append([entry(f"{n}")]) for n in range(300)))
    assert sum(rows for rows, _ in writes) == 300
    assert len(writes) <= 2


async def test_what_is_appended_reaches_the_disk_though_the_loop_is_busy(journal, writes):
    """A worker that is killed in a long turn of its loop has noted what the server said before it."""
    append = journal.append([entry("a")])
    append.send(None)  # as far as it comes in this turn, which does not end before the rows are committed
    committed = threading.Event()
    journal._thread.post(lambda _: committed.set())
    assert committed.wait(5)
    assert writes == [(1, 0)]
    append.close()


async def test_nothing_is_held_before_its_commit(journal, monkeypatch):
    seen = []
    write = OwnJournal.write

    def watched(self, cells, forgotten, *, empty):
        seen.append(journal.holds(["a"]))
        write(self, cells, forgotten, empty=empty)

    monkeypatch.setattr(OwnJournal, "write", watched)
    await journal.append([entry("a")])
    assert (seen, journal.holds(["a"])) == ([frozenset()], {"a"})


async def test_forgotten_entries_are_gone_at_once_from_memory_and_soon_from_the_disk(journal, writes, monkeypatch):
    monkeypatch.setattr(journal_module, "FORGET_WITHIN_S", 0.01)
    await journal.append([entry("a"), entry("b")])
    journal.forget(["a", "unknown"])
    assert journal.holds(["a", "b"]) == {"b"}
    async with asyncio.timeout(10):
        while (0, 1) not in writes:
            await asyncio.sleep(0)
    assert writes == [(2, 0), (0, 1)]


async def test_forgotten_entries_ride_along_with_the_next_append(journal, writes):
    await journal.append([entry("a"), entry("b")])
    journal.forget(["a"])
    await journal.append([entry("c")])
    assert writes == [(2, 0), (1, 1)]


async def test_many_forgotten_entries_do_not_wait(journal, writes, monkeypatch):
    monkeypatch.setattr(journal_module, "FORGET_WITHIN_S", 3600)
    await journal.append([entry(f"{n}") for n in range(600)])
    journal.forget(f"{n}" for n in range(600))
    async with asyncio.timeout(10):
        while len(writes) < 2:
            await asyncio.sleep(0)
    assert writes == [(600, 0), (0, 599)]


async def test_the_newest_entry_stays_on_the_disk_until_another_is_there(journal, writes, monkeypatch):
    """By it, whoever finds the journal of a killed worker knows where its chain ended."""
    monkeypatch.setattr(journal_module, "FORGET_WITHIN_S", 3600)
    await journal.append([entry("a"), entry("b")])
    journal.forget(["a", "b"])
    journal._forget_now()
    await journal._thread.call(lambda _: None)
    assert writes == [(2, 0), (0, 1)]
    await journal.append([entry("c")])
    assert writes[2:] == [(1, 1)]
    assert journal.holds(["a", "b", "c"]) == {"c"}


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
async def test_the_last_word_on_an_entry_counts(journal, tmp_path, steps, left, awaited):
    appends = []
    for step in steps.split():
        if step[0] == "-":
            journal.forget([step[1]])
            continue
        appends.append(asyncio.create_task(journal.append([entry(step[1])])))
        await (appends[-1] if awaited else asyncio.sleep(0))
    await asyncio.gather(*appends)
    assert journal.holds("abc") == set(left)
    await journal.close()
    assert await found_by_the_next(tmp_path / "journals") == left


async def test_pending_forgets_are_applied_by_closing(journal, tmp_path):
    await journal.append([entry("a"), entry("b")])
    journal.forget(["a"])
    await journal.close()
    assert await found_by_the_next(tmp_path / "journals") == ["b"]


async def test_a_journal_whose_entries_were_all_forgotten_leaves_no_file(journal, tmp_path):
    await journal.append([entry("a"), entry("b")])
    journal.forget(["a", "b"])
    await journal.close()
    await journal.close()
    assert list((tmp_path / "journals").iterdir()) == []


async def test_the_entry_of_a_cancelled_append_stays(journal, tmp_path):
    other = asyncio.create_task(journal.append([entry("b")]))
    cancelled = asyncio.create_task(journal.append([entry("a")]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await other
    assert cancelled.cancelled()
    assert journal.holds("ab") == {"a", "b"}
    await journal.close()
    assert await found_by_the_next(tmp_path / "journals") == ["b", "a"]


async def test_a_closed_journal_says_so(journal):
    await journal.close()
    with pytest.raises(JournalUnavailable, match="journal: not open"):
        await journal.append([entry("a")])


async def test_nobody_else_may_read_the_addresses(journal, tmp_path):
    await journal.append([entry("a")])
    folder = tmp_path / "journals"
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys((".db", ".db-wal", ".lock", ".reserve"), 0o600)
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
async def test_a_failure_is_told_to_those_who_wait_and_seen_from_outside(journal, monkeypatch, error, said):
    await journal.append([entry("kept")])
    with monkeypatch.context() as broken:

        def fail(*_):
            raise error

        broken.setattr(JournalFile, "write", fail)
        with pytest.raises(JournalUnavailable, match=said):
            await journal.append([entry("a"), entry("kept")])
    assert journal.failing == said
    assert journal.holds(["a", "kept"]) == {"kept"}
    await journal.append([entry("a")])
    await journal.writable()
    assert journal.failing is None
    assert journal.holds(["a", "kept"]) == {"a", "kept"}


async def test_what_is_under_way_when_the_disk_fills_up_goes_into_the_reserves_room(journal, tmp_path, monkeypatch):
    reserve = next((tmp_path / "journals").glob("*.reserve"))
    assert reserve.stat().st_size == RESERVE_OCTETS
    write, told = JournalFile.write, asyncio.create_task(journal.fails())
    with monkeypatch.context() as full:

        def fail_while_reserved(*arguments):
            if reserve.exists():
                raise OSError(28, "No space left on device")
            write(*arguments)

        full.setattr(JournalFile, "write", fail_while_reserved)
        await journal.append([entry("a")])
        await journal.append([entry("b")])
    assert journal.holds("ab") == {"a", "b"}
    assert await told == journal.failing == "journal: disk is full: its reserve is used for what is under way"
    await journal.writable()
    assert journal.failing is None
    assert reserve.stat().st_size == RESERVE_OCTETS


async def test_a_reserve_that_would_leave_no_room_is_not_taken(tmp_path):
    disk = os.statvfs(tmp_path)
    journal = Journal(tmp_path / "journals", worker_id="w", reserve_octets=disk.f_bavail * disk.f_frsize * 2)
    await journal.open()
    assert journal.failing == "journal: disk is full: No space left on device"
    assert list((tmp_path / "journals").glob("*.reserve")) == []
    await journal.close()


async def test_forgets_that_failed_are_written_later(journal, tmp_path, monkeypatch):
    await journal.append([entry("a"), entry("b")])
    with monkeypatch.context() as broken:

        def fail(*_):
            raise OSError(28, "No space left on device")

        broken.setattr(JournalFile, "write", fail)
        journal.forget(["a"])
        with pytest.raises(JournalUnavailable):
            await journal.append([entry("c")])
    await journal.close()
    assert await found_by_the_next(tmp_path / "journals") == ["b"]


async def test_writable_tries_until_it_works_and_all_who_wait_learn_of_it(journal, monkeypatch):
    tries = []

    def fail(*_):
        tries.append(1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(JournalFile, "write", fail)
        broken.setattr(JournalFile, "probe", fail)
        broken.setattr(journal_module, "_FIRST_PAUSE_S", 0.001)
        with pytest.raises(JournalUnavailable):
            await journal.append([entry("a")])
        waiting = [asyncio.create_task(journal.writable()) for _ in range(3)]
        async with asyncio.timeout(10):
            while len(tries) < 4:
                await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
    assert journal.failing is None


async def test_a_file_that_breaks_while_it_is_written_is_replaced(journal, tmp_path):
    folder = tmp_path / "journals"
    with structlog.testing.capture_logs() as logs:
        await journal.append([entry("a")])

        def wreck(own):
            own._opened()._db.execute("DROP TABLE entries")

        await journal._thread.call(wreck)
        with pytest.raises(JournalUnavailable, match="journal: file is broken: no such table"):
            await journal.append([entry("b")])
        await journal.writable()
    await journal.append([entry("c")])
    assert journal.holds("abc") == {"a", "c"}
    assert next(each["event"] for each in logs if each["log_level"] == "error") == "journal is broken and was set aside"
    assert len(list(folder.glob("*.db.broken"))) == 1
    await journal.close()
    assert await found_by_the_next(folder) == ["c"]


async def test_the_file_does_not_grow_with_what_passes_through(journal, tmp_path):
    sizes = []
    for turn in range(60):
        names = [f"{turn}-{n}-{'x' * 30}" for n in range(300)]
        await journal.append([entry(each) for each in names])
        journal.forget(names)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "journals").iterdir()) - RESERVE_OCTETS)
    assert max(sizes) < 6_000_000
    assert sizes[-1] <= max(sizes[:30])


async def test_the_room_of_a_burst_is_given_back(journal, tmp_path):
    def size() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "journals").iterdir()) - RESERVE_OCTETS

    names = [f"{n}-{'x' * 40}" for n in range(6_000)]
    await journal.append([entry(each) for each in names])
    before = size()
    journal.forget(names)
    async with asyncio.timeout(5):
        while size() > before / 10:
            await asyncio.sleep(0.01)  # polling: a file announces nothing
