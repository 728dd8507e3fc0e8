"""One contender, one run: how it is measured.

Its worker starts and sends `WARM_UP` mails, so that imports and connections count for nobody. Then
all its processes are frozen (SIGSTOP), the queue is filled, CPU time is read, and they go on: the
clock runs from there to the last mail's 250 at the sink. CPU time is read again once the processes
have come to rest, so that acknowledgements and, for Postbote, the audit are in it. Servers and
publishers are not.
"""

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench.contenders import Contender, Site
from tests.bench.events import Batch, write_batch
from tests.bench.sinks import Sink, wait_for
from tests.bench.tree import ProcessTree

WARM_UP = 50
START_PATIENCE_S = 40.0
STALL_S = 20.0
REST_S = 0.3
REST_PATIENCE_S = 15.0


class ContenderFailed(Exception):
    """A contender did not start; the message holds the end of its log."""


@dataclass(frozen=True)
class Used:
    """What a run took: wall-clock and CPU seconds, and memory of all its processes."""

    seconds: float
    cpu_s: float
    peak_rss_mib: float
    pss_mib: float


@dataclass(frozen=True)
class Result:
    """What one run showed. `errors` = lost + second copies + accepted mails without their audit record.

    `peak_rss_mib` sums over the processes; `pss_mib`, read at the end, divides shared pages.
    """

    name: str
    leg: str
    mails: int
    mails_per_s: float
    cpu_s_per_1000: float
    peak_rss_mib: float
    pss_mib: float
    errors: int
    lost: int
    duplicates: int
    unaudited: int | None = None

    def with_audit_of(self, accepted: int) -> "Result":
        """The same, knowing that the audit holds `accepted` records of this run."""
        unaudited = self.mails - self.lost - accepted
        return replace(self, unaudited=unaudited, errors=self.errors + abs(unaudited))

    def to_json(self) -> dict[str, Any]:
        """The form of build/bench.json."""
        return asdict(self)


@dataclass
class Running:
    """A contender's worker that has warmed up."""

    process: subprocess.Popen[bytes]
    tree: ProcessTree
    contender: Contender
    site: Site
    sink: Sink

    def fill(self, batch: Batch) -> None:
        """Freeze the worker and put a batch into its queue."""
        self.tree.pause()
        self.contender.publish(self.site, batch.file)

    def drain(self, count: int) -> float:
        """Let it go on until the sink has `count` mails more, or none come any more; returns seconds."""
        target = self.sink.count() + count
        if self.contender.profile:
            self.process.send_signal(signal.SIGUSR2)
        began = time.monotonic()
        self.tree.resume()
        complete = wait_for(self.sink, target, STALL_S, self.process)
        return time.monotonic() - began - (0 if complete else STALL_S)

    def come_to_rest(self) -> None:
        """Wait until the worker uses no CPU time any more (2 % of a core is no work)."""
        deadline = time.monotonic() + REST_PATIENCE_S
        before = self.tree.cpu_s()
        while time.monotonic() < deadline:
            time.sleep(REST_S)  # polling: /proc announces nothing
            now = self.tree.cpu_s()
            if now - before <= 0.02 * REST_S + 0.011:
                return
            before = now


@contextmanager
def running(contender: Contender, site: Site, sink: Sink, *, warm_up: int = WARM_UP) -> Iterator[Running]:
    """Start a contender's worker and warm it up with so many mails; end all its processes at the end."""
    contender.prepare(site)
    log = site.folder / f"{contender.key}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            contender.command,
            env=contender.environment(site),
            cwd=site.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    worker = Running(process, ProcessTree(process.pid), contender, site, sink)
    try:
        _warm_up(worker, warm_up, log)
        yield worker
    finally:
        _end(process)


def measure(contender: Contender, site: Site, sink: Sink, *, leg: str, mails: int, run: str) -> Result:
    """Run one contender over `mails` events; raises ContenderFailed where it does not start."""
    batch = write_batch(site.folder, run, mails)
    with running(contender, site, sink) as worker:
        worker.fill(batch)
        cpu_before = worker.tree.cpu_s()
        seconds = worker.drain(mails)
        worker.come_to_rest()
        cpu_s = worker.tree.cpu_s() - cpu_before
        used = Used(seconds, cpu_s, worker.tree.peak_rss_mib(), worker.tree.pss_mib())
    return judge(contender.name, leg, batch, sink.recipients(run), used)


def judge(name: str, leg: str, batch: Batch, recipients: Sequence[str], used: Used) -> Result:
    """Hold what the sink has seen against the batch, mail by mail."""
    counts, mails = Counter(recipients), len(batch.recipients)
    arrived = len(counts.keys() & batch.recipients)
    lost, duplicates = mails - arrived, counts.total() - arrived
    return Result(
        name=name,
        leg=leg,
        mails=mails,
        mails_per_s=round(arrived / used.seconds, 1),
        cpu_s_per_1000=round(used.cpu_s / max(arrived, 1) * 1000, 4),
        peak_rss_mib=round(used.peak_rss_mib, 1),
        pss_mib=round(used.pss_mib, 1),
        errors=lost + duplicates,
        lost=lost,
        duplicates=duplicates,
    )


def _warm_up(worker: Running, count: int, log: Path) -> None:
    batch = write_batch(worker.site.folder, "warm-up", count)
    target = worker.sink.count() + count
    worker.contender.publish(worker.site, batch.file)
    if not wait_for(worker.sink, target, START_PATIENCE_S, worker.process):
        tail = "\n".join(line[:300] for line in log.read_text(errors="replace").splitlines()[-15:])
        msg = f"{worker.contender.name} sent no mail (exit code {worker.process.poll()}):\n{tail}"
        raise ContenderFailed(msg)
    worker.come_to_rest()


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the first process, which ends its children; then SIGKILL to what is left of the group."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    finally:
        ProcessTree.kill_group(process.pid)
