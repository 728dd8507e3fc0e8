"""What the journal costs: `python -m tests.bench.journal`.

Events of one recipient each arrive in groups, as a loop hands them on under load; an entry is
forgotten two groups later, as if OpenSearch had taken it. CPU is that of the whole process, the
loop and the journal's thread, for one append and one forget, less what the tasks of this program
cost by themselves; latency is an append's.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from worker.journal.entry import JournalEntry
from worker.journal.journal import Journal

DOCUMENT = b'{"@timestamp":"2026-11-21T08:00:00Z","padding":"%b"}' % (b"x" * 850)
SAMPLE_EVERY = 100


def octets_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def cost_of_tasks(total: int, group: int) -> float:
    """CPU microseconds that gathering tasks costs for each of them: this program's own share."""

    async def one(_: str) -> None:
        started = time.perf_counter()
        await asyncio.sleep(0)
        time.perf_counter() - started

    cpu = time.process_time()
    for start in range(0, total, group):
        await asyncio.gather(*map(one, [f"{n:064x}" for n in range(start, start + group)]))
    return (time.process_time() - cpu) / total * 1e6


async def measure(folder: Path, total: int, group: int) -> dict[str, Any]:
    journal = Journal(folder, worker_id="bench")
    await journal.open()
    latencies: list[float] = []
    sizes: list[int] = []
    memory: list[float] = []
    held: list[list[str]] = []

    async def one(name: str) -> None:
        started = time.perf_counter()
        await journal.append((JournalEntry(name, "2026.11", DOCUMENT),))
        latencies.append(time.perf_counter() - started)

    harness = await cost_of_tasks(min(total, 20_000), group)
    cpu, clock = time.process_time(), time.perf_counter()
    for start in range(0, total, group):
        names = [f"{n:064x}" for n in range(start, min(start + group, total))]
        await asyncio.gather(*map(one, names))
        held.append(names)
        if len(held) > 2:
            journal.forget(held.pop(0))
        if start // group % SAMPLE_EVERY == 0:
            sizes.append(octets_in(folder))
            memory.append(rss_mib())
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    for names in held:
        journal.forget(names)
    await journal.close()
    latencies.sort()
    return {
        "entries": total,
        "group": group,
        "cpu_us_per_entry": round(cpu / total * 1e6 - harness, 1),
        "entries_per_s": round(total / clock),
        "append_ms_p50": round(latencies[total // 2] * 1e3, 2),
        "append_ms_p99": round(latencies[total * 99 // 100] * 1e3, 2),
        "append_ms_max": round(latencies[-1] * 1e3, 2),
        "largest_mib": round(max(sizes) / 2**20, 1),
        "rss_growth_mib": round(memory[-1] - memory[len(memory) // 5], 1),
        "left_over_files": len(os.listdir(folder)),  # noqa: PTH208 - one glance between two measurements
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=40_000)
    parser.add_argument("--groups", type=int, nargs="+", default=[20])
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder's")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = []
    for group in given.groups:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            found.append(uvloop.run(measure(Path(folder) / "journals", given.entries, group)))
    for each in [] if given.json else found:
        print("  ".join(f"{name} {value}" for name, value in each.items()))
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
