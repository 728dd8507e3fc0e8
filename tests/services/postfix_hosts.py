"""Where a test's Postfix runs: Debian's package on this machine, or an image of our own with the same in it."""

import os
import re
import signal
import stat
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.services import containers, packages
from tests.services.processes import spawn
from tests.services.sessions import Process, Session
from tests.services.ways import Offer

PACKAGES = ("postfix", "postfix-sqlite", "libsasl2-modules", "sasl2-bin")
PROGRAMS = (
    "postfix",
    "smtp-sink",
    "saslpasswd2",
    "/usr/lib/postfix/postfix-sqlite.so",
    "/usr/lib/*/sasl2/libplain.so",
)
# Debian's installer writes /etc/postfix for the machine; the tests never run that instance.
PRESEED = "postfix postfix/main_mailer_type select Local only\n"
IMAGE = "postbote-tests-postfix:1"
BASE_IMAGE = "debian:trixie-slim"
DOCKERFILE = Path(__file__).parent / "postfix"
INSIDE = Path("/srv/postfix")  # the container keeps its queue to itself: sockets do not cross a mount on a Mac
DAEMONS = "/usr/lib/postfix/sbin"

# The folders of the queue in which a mail lies while it is on its way, and the bit that marks its file as whole.
# A process that is ended while it writes leaves a file without that bit: nobody was told 250, and nobody moves it.
MOVING = ("maildrop", "incoming", "active")
WHOLE = stat.S_IXUSR
# Group, mode, folders of the queue.
QUEUE_FOLDERS = (
    ("root", "700", "active bounce corrupt defer deferred flush hold incoming private saved trace"),
    ("postdrop", "730", "maildrop"),
    ("postdrop", "710", "public"),
)


class Host(Protocol):
    """Where Postfix's commands run: on this machine, or in a container."""

    def prepare(self) -> None: ...
    def start(self, command: list[str]) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def reload(self) -> None: ...
    def run(self, *command: str) -> None: ...
    def ended(self) -> bool: ...
    def queue_is_empty(self) -> bool: ...
    def resting(self, log: str) -> set[Process]: ...


def make_queue(run: Callable[..., None], queue: Path, data: Path) -> None:
    """The folders that `postfix check` would make, in two seconds, as it waits for a log daemon that is not there."""
    for group, mode, names in QUEUE_FOLDERS:
        made = [str(queue / name) for name in names.split()]
        run("install", "-d", "-o", "postfix", "-g", group, "-m", mode, *made)
    run("install", "-d", "-o", "root", "-m", "755", str(queue), str(queue / "pid"))
    run("install", "-d", "-o", "postfix", "-m", "700", str(data))


@dataclass
class Native:
    """Debian's Postfix, with configuration, queue and data folders of its own."""

    session: Session
    folder: Path
    master: Process | None = None

    def prepare(self) -> None:
        """Install what is missing, make the folders."""
        packages.install(PROGRAMS, PACKAGES, PRESEED)
        make_queue(self.run, self.folder / "queue", self.folder / "data")

    def start(self, command: list[str]) -> None:
        """Start the master in the foreground."""
        self.master = spawn(self.session, command, log=self.folder / "console.log", env=_environment())

    def stop(self) -> None:
        """SIGTERM to the master, which ends its children."""
        if self.master:
            self.master.end()

    def kill(self) -> None:
        """SIGKILL to the master's process group, which its children share."""
        if self.master and self.master.alive():
            os.killpg(self.master.pid, signal.SIGKILL)
            self.master.wait(5)

    def reload(self) -> None:
        """SIGHUP to the master."""
        if self.master:
            self.master.send(signal.SIGHUP)

    def run(self, *command: str) -> None:
        """Run a command."""
        subprocess.run(command, check=True, capture_output=True, env=_environment())

    def ended(self) -> bool:
        """Whether the master is gone."""
        return self.master is not None and not self.master.alive()

    def queue_is_empty(self) -> bool:
        """Whether no mail is on its way."""
        folders = [self.folder / "queue" / name for name in MOVING]
        return not any(_is_whole_mail(file) for folder in folders for file in folder.rglob("*"))

    def resting(self, log: str) -> set[Process]:
        """The processes that have served connections, as the log says, and wait for the next."""
        opened, closed = (
            Counter(re.findall(rf"smtpd\[(\d+)\]: {word} from", log)) for word in ("connect", "disconnect")
        )
        found = {Process.of(int(pid)) for pid, times in opened.items() if times == closed[pid] and _is_smtpd(pid)}
        return {process for process in found if process is not None}


def _is_whole_mail(file: Path) -> bool:
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:  # moved on, since its folder was listed
        return False
    return stat.S_ISREG(mode) and bool(mode & WHOLE)


def _is_smtpd(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "smtpd\n"
    except OSError:
        return False


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@dataclass
class InDocker:
    """Postfix in an image of our own; the folder is mounted at its own path, the queue stays inside."""

    session: Session
    folder: Path
    ports: tuple[int, int, int]
    container: containers.Container | None = None

    def prepare(self) -> None:
        """Build the image where it is missing, and start a container that waits for commands."""
        if self.container is not None:
            return
        containers.build(IMAGE, DOCKERFILE)
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(IMAGE).with_command(["sleep", "infinity"])
        container.with_volume_mapping(self.folder, str(self.folder), "rw")
        containers.publish(container, [(port, port) for port in self.ports])
        self.container = containers.Container(self.session, container)
        self.container.start()
        make_queue(self.run, INSIDE / "queue", INSIDE / "data")

    def start(self, command: list[str]) -> None:
        """Start the master beside the container's first process, which does nothing."""
        self.run("sh", "-c", f"setsid {' '.join(command)} >>{self.folder}/console.log 2>&1 &")

    def stop(self) -> None:
        """SIGTERM to the master; wait for its end."""
        self._end("TERM")

    def kill(self) -> None:
        """SIGKILL to the master and its children."""
        self._end("KILL")

    def reload(self) -> None:
        """SIGHUP to the master."""
        self.run("pkill", "-HUP", "-x", "master")

    def run(self, *command: str) -> None:
        """Run a command in the container."""
        assert self.container is not None
        status, output = self.container.run(*command)
        if status:
            raise subprocess.CalledProcessError(status, command, output)

    def ended(self) -> bool:
        """Not told apart from a slow start here: the deadline of `start` ends it."""
        return False

    def queue_is_empty(self) -> bool:
        """Whether no mail is on its way."""
        assert self.container is not None
        found = f'test -z "$(cd "$0" && find "$@" -type f -perm -{WHOLE:o})"'
        return self.container.run("sh", "-c", found, str(INSIDE / "queue"), *MOVING)[0] == 0

    def resting(self, _log: str) -> set[Process]:
        """Nobody: the container's processes are not seen from here."""
        return set()

    def _end(self, name: str) -> None:
        # The container's first process reaps nobody: an ended master stays as a zombie, which does not count.
        wait = "for i in $(seq 200); do pgrep -r R,S,D -x master >/dev/null || exit 0; sleep 0.05; done; exit 1"
        what = "pkill -TERM -x master" if name == "TERM" else "pkill -KILL -x master; pkill -KILL -u postfix"
        self.run("sh", "-c", f"{what}; {wait}")


def _native_closed() -> str | None:
    if os.geteuid():
        return "run the tests as root (Postfix's master needs it)"
    return packages.installable(PROGRAMS, PACKAGES)


def _docker_closed() -> str | None:
    return containers.engine_closed() or (None if containers.has_image(IMAGE) else containers.image_closed(BASE_IMAGE))


OFFER = Offer(name="Postfix", url_variable=None, docker=_docker_closed, native=_native_closed)
