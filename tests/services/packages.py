"""Debian packages that a native server needs, installed on demand without starting anything."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.services.processes import tail
from tests.services.sessions import locked, run_root
from tests.services.ways import ServiceUnavailable

POLICY = Path("/usr/sbin/policy-rc.d")
NEVER_START = "#!/bin/sh\n# Written while tests install packages: their services stay off.\nexit 101\n"


def missing(programs: Sequence[str]) -> list[str]:
    """Which of these are not installed: programs by name, files by an absolute path, which may be a pattern."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in programs if not (_files(name) if name.startswith("/") else shutil.which(name, path=path))]


def _files(pattern: str) -> list[Path]:
    return list(Path("/").glob(pattern.lstrip("/")))


def installable(programs: Sequence[str], packages: Sequence[str]) -> str | None:
    """None where the programs are there or could be installed; else the command for the user."""
    if not missing(programs) or (os.geteuid() == 0 and shutil.which("apt-get")):
        return None
    return f"as root: apt-get install {' '.join(packages)}"


def install(programs: Sequence[str], packages: Sequence[str], preseed: str = "") -> None:
    """Install the packages unless the programs are there; the services in them do not start."""
    if not missing(programs):
        return
    with locked("apt"):
        if missing(programs):
            with _services_stay_off():
                _apt(packages, preseed)
        if still := missing(programs):
            msg = f"installed {', '.join(packages)}, and still missing: {', '.join(still)}"
            raise ServiceUnavailable(msg)


def _apt(packages: Sequence[str], preseed: str) -> None:
    log = run_root() / "apt.log"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    if preseed:
        subprocess.run(["debconf-set-selections"], input=preseed, text=True, check=True, env=env)
    with log.open("w") as output:

        def run(*arguments: str) -> int:
            return subprocess.run([*get, *arguments], stdout=output, stderr=output, env=env, check=False).returncode

        wanted = ("install", "-y", "--no-install-recommends", *packages)
        # The lists of a fresh machine are empty, or older than the mirror.
        if run(*wanted) and (run("update") or run(*wanted)):
            msg = f"apt-get install {' '.join(packages)} failed:\n{tail(log)}"
            raise ServiceUnavailable(msg)


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """Debian starts a service as it installs it, unless policy-rc.d says 101; what stood there comes back."""
    saved = POLICY.with_name("policy-rc.d.before-postbote-tests")
    if POLICY.exists() and not saved.exists():
        shutil.copy2(POLICY, saved)
    POLICY.write_text(NEVER_START)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if saved.exists():
            saved.replace(POLICY)
        else:
            POLICY.unlink()
