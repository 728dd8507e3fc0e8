"""Parameters of Content-Type and Content-Disposition: file names in any script (RFC 2231)."""

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote

from worker.message.headers import MAX_LINE, require_one_line

# Inside quotes these need no escape, and no reader mistakes them for anything else.
_PLAIN_VALUE = re.compile(
    r"[A-Za-z0-9!#$&+,.@^_`{|}~()\[\]-](?:[A-Za-z0-9 !#$&+,.@^_`{|}~()\[\]-]{0,58}[A-Za-z0-9!#$&+,.@^_`{|}~()\[\]-])?\Z"
)
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 !#$&+,.@^_`{|}~()\[\]-]")
_ESCAPED = re.compile("%[0-9A-F]{2}|.")
_MAX_FALLBACK = 60


def filename_parameters(filename: str, path: str) -> tuple[str, str]:
    """Return the parameters ``; name=...`` for Content-Type and ``; filename=...`` for Content-Disposition.

    The disposition carries the exact name, percent-encoded where it is not plain ASCII. The type
    carries an ASCII likeness of it for readers older than RFC 2231. Raises RenderError.
    """
    require_one_line(filename, path)
    if _PLAIN_VALUE.match(filename):
        return f';\r\n name="{filename}"', f';\r\n filename="{filename}"'
    return f';\r\n name="{_ascii_likeness(filename)}"', "".join(_extended("filename", filename))


def _ascii_likeness(filename: str) -> str:
    decomposed = unicodedata.normalize("NFKD", filename)
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    stem, dot, extension = _NOT_PLAIN.sub("_", bare).rpartition(".")
    keep = max(_MAX_FALLBACK - len(dot + extension), 1)
    return f"{stem[:keep]}{dot}{extension}"[:_MAX_FALLBACK].strip() or "attachment"


def _extended(name: str, value: str) -> Iterator[str]:
    """The value in one piece where a line holds it, else in numbered pieces (RFC 2231 section 4.1)."""
    escaped = quote(value, safe="!#$&+-.^_`{}~")
    if len(name) + len(escaped) + len(" *=utf-8''") <= MAX_LINE:
        yield f";\r\n {name}*=utf-8''{escaped}"
        return
    charset = "utf-8''"
    for number, piece in enumerate(_pieces(escaped, MAX_LINE - len(f" {name}*000*=utf-8'';"))):
        yield f";\r\n {name}*{number}*={charset}{piece}"
        charset = ""


def _pieces(escaped: str, room: int) -> Iterator[str]:
    piece = ""
    for unit in _ESCAPED.findall(escaped):
        if len(piece) + len(unit) > room:
            yield piece
            piece = ""
        piece += unit
    yield piece
