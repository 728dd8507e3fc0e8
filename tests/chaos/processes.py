"""The processes that are killed: workers whose disk survives them, and the SMTP sink whose log does."""

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.count import Kept
from tests.chaos.sink import Ends
from tests.chaos.sockets import stopped, unread
from tests.services import sessions
from tests.services.processes import free_port, listens, spawn, wait_until
from tests.services.sessions import Process

ROOT = Path(__file__).resolve().parents[2]
SINK_PORTS = 4
_STANDS_STILL_S = 5.0
_TRIES = 200


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without any of the product's settings, and `extra`."""
    product = ("POSTBOTE_", "FW_EVENT_", "ES_", "ELASTIC_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(product)}
    return {**clean, "PYTHONPATH": str(ROOT), **extra}


@dataclass
class Worker:
    """One worker; what it logs over all its lives lies in `folder`, its journal on a disk that may be small."""

    name: str
    folder: Path
    journal: Path
    env: Mapping[str, str]
    command: Sequence[str] = ("worker.cli", "worker")
    port: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def ehlo(self) -> str:
        """The name that it gives to SMTP servers, by which the sink's log knows it."""
        return f"{self.name}.chaos.example.com"

    @property
    def log(self) -> Path:
        """What it wrote to standard error."""
        return self.folder / "log"

    def start(self) -> None:
        """Start it (again), on the same disk, under the same name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = {
            "POSTBOTE_WORKER_ID": self.name,
            "POSTBOTE_EHLO_NAME": self.ehlo,
            "POSTBOTE_JOURNAL_DIR": str(self.journal),
            "POSTBOTE_HTTP_PORT": str(self.port),
            "POSTBOTE_LOG_FORMAT": "json",
        }
        command = [sys.executable, "-m", *self.command]
        env = environment({**own, **self.env})
        self.process = spawn(sessions.current(), command, log=self.log, env=env, cwd=self.folder)

    @property
    def pid(self) -> int:
        """The process's id; it must have been started."""
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.alive()

    def ready(self) -> bool:
        """Whether /readyz says so."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, seconds: float = 40.0) -> None:
        """Wait until it consumes; raises ServiceUnavailable with the end of its log."""
        wait_until(self.ready, process=self.process, log=self.log, seconds=seconds)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process:
            self.process.kill()

    def stop_running(self) -> None:
        """SIGSTOP, until every thread of it stands still or it is gone."""
        self.send(signal.SIGSTOP)
        deadline = time.monotonic() + _STANDS_STILL_S
        while self.process and not stopped(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.001)

    def terminate(self, seconds: float) -> bool:
        """SIGTERM, and whether it ended in time; what is left after that is killed."""
        if self.process is None:
            return True
        self.process.send(signal.SIGCONT)
        self.process.send(signal.SIGTERM)
        ended = self.process.wait(seconds)
        self.process.kill()
        return ended

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it is gone."""
        if self.process:
            self.process.send(number)

    def lines_about(self, text: str, limit: int = 40) -> list[str]:
        """The last lines of its log that contain a text."""
        with self.log.open(errors="replace") as lines:
            return [line.rstrip()[:600] for line in lines if text in line][-limit:]


@dataclass
class Sink:
    """The SMTP server, over all its lives on the same ports with the same log."""

    folder: Path
    ports: tuple[int, ...] = field(default_factory=lambda: tuple(free_port() for _ in range(SINK_PORTS)))
    control: int = field(default_factory=free_port)
    process: Process | None = None
    _read: int = 0
    _mails: int = 0

    @property
    def log(self) -> Path:
        """One line for each mail that was kept."""
        return self.folder / "sink.log"

    def start(self) -> None:
        """Start it (again); no cut is ordered then."""
        ports = [argument for port in self.ports for argument in ("--port", str(port))]
        paths = ["--log", str(self.log), "--control", str(self.control)]
        command = [sys.executable, "-m", "tests.chaos.sink", *paths, *ports]
        console = self.folder / "sink.console"
        self.process = spawn(sessions.current(), command, log=console, env=environment({}), cwd=self.folder)
        wait_until(lambda: listens(self.control), process=self.process, log=console, seconds=20)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process:
            self.process.kill()

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it is gone."""
        if self.process:
            self.process.send(number)

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.alive()

    def order(self, **orders: Any) -> dict[Ends, tuple[str, int]]:
        """Order cuts or slowness, see `tests.chaos.sink`; returns when they hold.

        The answer: the name of each connection and how many octets were sent on it, by its ports.
        """
        with socket.create_connection(("127.0.0.1", self.control), timeout=10) as connection:
            connection.sendall(json.dumps(orders).encode() + b"\n")
            answer = json.loads(connection.makefile("rb").readline())
        return {(client, server): (link, sent) for client, server, link, sent in answer}

    def read_by(self, pid: int) -> dict[str, int]:
        """How many octets of each connection a process that stands still has read; what was sent and is not unread.

        Both books are read until the sender's says the same before and after the receiver's.
        """
        sent, ports = {}, frozenset(self.ports)
        for _ in range(_TRIES):
            before, waiting = self.order(), unread(pid, ports)
            after = self.order()
            sent = {ends: after[ends] for ends in waiting if ends in after}
            if all(before.get(ends) == after.get(ends) for ends in waiting):
                break
        return {link: octets - waiting[ends] for ends, (link, octets) in sent.items()}

    def counted(self) -> int:
        """How many mails it has kept, by reading only what was not read before."""
        if self.log.exists():
            with self.log.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            self._read += len(new)
            self._mails += new.count(b"\n")
        return self._mails

    def kept(self) -> Iterator[Kept]:
        """Every mail that it has kept; a line that a kill cut short was no answered mail."""
        if not self.log.exists():
            return
        for line in self.log.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield _kept(json.loads(line))


def _kept(line: dict[str, Any]) -> Kept:
    recipients, link, end = tuple(line["to"]), line["link"], line["end"]
    return Kept(line["id"], recipients, line["at"], line["ehlo"], line["replied"], line["sum"], link, end)
