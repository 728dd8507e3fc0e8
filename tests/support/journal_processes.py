"""Real processes that use journals: run as a program, it forks them, kills them and prints what came of it.

The program itself stays without threads, so that forking is sound and costs a few milliseconds.
What a child tells, it tells over a pipe, a line for each fact, after the fact.
"""

import asyncio
import json
import os
import random
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import structlog

from worker.journal.entry import JournalEntry
from worker.journal.journal import Journal
from worker.journal.left_behind import ship_left_behind

Tell = Callable[[str], None]
Life = Callable[[Tell], Coroutine[Any, Any, None]]
APPENDERS = 6


def entry(name: str) -> JournalEntry:
    return JournalEntry(
        name, "2026.11", b'{"recipient":"%b","text":"%b"}' % (name.encode(), b"x" * (len(name) * 31 % 1500))
    )


def names_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Child:
    """A forked process that lives one `life`, and the lines it told."""

    def __init__(self, life: Life) -> None:
        self.pipe, told = os.pipe()
        self._rest = b""
        self.ended = False
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            _live(life, told)
        os.close(told)

    def lines(self, until: float) -> list[str]:
        """What it tells until that time (monotonic seconds) or its end."""
        found = b""
        while not self.ended and (left := until - time.monotonic()) > 0:
            if select.select([self.pipe], [], [], left)[0]:
                read = os.read(self.pipe, 1 << 16)
                self.ended, found = not read, found + read
        *whole, self._rest = (self._rest + found).split(b"\n")
        return [line.decode() for line in whole]

    def wait_for(self, word: str) -> str:
        """The next line, which has to begin so."""
        while b"\n" not in self._rest and not self.ended:
            read = os.read(self.pipe, 1 << 16)
            self.ended, self._rest = not read, self._rest + read
        line, _, self._rest = self._rest.partition(b"\n")
        assert line.startswith(word.encode()), line
        return line.decode()

    def kill(self) -> list[str]:
        """kill -9, and what it had told by then."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> list[str]:
        lines = self.lines(time.monotonic() + 20)
        assert self.ended, "the child neither ended nor told anything for long"
        os.waitpid(self.pid, 0)
        os.close(self.pipe)
        return lines


def _live(life: Life, told: int) -> None:
    def tell(line: str) -> None:
        os.write(told, f"{line}\n".encode())

    status = 1
    try:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        asyncio.run(life(tell))
        status = 0
    finally:
        os._exit(status)


def worker_life(folder: Path, generation: int, appends: int) -> Life:
    """Ship what was left behind, then append and now and then forget, `appends` times per appender."""

    async def ship(tell: Tell, entries: Sequence[JournalEntry]) -> None:
        for each in entries:
            tell(f"shipped {each.document_id} {'whole' if each == entry(each.document_id) else 'TORN'}")

    async def append(tell: Tell, journal: Journal, appender: int) -> None:
        for turn in range(appends):
            ids = [f"{generation}-{appender}-{turn}-{part}" for part in range(1 + turn % 3)]
            appending = journal.append([entry(each) for each in ids])
            if not appending.done():  # mostly the call itself keeps them, and else their commit
                await appending
            for each in ids:
                tell(f"appended {each} -")
            await asyncio.sleep(0)  # as whoever reads replies of a server does
            if turn % 4 == 0:
                tell(f"forgot {ids[0]} -")
                journal.forget(ids[:1])

    async def live(tell: Tell) -> None:
        journal = Journal(folder, worker_id=f"generation-{generation}")
        await journal.open()
        await ship_left_behind(journal, lambda entries: ship(tell, entries))
        async with asyncio.TaskGroup() as group:
            for appender in range(APPENDERS):
                group.create_task(append(tell, journal, appender))
        await journal.close()

    return live


def kills(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill `count` workers one after the other at random moments; says what the last one could not find."""
    chance = random.Random(seed)
    owed: set[str] = set()
    forgotten: set[str] = set()
    appended = shipped = torn = 0
    for generation in range(count + 1):
        last = generation == count
        child = Child(worker_life(folder, generation, 0 if last else 100_000))
        lines = child.wait() if last else _killed_at_random(child, chance, appending=generation % 2 == 1)
        for line in lines:
            what, name, state = line.split()
            appended += what == "appended"
            shipped += what == "shipped"
            torn += state == "TORN"
            if what == "appended":
                owed.add(name)
            else:
                owed.discard(name)
            if what == "forgot":
                forgotten.add(name)
    return {
        "kills": count,
        "appended": appended,
        "shipped": shipped,
        "torn": torn,
        "lost": sorted(owed),
        "files": names_of(folder),
    }


def _killed_at_random(child: Child, chance: random.Random, *, appending: bool) -> list[str]:
    """Kill it after up to 60 ms, counted from its start or from its first append; returns what it told."""
    lines: list[str] = []
    deadline = time.monotonic() + 10
    while appending and time.monotonic() < deadline and not any(line.startswith("appended") for line in lines):
        lines += child.lines(time.monotonic() + 0.005)
    return lines + child.lines(time.monotonic() + chance.uniform(0.0, 0.06)) + child.kill()


def race(folder: Path, dead: int, starting: int) -> dict[str, Any]:
    """Leave `dead` journals behind, then start so many workers at once; says who shipped what."""

    async def die(tell: Tell, owner: int) -> None:
        journal = Journal(folder, worker_id=f"dead-{owner}")
        await journal.open()
        await journal.append([entry(f"{owner}-{turn}") for turn in range(1200)])
        tell("ready")
        os.kill(os.getpid(), signal.SIGKILL)

    async def start(tell: Tell) -> None:
        async def ship(entries: Sequence[JournalEntry]) -> None:
            tell("\n".join(each.document_id for each in entries))
            await asyncio.sleep(0.002)

        journal = Journal(folder, worker_id="starting")
        await journal.open()
        await ship_left_behind(journal, ship)
        await journal.close()

    for owner in range(dead):
        Child(lambda tell, owner=owner: die(tell, owner)).wait()
    left = len(list(folder.glob("*.db")))
    children = [Child(start) for _ in range(starting)]
    lines = [child.wait() for child in children]
    return {"left": left, "shipped": lines, "files": names_of(folder)}


def neighbours(folder: Path) -> dict[str, Any]:
    """Two workers live on one folder; each looks for what was left behind while both hold entries."""
    (ready, go), (looked_at, end) = os.pipe(), os.pipe()  # what these say is that they are closed

    async def ship(entries: Sequence[JournalEntry]) -> None:
        raise AssertionError("a living worker's entries were taken")

    async def live(tell: Tell) -> None:
        os.close(go)
        os.close(end)
        ids = [f"{os.getpid()}-{turn}" for turn in range(10)]
        journal = Journal(folder, worker_id="living")
        await journal.open()
        await journal.append([entry(each) for each in ids])
        tell("ready")
        os.read(ready, 1)
        tell(f"shipped {await ship_left_behind(journal, ship)}, holds {len(journal.holds(ids))}")
        os.read(looked_at, 1)
        await journal.append([entry("one more")])
        journal.forget([*ids, "one more"])
        await journal.close()

    children = [Child(live), Child(live)]
    for child in children:
        child.wait_for("ready")
    os.close(go)
    looked = [child.wait_for("shipped") for child in children]
    os.close(end)
    return {"looked": looked, "ended": [child.wait() for child in children], "files": names_of(folder)}


def forks(folder: Path) -> dict[str, Any]:
    """A worker forks one child that ends like any program and one that outlives it; says what the next worker finds."""
    pipe, told = os.pipe()
    worker = os.fork()
    if worker == 0:
        _fork_twice_and_die(folder, told)
    os.waitpid(worker, 0)
    outliving = int(os.read(pipe, 100))
    found = Child(worker_life(folder, 1, 0)).wait()
    os.kill(outliving, signal.SIGKILL)
    return {"found": [line.split()[1] for line in found], "files": names_of(folder)}


async def _append(journal: Journal, name: str) -> None:
    await journal.append([entry(name)])


def _fork_twice_and_die(folder: Path, told: int) -> None:
    # The loop runs on a thread: a forked child that tidied up a running loop would break its parent's.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    journal = Journal(folder, worker_id="parent")

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=10)

    run(journal.open())
    run(_append(journal, "before"))
    ending = os.fork()
    if ending == 0:
        sys.exit(0)  # with all of an interpreter's tidying up
    os.waitpid(ending, 0)
    outliving = os.fork()
    if outliving == 0:
        time.sleep(20)
        os._exit(0)
    os.write(told, str(outliving).encode())
    run(_append(journal, "after"))
    os.kill(os.getpid(), signal.SIGKILL)


def leave(folder: Path, count: int, in_memory: int = 0) -> dict[str, Any]:
    """One worker appends `count` entries, all written, and so many more in mapped memory alone, and is killed."""

    async def die(tell: Tell) -> None:
        journal = Journal(folder, worker_id="the-dead-one")
        await journal.open()
        await journal.append([entry(f"left-{turn}") for turn in range(count)])
        journal._write_now()
        await journal._thread.call(lambda _: None)
        await journal.append([entry(f"left-{turn}") for turn in range(count, count + in_memory)])
        os.kill(os.getpid(), signal.SIGKILL)

    Child(die).wait()
    return {"files": names_of(folder)}


PLAYS: dict[str, Callable[..., dict[str, Any]]] = {
    each.__name__: each for each in (kills, race, neighbours, forks, leave)
}


if __name__ == "__main__":
    name, folder, *numbers = sys.argv[1:]
    print(json.dumps(PLAYS[name](Path(folder), *map(int, numbers))))
