"""A worker under a sampling profiler: `python -m tests.bench.profiled FILE MODULE [ARGUMENTS]`.

From SIGUSR2 on, the stack is looked at each time the process has used another `PERIOD_S` of CPU
time (ITIMER_PROF), so that what waits costs nothing and what computes is seen in proportion. At
its end the stacks are written to FILE, one a line, outermost frame first, with how often each was
seen: the form that flame graphs are drawn from. Python runs a signal's handler between two
bytecodes, so time inside a C function is its caller's; garbage collections are timed apart.

`summary` tells whose time it was: of each stack, the innermost frame that a row of `ROOMS` names.
"""

import atexit
import gc
import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

PERIOD_S = 0.001
COLLECTING = "(garbage collection, in all of these)"

PROFILE_HEADERS = ("whose", "share", "CPU-s per 1,000")

# Innermost frames are looked up here: the first part of a file's path that fits names the room.
ROOMS: Mapping[str, str] = {
    "worker/rabbit": "broker: our side",
    "/pika/": "broker: pika",
    "worker/smtp": "SMTP engine and pool",
    "worker/message": "rendering",
    "/jinja2/": "rendering",
    "schemas/cloudevents": "parsing the event",
    "schemas/event": "parsing the event",
    "schemas/address": "parsing the event",
    "schemas/text": "parsing the event",
    "schemas/audit": "the record",
    "worker/delivery/records": "the record",
    "worker/delivery/replies": "the record",
    "worker/audit": "audit: our side",
    "/opensearchpy/": "audit: opensearch-py and aiohttp",
    "/aiohttp/": "audit: opensearch-py and aiohttp",
    "/yarl/": "audit: opensearch-py and aiohttp",
    "/multidict/": "audit: opensearch-py and aiohttp",
    "worker/delivery": "pipeline",
    "worker/store": "config source",
    "/structlog/": "logging",
    "/logging/": "logging",
    "/asyncio/": "tasks and the loop",
}


class Sampler:
    """Counts the stacks of the main thread, and times collections."""

    def __init__(self, file: Path) -> None:
        """Write to `file` at the end."""
        self._file = file
        self._stacks: Counter[str] = Counter()
        self._collecting_since = 0
        self._collecting_ns = 0
        self._began = 0.0

    def start(self, _signal: int, _frame: FrameType | None) -> None:
        """Begin; a signal's handler."""
        self._began = time.process_time()
        gc.callbacks.append(self._on_collection)
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, PERIOD_S, PERIOD_S)

    def write(self) -> None:
        """End, and write what was seen."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        used_s, collecting_s = time.process_time() - self._began, self._collecting_ns / 1e9
        lines = [f"{stack} {count}" for stack, count in self._stacks.most_common()]
        self._file.write_text("\n".join([f"{used_s:.3f} {collecting_s:.3f}", *lines, ""]))

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        names = []
        while frame is not None:
            code = frame.f_code
            names.append(f"{code.co_filename}:{code.co_qualname}")
            frame = frame.f_back
        self._stacks[";".join(reversed(names)).replace(" ", "_")] += 1

    def _on_collection(self, phase: str, _info: dict[str, Any]) -> None:
        now = time.process_time_ns()
        if phase == "start":
            self._collecting_since = now
        else:
            self._collecting_ns += now - self._collecting_since


def summary(file: Path, mails: int) -> Iterator[tuple[str, str, str]]:
    """Rows of (whose, share, CPU-s per 1,000 mails), the largest first, out of a file of stacks."""
    first, *lines = file.read_text().splitlines()
    used_s, collecting_s = map(float, first.split())
    rooms: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        rooms[_room(stack)] += int(count)
    # The kernel's clock is coarser than the period: shares are counted, seconds are the process's own.
    for name, count in rooms.most_common():
        share = count / rooms.total()
        yield name, f"{100 * share:.0f} %", f"{share * used_s / mails * 1000:.3f}"
    yield COLLECTING, f"{100 * collecting_s / used_s:.0f} %", f"{collecting_s / mails * 1000:.3f}"


def _room(stack: str) -> str:
    for frame in reversed(stack.split(";")):
        for part, room in ROOMS.items():
            if part in frame:
                return room
    return "tasks and the loop"


def main() -> None:
    """Run the module as if it had been started itself."""
    file, module, *arguments = sys.argv[1:]
    sampler = Sampler(Path(file))
    signal.signal(signal.SIGUSR2, sampler.start)
    atexit.register(sampler.write)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
