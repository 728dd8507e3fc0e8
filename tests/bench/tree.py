"""What a contender's processes cost: CPU time and memory of a process and all its descendants, from /proc."""

import contextlib
import os
import signal
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessTree:
    """A process that leads a group of its own, and everything below it."""

    def __init__(self, root: int) -> None:
        self._root = root

    def cpu_s(self) -> float:
        """User and system time so far, in seconds, with that of children that have ended."""
        return sum(sum(map(int, fields[11:15])) for fields in self._stats().values()) / _TICKS_PER_S

    def peak_rss_mib(self) -> float:
        """Sum of each process's highest resident size; pages that processes share count once for each."""
        return sum(_kib(pid, "status", "VmHWM:") for pid in self._stats()) / 1024

    def pss_mib(self) -> float:
        """Resident size now, shared pages divided among those that share them."""
        return sum(_kib(pid, "smaps_rollup", "Pss:") for pid in self._stats()) / 1024

    def pause(self) -> None:
        """Freeze all of it."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    @staticmethod
    def kill_group(leader: int) -> None:
        """SIGKILL what is left of the process group that `leader` led."""
        with contextlib.suppress(ProcessLookupError):  # nothing is left
            os.killpg(leader, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._stats():
            os.kill(pid, number)

    def _stats(self) -> dict[int, list[str]]:
        """The fields of /proc/PID/stat from the state on, for each process of the tree."""
        everyone = {int(entry.name): _stat(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        found, level = {}, [self._root]
        while level:
            found.update({pid: stat for pid in level if (stat := everyone.get(pid))})
            level = [pid for pid, stat in everyone.items() if stat and int(stat[1]) in level]
        return found


def _stat(entry: Path) -> list[str]:
    try:
        # The command, in brackets, may itself hold brackets and spaces: count from the last one.
        return (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return []


def _kib(pid: int, file: str, label: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(label)), 0)
