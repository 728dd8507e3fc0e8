"""The contenders' own virtual environment: build/bench-venv, from requirements/bench.lock alone.

Postbote itself runs from .venv, as installed; neither sees the other's packages.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
FOLDER = BUILD / "bench-venv"
PYTHON = FOLDER / "bin/python"
LOCK = ROOT / "requirements/bench.lock"


def prepare() -> None:
    """Make it, or leave it as it is where it was made from this very lock."""
    mark = FOLDER / "made-from"
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return
    print(f"installing the contenders into {FOLDER.relative_to(ROOT)} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True, timeout=120)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    subprocess.run([*pip, "-r", str(LOCK)], check=True, timeout=600)
    mark.write_text(digest)


def environment(**extra: str) -> dict[str, str]:
    """The environment for a contender's process: this one's, without what would change Postbote's settings."""
    ours = ("POSTBOTE_", "FW_EVENT_", "ES_", "ELASTIC_", "CELERY_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), **extra}
