"""How long a process ran, by samples of its CPU time."""

from bisect import bisect_right

Run = tuple[tuple[float, float], ...]
"""(monotonic, CPU seconds) of one process, in the order of time."""


def ran_s(run: Run, since: float) -> float:
    """How long it ran from a moment to its last sample; infinity where the samples begin later."""
    before = bisect_right(run, (since, float("inf"))) - 1
    return run[-1][1] - run[before][1] if before >= 0 else float("inf")
