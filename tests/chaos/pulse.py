"""How long each worker has run: its CPU time over wall time, sampled while a scenario goes on.

Three workers share two cores with everything that they lean on. One that gets no core for a second does
nothing wrong in that second, so what it had not done yet when it was killed is measured by its own time.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.processes import Worker
from tests.chaos.running import Run

_SAMPLE_S = 0.02
_KEPT = 250
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float | None:
    """The CPU time of all of a process's threads, or None where it is gone; see proc_pid_stat(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


class Pulse:
    """Samples some workers in a thread of its own, until it is stopped."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        """Sample nothing before `start`."""
        self._workers = workers
        self._samples: dict[int, deque[tuple[float, float]]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_on, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stop.set()
        self._thread.join()

    def last_run(self, pid: int) -> Run:
        """The last seconds of a process, up to now."""
        self._sample(pid)
        return tuple(self._samples.get(pid, ()))

    def _sample_on(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            for worker in self._workers:
                if worker.process is not None:
                    self._sample(worker.pid)

    def _sample(self, pid: int) -> None:
        used = cpu_s(pid)
        if used is not None:
            self._samples.setdefault(pid, deque(maxlen=_KEPT)).append((time.monotonic(), used))
