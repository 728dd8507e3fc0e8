"""The ceiling: Postfix's `smtp-source`, a load generator in C that sends one ready-made message over and over."""

import os
import subprocess
import threading
import time
from pathlib import Path
from resource import struct_rusage

from tests.bench.contenders import CONNECTIONS
from tests.bench.events import SIZE, Batch
from tests.bench.measure import Result, Used, judge
from tests.bench.sinks import Sink
from tests.bench.tree import ProcessTree

PROGRAM = "/usr/sbin/smtp-source"
PATIENCE_S = 120


def measure_ceiling(sink: Sink, *, leg: str, mails: int, run: str) -> Result:
    """Send `mails` messages of 2 KB over as many connections as the contenders have."""
    addresses = ["-f", "bench@example.com", "-t", f"r@{run}.example.com", "-N"]
    volume = ["-d", "-s", str(CONNECTIONS), "-l", str(SIZE), "-m", str(mails)]
    began = time.monotonic()
    usage, peak_mib = _run([PROGRAM, *volume, *addresses, f"127.0.0.1:{sink.port}"])
    seconds, cpu_s = time.monotonic() - began, usage.ru_utime + usage.ru_stime
    used = Used(seconds, cpu_s, peak_mib, peak_mib)  # one small process that shares with nobody who counts
    # It invents its own recipients: as many different ones as it was to send stand for the batch.
    recipients = sink.recipients(run)
    expected = frozenset(sorted(set(recipients)) + [f"missing-{n}" for n in range(mails - len(set(recipients)))])
    return judge("smtp-source (ceiling)", leg, Batch(Path(), expected), recipients, used)


def _run(command: list[str]) -> tuple[struct_rusage, float]:
    """Run a command to its end: what it used, and its peak RSS in MiB; raises CalledProcessError where it failed."""
    process = subprocess.Popen(command)
    guard = threading.Timer(PATIENCE_S, process.kill)
    guard.start()
    try:
        peak_mib = 0.0
        # The kernel's own figure for an ended child includes this process's size, from between fork and exec.
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peak_mib = max(peak_mib, ProcessTree(process.pid).peak_rss_mib())
            time.sleep(0.01)
    finally:
        guard.cancel()
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return ended[2], peak_mib
