"""A worker that says when a turn of its event loop took long, and where the time went.

    python -m tests.chaos --scenario mixed --watch --logs FOLDER
    grep '"long turn"' FOLDER/mixed/worker-*.log

A line has the turn's length, and of it what the loop's thread computed (`cpu_ms`), what it waited for a
core (`waited_ms`, see /proc/PID/schedstat), and what is left: the GIL or the disk. `seen` has the
innermost frames, looked at by a second thread while the turn went on.
"""

import asyncio
import itertools
import json
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LONG_S = 0.1
_TICK_S = 0.01
_LOOK_S = 0.03
_FRAMES = 4
_LOOKS = 8


@dataclass(frozen=True)
class Clocks:
    """Seconds at one moment: on the wall, computed by the thread, waited by it for a core."""

    wall: float
    cpu: float
    waited: float


@dataclass
class Watch:
    """Ticks on the loop; whoever comes late says so."""

    thread: int
    last: Clocks
    seen: list[list[str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def tick(self) -> None:
        """Say how long the turn was that ends with this tick, and order the next tick."""
        now = clocks()
        if now.wall - self.last.wall > LONG_S + _TICK_S:
            self._say(now)
        self.seen, self.last = [], now
        if not self.ended.is_set():
            asyncio.get_running_loop().call_later(_TICK_S, self.tick)

    def look(self) -> None:
        """Look at the loop's thread until it `ended`, and remember where it was while a turn took long."""
        while not self.ended.wait(_LOOK_S):  # libfaketime, which may be under us, breaks time.sleep
            late = time.monotonic() - self.last.wall
            if late > LONG_S and len(self.seen) < _LOOKS:
                self.seen.append(_where(self.thread))
                if len(self.seen) == _LOOKS // 2:  # a kill may be what ends this turn
                    _log("long turn goes on", began=round(self.last.wall, 3), ms=round(1000 * late), seen=self.seen)

    def _say(self, now: Clocks) -> None:
        _log(
            "long turn",
            began=round(self.last.wall, 3),
            turn_ms=round(1000 * (now.wall - self.last.wall)),
            cpu_ms=round(1000 * (now.cpu - self.last.cpu)),
            waited_ms=round(1000 * (now.waited - self.last.waited)),
            seen=self.seen,
        )


def clocks() -> Clocks:
    """Read all three, of the calling thread."""
    schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
    return Clocks(time.monotonic(), time.thread_time(), int(schedstat.split()[1]) / 1e9)


def _log(event: str, **told: Any) -> None:
    line = {"event": event, "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"), **told}
    print(json.dumps(line), file=sys.stderr, flush=True)


def _where(thread: int) -> list[str]:
    """The innermost frames of a thread; no source is read for them, which would take longer than many a turn."""
    frames = itertools.islice(traceback.walk_stack(sys._current_frames().get(thread)), _FRAMES)
    return [f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}" for frame, line in frames]


def watch_the_loop() -> None:
    """Have every worker of this process watch its loop while it consumes."""
    from worker.rabbit.consumer import Consumer

    run = Consumer.run

    async def watched(self: Consumer, stop: asyncio.Event) -> None:
        watch = Watch(threading.get_ident(), clocks())
        watch.tick()
        threading.Thread(target=watch.look, daemon=True).start()
        try:
            await run(self, stop)
        finally:
            watch.ended.set()

    Consumer.run = watched  # type: ignore[method-assign]


def main() -> None:
    """Watch, and run the product's command."""
    watch_the_loop()
    from worker.cli import main as postbote

    postbote()


if __name__ == "__main__":
    main()
