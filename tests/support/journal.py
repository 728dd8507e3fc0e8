"""Runs the plays of `journal_processes`: real processes that use journals and are killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RESERVE_OCTETS = 100_000
"""A reserve for small disks."""


def play(name: str, folder: Path, *numbers: int) -> dict[str, Any]:
    """Run one play in `folder`, made where it is missing, and return what it found."""
    folder.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.journal_processes", name, str(folder), *map(str, numbers)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
