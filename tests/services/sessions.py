"""Who started what: one folder per session, and the ends of everything begun in it.

A session is one pytest run, or one `python -m tests.services up`. Its folder lists the processes
and containers that it started. A process is named by its pid *and* its start time, so that a pid
which the kernel has given to somebody else is never signalled. A session that died without
cleaning up (kill -9) is cleaned up by the next one to start.
"""

import atexit
import fcntl
import functools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 20.0


def run_root() -> Path:
    """The folder that holds all sessions and the cache; other users must be able to pass through it."""
    root = Path(os.environ.get("POSTBOTE_TEST_RUN") or "/var/tmp/postbote-tests").absolute()
    root.mkdir(parents=True, exist_ok=True)
    return root


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One holder on this machine at a time: for apt, and for what is put into the cache."""
    with (run_root() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start_ticks(pid: int) -> str | None:
    """The kernel's start time of a live process; None where it is gone or a zombie."""
    try:
        # The command, in brackets, may itself hold brackets and spaces: count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Process:
    """A process of ours, recognised again from any other process."""

    pid: int
    ticks: str

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The live process with this pid."""
        ticks = start_ticks(pid)
        return cls(pid, ticks) if ticks else None

    @classmethod
    def noted(cls, note: Path) -> "Process":
        """The process, gone or not, that a session's note names."""
        pid, ticks = note.read_text().split()
        return cls(int(pid), ticks)

    def alive(self) -> bool:
        """Whether it still runs; reaps it where it is a child of ours, so that no zombie stays."""
        with suppress(ChildProcessError):
            # More exact than /proc, where a killed process is a zombie while its other threads still hold its ports.
            return os.waitpid(self.pid, os.WNOHANG) == (0, 0)
        return start_ticks(self.pid) == self.ticks

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it is gone."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait for its end; False when it outlived the patience."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def end(self, seconds: float = PATIENCE_S) -> None:
        """Ask it to end, and kill it when it does not."""
        self.send(signal.SIGCONT)  # a paused process would hear nothing
        self.send(signal.SIGTERM)
        if not self.wait(seconds):
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait(PATIENCE_S)


@dataclass(frozen=True)
class Session:
    """One session's folder; `register` what starts, `end` stops it all."""

    folder: Path

    @classmethod
    def open(cls, name: str | None = None) -> "Session":
        """Make a session's folder, owned by this process."""
        base = run_root() / "sessions"
        base.mkdir(exist_ok=True)
        folder = base / name if name else Path(tempfile.mkdtemp(prefix="s", dir=base))
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        session = cls(folder)
        session.own()
        return session

    def own(self) -> None:
        """Record this process as the session's owner."""
        me = Process.of(os.getpid())
        assert me is not None
        (self.folder / "owner").write_text(f"{me.pid} {me.ticks}")

    def abandoned(self) -> bool:
        """Whether its owner is gone; one without an owner was left running on purpose, by `up`."""
        try:
            pid, ticks = (self.folder / "owner").read_text().split()
        except (OSError, ValueError):
            return False
        return start_ticks(int(pid)) != ticks

    def keep(self) -> None:
        """Let what was started outlive this process; `down` ends it."""
        (self.folder / "owner").unlink(missing_ok=True)

    def subfolder(self, name: str) -> Path:
        """A new folder in this session's own, with a free name."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        folder.chmod(0o755)
        return folder

    def register(self, process: Process) -> None:
        """Note a process, for `end`."""
        (self.folder / f"process-{time.monotonic_ns():020}").write_text(f"{process.pid} {process.ticks}")

    def register_container(self, identity: str) -> None:
        """Note a container, for `end`."""
        (self.folder / f"container-{identity}").touch()

    def end(self) -> None:
        """Stop everything that was registered and delete the folder."""
        processes = [Process.noted(note) for note in sorted(self.folder.glob("process-*"), reverse=True)]
        for process in processes:
            process.send(signal.SIGCONT)
            process.send(signal.SIGTERM)
        for process in processes:
            # The data are deleted below: nobody needs a long and careful shutdown.
            if not process.wait(1.5):
                process.kill()
        for note in self.folder.glob("container-*"):
            _remove_container(note.name.removeprefix("container-"))
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove_container(identity: str) -> None:
    import docker  # type: ignore[import-untyped]
    from docker.errors import DockerException  # type: ignore[import-untyped]

    with suppress(DockerException):
        docker.from_env().containers.get(identity).remove(force=True, v=True)


def end_abandoned() -> None:
    """End what sessions left behind whose owners are gone."""
    with locked("sessions"):
        for folder in (run_root() / "sessions").glob("*"):
            session = Session(folder)
            if session.abandoned():
                session.end()


@functools.cache
def current() -> Session:
    """This process's session, ended when the process ends."""
    end_abandoned()
    session = Session.open()
    atexit.register(_end_if_owner, session, os.getpid())
    return session


def end_current() -> None:
    """End this process's session now, if it has one: a process that is given seconds to exit might not get there."""
    if current.cache_info().currsize:
        current().end()
        current.cache_clear()


def _end_if_owner(session: Session, owner: int) -> None:
    # A forked child runs the same exit handlers and must leave its parent's servers alone.
    if os.getpid() == owner:
        session.end()
