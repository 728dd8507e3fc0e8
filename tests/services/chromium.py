"""The system's Chromium, for looking at pages: as pictures, and as figures measured in their layout.

Chromium lays nothing out narrower than 500 px, whatever ``--window-size`` says, and cuts the picture off instead:
a phone's page would pass without having been one. So each page stands in a frame of the width that is meant.
The frames are what a mail client makes of a mail: no script of theirs runs, and no host name resolves.
"""

import json
import os
import re
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.services import packages
from tests.services.processes import tail
from tests.services.ways import ServiceUnavailable

PROGRAM = "/usr/bin/chromium"
# The fonts make pictures alike on every machine: with them Arial has its own widths, and emoji are not boxes.
PACKAGES = ("chromium", "fonts-liberation", "fonts-noto-color-emoji")
PATIENCE_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Chromium keeps 143 px of a window for a toolbar that nobody sees, and leaves pages unpainted in what is too low for it.
LOWEST_WINDOW = 400
DARK = "--blink-settings=preferredColorScheme=0"

# The answer is read back out of markup: percent-encoded, nothing in it can end the element that holds it.
_MEASURING = """
<script id="measured" type="text/plain"></script>
<script>
const measure = (window, document) => { %s };
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(f => measure(f.contentWindow, f.contentDocument));
  document.getElementById("measured").textContent = encodeURIComponent(JSON.stringify(found));
});
</script>
"""


@dataclass(frozen=True)
class Frame:
    """A page, the width in CSS pixels to lay it out in, and the height of its window."""

    html: str
    width: int
    height: int = 900

    def markup(self) -> str:
        """The frame as an element of the page around it."""
        size = f'width="{self.width}" height="{self.height}"'
        return f'<iframe sandbox="allow-same-origin" {size} srcdoc="{escape(self.html)}"></iframe>'


def measure(frames: Sequence[Frame], script: str, *, dark: bool = False) -> list[Any]:
    """What `script`, the body of a function of `window` and `document`, returns in each frame, by one start.

    `dark` is a reader who prefers a dark colour scheme. Raises `ServiceUnavailable`.
    """
    markup = _run(_around(frames) + _MEASURING % script, ["--dump-dom"], dark=dark)
    found = re.search(r'<script id="measured" type="text/plain">(.+?)</script>', markup)
    if found is None:
        msg = f"Chromium ended before the page was measured; it left {markup[-300:]!r}"
        raise ServiceUnavailable(msg)
    measured: list[Any] = json.loads(unquote(found[1]))
    return measured


def draw(frames: Sequence[Frame], picture: Path, *, dark: bool = False) -> None:
    """Write a PNG of the frames side by side. Raises `ServiceUnavailable`."""
    picture.unlink(missing_ok=True)  # an older picture must not stand for one that was never drawn
    width = sum(frame.width for frame in frames)
    height = max(LOWEST_WINDOW, *(frame.height for frame in frames))
    window = [f"--window-size={width},{height}", f"--screenshot={picture.absolute()}"]
    _run(_around(frames), window, dark=dark)
    if not picture.exists():
        msg = f"Chromium ended and left no picture at {picture}"
        raise ServiceUnavailable(msg)


def _around(frames: Sequence[Frame]) -> str:
    style = "<style>body{margin:0;display:flex;align-items:start}iframe{border:0;flex:none}</style>"
    return "".join(['<!DOCTYPE html><meta charset="utf-8">', style, *(frame.markup() for frame in frames)])


def _run(page: str, wanted: Sequence[str], *, dark: bool) -> str:
    """One start of Chromium on a page, with a profile of its own; what it printed."""
    _require()
    with tempfile.TemporaryDirectory(prefix="postbote-chromium-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        (home / "page.html").write_text(page, encoding="utf-8")
        flags = [*FLAGS, *([DARK] if dark else []), f"--user-data-dir={home / 'profile'}", *wanted]
        return _output([PROGRAM, *flags, (home / "page.html").as_uri()], home)


def _output(command: Sequence[str], home: Path) -> str:
    log = home / "log"
    with log.open("wb") as errors:
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "HOME": str(home)},
                timeout=PATIENCE_S,
                check=True,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            how = "was too slow" if isinstance(error, subprocess.TimeoutExpired) else f"ended with {error.returncode}"
            msg = f"Chromium {how}:\n{tail(log)}"
            raise ServiceUnavailable(msg) from error
    return done.stdout.decode()


def _require() -> None:
    how = packages.installable((PROGRAM,), PACKAGES)
    if how is not None:
        msg = f"no Chromium to look at pages with; {how}"
        raise ServiceUnavailable(msg)
    packages.install((PROGRAM,), PACKAGES)


def colours(picture: Path) -> Counter[tuple[int, int, int]]:
    """How many pixels of a PNG, of 8-bit RGB as Chromium draws it, have each colour (red, green, blue)."""
    found: Counter[tuple[int, int, int]] = Counter()
    for row, times in Counter(_rows(picture.read_bytes())).items():  # half the rows of a page are like another
        for colour, pixels in Counter(zip(row[::3], row[1::3], row[2::3], strict=True)).items():
            found[colour] += pixels * times
    return found


def _rows(png: bytes) -> Iterator[bytes]:
    """The rows of pixels, unfiltered (PNG specification, section 9)."""
    width, depth_and_colour = int.from_bytes(png[16:20], "big"), png[24:26]
    if not png.startswith(b"\x89PNG\r\n\x1a\n") or depth_and_colour != b"\x08\x02":
        msg = "not a PNG of 8-bit RGB"
        raise ValueError(msg)
    size = 3 * width
    data = zlib.decompress(b"".join(_chunks(png, b"IDAT")))
    above = bytes(size)
    for start in range(0, len(data), size + 1):
        above = _unfiltered(data[start], data[start + 1 : start + 1 + size], above)
        yield above


def _chunks(png: bytes, wanted: bytes) -> Iterator[bytes]:
    position = 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        if png[position + 4 : position + 8] == wanted:
            yield png[position + 8 : position + 8 + length]
        position += length + 12


def _unfiltered(kind: int, line: bytes, above: bytes) -> bytes:
    """One row from its filter type (None, Sub, Up, Average, Paeth), its octets and the row above."""
    if kind == 0:
        return line
    if kind == 2:  # most rows of a page: worth a fast way
        return bytes((octet + up) & 255 for octet, up in zip(line, above, strict=True)) if any(line) else above
    row = bytearray(3)  # three octets of nothing stand to the left of the first pixel
    for octet, up, corner in zip(line, above, bytes(3) + above[:-3], strict=True):
        row.append((octet + _predicted(kind, row[-3], up, corner)) & 255)
    return bytes(row[3:])


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 3:
        return (left + up) // 2
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner
