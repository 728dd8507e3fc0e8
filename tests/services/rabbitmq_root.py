"""Which RabbitMQ the native way runs: the machine's own package, or one in a root file system of its own.

Another release of Debian in a folder brings another RabbitMQ, with the Erlang and the libc that it wants:

    mmdebstrap --variant=apt --include=rabbitmq-server trixie FOLDER     # Debian 13: RabbitMQ 4.0
    POSTBOTE_TEST_RABBITMQ_ROOT=FOLDER python -m pytest tests/integration/test_rabbit.py

Its programs run by chroot, in a mount namespace that ends with them. Ports, process ids and the session's
folder are the machine's, so that starting, killing and reading logs are the same for both. The shell
and chroot become the program, so the pid that was started is the program's.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.services import packages
from tests.services.sessions import run_root
from tests.services.ways import ServiceUnavailable

VARIABLE = "POSTBOTE_TEST_RABBITMQ_ROOT"
BIN = "/usr/lib/rabbitmq/bin"  # /usr/sbin holds Debian's wrappers, which serve the system's own instance
PACKAGES = ("rabbitmq-server",)
PROGRAMS = (f"{BIN}/rabbitmq-server", "epmd")

# $1 the root, $2 what both worlds share, $3 the working folder, $4 user:group, then the program.
_ENTER = """\
set -e
mkdir -p "$1$2" && touch "$1/etc/hosts"
mount --rbind /proc "$1/proc" && mount --rbind /dev "$1/dev"
mount --bind /etc/hosts "$1/etc/hosts" && mount --bind "$2" "$1$2"
root=$1 folder=$3 owner=$4
shift 4
exec /usr/sbin/chroot --userspec="$owner" --groups= "$root" /usr/bin/env --chdir="$folder" "$@"
"""


@dataclass(frozen=True)
class Installation:
    """RabbitMQ's programs below `root`; `/` is the machine itself, where the package is installed on demand."""

    root: Path

    @property
    def apart(self) -> bool:
        """Whether it lies in a root of its own."""
        return self.root != Path("/")

    def closed(self) -> str | None:
        """None where it can be run, else what is missing."""
        if not self.apart:
            return packages.installable(PROGRAMS, PACKAGES)
        if os.geteuid() != 0:
            return f"{VARIABLE} is set: entering another root takes root's rights"
        if not (self.root / BIN.lstrip("/") / "rabbitmq-server").exists():
            return f"mmdebstrap --variant=apt --include=rabbitmq-server trixie {self.root}"
        return None

    def provide(self) -> None:
        """Make sure that the programs are there; raises ServiceUnavailable."""
        if not self.apart:
            packages.install(PROGRAMS, PACKAGES)
        elif reason := self.closed():
            raise ServiceUnavailable(reason)

    def owner(self) -> tuple[int, int]:
        """The user and group that its broker runs as: those of the folder that the package makes for it."""
        found = (self.root / "var/lib/rabbitmq").stat()
        return found.st_uid, found.st_gid

    def user(self) -> str | None:
        """Whom a process is started as; None for the caller: without root's rights, and where chroot switches."""
        return "rabbitmq" if os.geteuid() == 0 and not self.apart else None

    def command(self, *words: str, cwd: Path) -> Sequence[str]:
        """The command line that runs `words`, a program of RabbitMQ's and its arguments, in `cwd`."""
        if not self.apart:
            return words
        uid, gid = self.owner()
        enter = ("/bin/sh", "-c", _ENTER, "enter", str(self.root), str(run_root()), str(cwd), f"{uid}:{gid}")
        return ("/usr/bin/unshare", "--mount", "--propagation", "private", *enter, *words)


def installation() -> Installation:
    """The one that the environment names, else the machine's own."""
    return Installation(Path(os.environ.get(VARIABLE) or "/").resolve())
