"""The SMTP servers that every contender sends to, and how their mails are counted.

Two of them: Postfix's `smtp-sink` (C; no STARTTLS), and `tests.bench.sink` for STARTTLS and for
timestamps. Both run throughout the bench, so that all contenders meet the same process.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trustme

from tests.bench.venv import environment
from tests.services import sessions
from tests.services.processes import spawn, wait_until
from tests.services.smtp_sink import SmtpSink

_COUNTER = re.compile(rb"mesg=(\d+)")
_RECIPIENT = re.compile(rb"X-Rcpt-Args: <([^>]*)>")
_COUNTER_TAIL = 400


class Sink(Protocol):
    """A server on 127.0.0.1:`port` that counts; `ca_file` is set where it wants STARTTLS."""

    port: int
    ca_file: Path | None

    def count(self) -> int:
        """How many mails it has answered with 250 since it started."""
        ...

    def recipients(self, run: str) -> list[str]:
        """The recipients of the mails of one run, one entry per mail."""
        ...


@dataclass
class PostfixSink:
    """`smtp-sink`, with its counter and its dump of everything."""

    sink: SmtpSink
    port: int = field(init=False)
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        self.port = self.sink.port

    def count(self) -> int:
        """Read the last counter that it wrote."""
        with (self.sink.folder / "console.log").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _COUNTER_TAIL))
            found = _COUNTER.findall(file.read())
        return int(found[-1]) if found else 0

    def recipients(self, run: str) -> list[str]:
        """Find them in the dump."""
        domain = f"@{run}.example.com".encode()
        found = _RECIPIENT.findall((self.sink.folder / "mails").read_bytes())
        return [recipient.decode() for recipient in found if recipient.endswith(domain)]


@dataclass
class TimedSink:
    """`tests.bench.sink`, read through its log."""

    port: int
    ca_file: Path | None
    log: Path

    def count(self) -> int:
        """Count the lines, but the first, which is the port's."""
        return self.log.read_bytes().count(b"\n") - 1

    def recipients(self, run: str) -> list[str]:
        """Take them from the log."""
        return [recipient for _, recipient in self.answers(run)]

    def answers(self, run: str) -> list[tuple[int, str]]:
        """CLOCK_MONOTONIC in ns of each 250 to a mail of one run, and the recipient."""
        pairs = (line.split() for line in self.log.read_text().splitlines()[1:])
        return [(int(at), recipient) for at, recipient in pairs if recipient.endswith(f"@{run}.example.com")]


@contextmanager
def postfix_sink() -> Iterator[PostfixSink]:
    """Start `smtp-sink` with its counter and one dump file."""
    with SmtpSink(arguments=("-c", "-D", "mails")) as sink:
        yield PostfixSink(sink)


@contextmanager
def timed_sink(folder: Path, name: str, *, tls: bool) -> Iterator[TimedSink]:
    """Start `tests.bench.sink`, with a certificate for localhost where `tls`."""
    extra, ca_file = [], None
    if tls:
        ca_file, certificate = _certificate(folder)
        extra = ["--cert", str(certificate)]
    with listening(folder / f"{name}.log", "tests.bench.sink", *extra) as port:
        yield TimedSink(port, ca_file, folder / f"{name}.log")


@contextmanager
def listening(log: Path, module: str, *arguments: str) -> Iterator[int]:
    """Run one of the bench's own servers; yields the port that it wrote into its log."""
    console = log.with_suffix(".console")
    command = [sys.executable, "-m", module, "--log", str(log), *arguments]
    process = spawn(sessions.current(), command, log=console, env=environment())
    try:
        wait_until(lambda: log.exists() and b"\n" in log.read_bytes(), process=process, log=console, seconds=20)
        yield int(log.read_text().split("\n", 1)[0])
    finally:
        process.end(5)


def wait_for(sink: Sink, count: int, patience_s: float, process: subprocess.Popen[bytes] | None = None) -> bool:
    """Wait until the sink has `count` mails; False when none came for `patience_s` or `process` ended."""
    seen, since = sink.count(), time.monotonic()
    while seen < count:
        if time.monotonic() - since > patience_s or (process is not None and process.poll() is not None):
            return False
        time.sleep(0.01)  # polling: the sinks announce nothing
        now = sink.count()
        if now != seen:
            seen, since = now, time.monotonic()
    return True


def _certificate(folder: Path) -> tuple[Path, Path]:
    authority = trustme.CA()
    ca_file, certificate = folder / "ca.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    return ca_file, certificate
