"""A wall clock that can be moved for the workers alone: Debian's libfaketime, steered by a file.

It stands between a process and the C library's clocks, so everything in the process sees the
moved time, sqlite and TLS as well as Python. The monotonic clock is left alone, as a real jump of
the wall clock leaves it. (Patching `time` and `datetime` inside the worker would have reached the
product's own calls only, and pydantic compares with the real `datetime` class.)
"""

from dataclasses import dataclass
from pathlib import Path

from tests.services import packages

_LIBRARY = "/usr/lib/*/faketime/libfaketime.so.1"
_PACKAGES = ("libfaketime",)
SEEN_WITHIN_S = 2.0
"""The library reads its file again at most once a second."""


@dataclass(frozen=True)
class Clock:
    """The workers' wall clock; `offset_s` 0 is the true time."""

    file: Path

    def environment(self) -> dict[str, str]:
        """What a worker is started with; installs the library where it is missing. Raises ServiceUnavailable."""
        packages.install((_LIBRARY,), _PACKAGES)
        (library,) = Path("/").glob(_LIBRARY.lstrip("/"))
        self.set(0)
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_s: int) -> None:
        """Move the clock; the workers see it within `SEEN_WITHIN_S`."""
        moved = self.file.with_suffix(".new")
        moved.write_text(f"{offset_s:+}\n")
        moved.replace(self.file)  # a reader sees the old offset or the new one, never half of one
