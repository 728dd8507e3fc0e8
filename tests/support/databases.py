"""SQLite databases for tests: the schema is made once for each test process, and copied from then on."""

import shutil
import tempfile
from pathlib import Path

from worker.store.database import Store

_TEMPLATES: list[Path] = []


async def upgraded(database: Store) -> None:
    """Bring a test's database to this version's schema; a SQLite file that is not there yet is a copy."""
    if database.is_sqlite:
        if not _TEMPLATES:
            _TEMPLATES.append(await _make_template())
        _copy_unless_there(_TEMPLATES[0], Path(database.location))
    await database.upgrade()


def _copy_unless_there(template: Path, path: Path) -> None:
    if not path.exists():
        shutil.copy(template, path)  # with its mode: the owner alone reads it


async def _make_template() -> Path:
    path = Path(tempfile.mkdtemp(prefix="postbote-template-")) / "postbote.db"
    store = Store(f"sqlite:///{path}")
    await store.upgrade()
    await store.close()  # the last connection moves what is in the -wal file into the file itself
    return path
