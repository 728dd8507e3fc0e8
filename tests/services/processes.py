"""Starting native servers: free ports, processes that write to a file, waiting with a deadline."""

import fcntl
import functools
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.services.sessions import Process, Session, run_root
from tests.services.ways import ServiceUnavailable

# Below Linux's range for outgoing connections: a client that keeps dialling a stopped server in that range
# may be given the very port as its own, connect to itself, and keep the server from coming back.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A loopback port on which nothing listens, and that no other process of tests is given while this one lives."""
    for _ in range(1000):
        port = random.choice(PORTS)
        if _reserve(port) and _unused(port):
            return port
    msg = f"no free port from {PORTS.start} to {PORTS.stop}"
    raise ServiceUnavailable(msg)


_reserved: set[int] = set()


def _reserve(port: int) -> bool:
    """Keep a port for this process, also while its server is stopped: a neighbour would take it before the restart."""
    if port in _reserved:
        return False
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # a byte for each port
    except OSError:
        return False
    _reserved.add(port)
    return True


@functools.cache
def _reservations() -> int:
    # Never closed: closing any descriptor of a file ends all the locks that the process has on it.
    return os.open(run_root() / "ports.lock", os.O_RDWR | os.O_CREAT, 0o666)


def _unused(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a TCP connection to the port is taken."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def spawn(
    session: Session,
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    user: str | int | None = None,
    cwd: Path | None = None,
) -> Process:
    """Start a server that survives a Ctrl-C in the terminal, its output in `log`, noted in the session."""
    switch: dict[str, Any] = (
        {"user": user, "group": user, "extra_groups": []} if user is not None and os.geteuid() == 0 else {}
    )
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
            cwd=cwd,
            **switch,
        )
    child.returncode = 0  # sessions.Process waits for it; Popen need not warn that it is still running
    process = Process.of(child.pid)
    if process is None:
        msg = f"{command[0]} ended at once:\n{tail(log)}"
        raise ServiceUnavailable(msg)
    session.register(process)
    return process


def wait_until(
    ready: Callable[[], bool], *, process: Process | None = None, log: Path | None = None, seconds: float = 90.0
) -> None:
    """Poll until ready; raises when the process ends first or the time is over."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process is not None and not process.alive():
            msg = f"the server ended while it started:\n{tail(log)}"
            raise ServiceUnavailable(msg)
        if time.monotonic() > deadline:
            msg = f"not ready within {seconds:.0f} s:\n{tail(log)}"
            raise ServiceUnavailable(msg)
        time.sleep(0.05)


def tail(log: Path | None, lines: int = 30) -> str:
    """The last lines of a log, for an error message."""
    if log is None or not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
