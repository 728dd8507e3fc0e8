"""A disk small enough to be filled: a tmpfs of a few MiB, which the kernel keeps when a worker is killed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.ways import ServiceUnavailable

# Three workers' reserves and, between a kill and the start after it, three dead ones', of 8 MiB each.
SIZE_MIB = 64
_CHUNK = b"\0" * 65536


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount one at `folder`; needs root, or sudo without a password. Raises ServiceUnavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    _as_root("mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=0777", "postbote-chaos", str(folder))
    try:
        yield folder
    finally:
        _as_root("umount", "-l", str(folder))


def fill(folder: Path) -> None:
    """Write until nothing more fits, to the octet."""
    with (folder / "ballast").open("ab", buffering=0) as ballast:
        for size in (len(_CHUNK), 4096, 1):
            _write_until_full(ballast.fileno(), _CHUNK[:size])


def _write_until_full(descriptor: int, chunk: bytes) -> None:
    try:
        while True:
            os.write(descriptor, chunk)
    except OSError as error:
        if error.errno != 28:  # ENOSPC is what this is for
            raise


def free(folder: Path) -> None:
    """Give the room back."""
    (folder / "ballast").unlink(missing_ok=True)


def _as_root(*command: str) -> None:
    prefix = () if os.geteuid() == 0 else ("sudo", "-n")
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"a small disk needs root: `{' '.join(command)}` said {done.stderr.strip()}"
        raise ServiceUnavailable(msg)
