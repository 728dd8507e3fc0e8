"""MIME entities (RFC 2045, 2046, 2387): text, files, and the multiparts that hold them.

A body is made canonical (CRLF) once, here, and takes the mildest transfer encoding that any
server carries: 7bit where it is short-lined ASCII, quoted-printable where it is mostly ASCII,
base64 else. Nothing here needs 8BITMIME.
"""

import hashlib
import re
from base64 import b64decode, b64encode
from binascii import b2a_qp
from collections.abc import Sequence
from typing import NamedTuple

from schemas.event import Attachment
from worker.errors import RenderError
from worker.message.parameters import filename_parameters

MAX_BODY_LINE = 998  # RFC 5322 section 2.1.1, without the CRLF
_BASE64_LINE = 76
_PLAIN_OCTETS = bytes([0x09, 0x0A, 0x0D, *range(0x20, 0x7F)])
# Quoted-printable makes three octets of one, base64 four of three: they meet where one in six is not ASCII.
_QP_SHARE = 6
_FROM_LINE = re.compile(rb"^From ", re.MULTILINE)
# Base64 is forbidden for these (RFC 2046 section 5.2.1), and a reader would unfold them into the mail.
_COMPOSITE = ("multipart/", "message/")


class Entity(NamedTuple):
    """Header lines (each with its CRLF) and the encoded body in pieces, ending in CRLF.

    `searchable` marks a body in which a boundary could occur: 7bit alone, since no encoding
    leaves ``=_`` standing.
    """

    head: str
    body: Sequence[bytes]
    searchable: bool = False


def canonical(text: str) -> str:
    """Return `text` with every line end (CRLF, lone CR, lone LF) as CRLF, and one at the end."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.endswith("\n"):
        text += "\n"
    return text.replace("\n", "\r\n")


def text_entity(subtype: str, text: str, path: str) -> Entity:
    """Return a ``text/plain`` or ``text/html`` entity. Raises RenderError naming `path`."""
    if "\0" in text:
        raise RenderError(path, "character U+0000 is not allowed")
    lines = canonical(text)
    try:
        octets = lines.encode()
    except UnicodeEncodeError as error:
        raise RenderError(path, f"lone surrogate at position {error.start} is not allowed") from None
    encoding, body = _encode_text(octets, len(lines))
    head = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n"
    return Entity(head, body, searchable=encoding == "7bit")


def _encode_text(octets: bytes, characters: int) -> tuple[str, Sequence[bytes]]:
    # A character of two octets counts one here, of three two: close enough to choose by, and free.
    beyond_ascii = 2 * (len(octets) - characters)
    if not beyond_ascii and _is_plain(octets):
        return "7bit", (octets,)
    if beyond_ascii * _QP_SHARE > len(octets):
        return "base64", _base64(octets)
    return "quoted-printable", (_quoted_printable(octets),)


def _quoted_printable(octets: bytes) -> bytes:
    encoded = b2a_qp(octets, istext=True)
    # b2a_qp leaves "From " alone, which mail stores of the mbox kind would turn into ">From ".
    return _FROM_LINE.sub(b"=46rom ", encoded) if b"From " in encoded else encoded


def _is_plain(octets: bytes) -> bool:
    return not octets.translate(None, _PLAIN_OCTETS) and not _has_from_line(octets) and _is_short_lined(octets)


def _has_from_line(octets: bytes) -> bool:
    # One octet is found, or found missing, ten times as fast as a word.
    return b"F" in octets and (octets.startswith(b"From ") or b"\nFrom " in octets)


def _is_short_lined(octets: bytes) -> bool:
    """Whether no line is too long: from the beginning of a line, the last line end within reach is the next step."""
    start, reach = 0, MAX_BODY_LINE + len(b"\r\n")
    while len(octets) - start > reach:
        end = octets.rfind(b"\r\n", start, start + reach)
        if end < 0:
            return False
        start = end + len(b"\r\n")
    return True


def _base64(octets: bytes) -> tuple[bytes, ...]:
    encoded = b64encode(octets)
    lines = [encoded[start : start + _BASE64_LINE] for start in range(0, len(encoded), _BASE64_LINE)]
    return (b"\r\n".join(lines), b"\r\n")


def file_entity(attachment: Attachment, path: str) -> Entity:
    """Return an attachment in base64; composite types travel as ``application/octet-stream``.

    Raises RenderError naming a field below `path`.
    """
    kind = attachment.content_type.lower()
    if kind.startswith(_COMPOSITE):
        kind = "application/octet-stream"
    name, filename = filename_parameters(attachment.filename, f"{path}.filename")
    content_id = f"Content-ID: <{attachment.content_id}>\r\n" if attachment.content_id else ""
    head = (
        f"Content-Type: {kind}{name}\r\n"
        f"Content-Disposition: {attachment.disposition}{filename}\r\n"
        f"Content-Transfer-Encoding: base64\r\n{content_id}"
    )
    return Entity(head, _base64(b64decode(attachment.content)))


def is_inline(attachment: Attachment) -> bool:
    """Tell whether an attachment belongs beside the HTML that shows it."""
    return attachment.disposition == "inline"


def body_entity(text: Entity | None, html: Entity | None, inline: Sequence[Entity], boundary: str) -> Entity:
    """Return the words of a mail: plain, HTML, or both as alternatives, plainest first (RFC 2046 section 5.1.4).

    `inline` files go to a ``multipart/related`` around the HTML (RFC 2387). One of `text` and
    `html` is given.
    """
    if html is not None and inline:
        html = multipart('related; type="text/html"', [html, *inline], f"{boundary}r")
    if text is not None and html is not None:
        return multipart("alternative", [text, html], f"{boundary}a")
    whole = html if text is None else text
    if whole is None:
        raise RenderError("data", "has neither text nor html")
    return whole


def multipart(subtype: str, parts: Sequence[Entity], boundary: str) -> Entity:
    """Return ``multipart/subtype`` of `parts`; the caller vouches for `boundary` (see `pick_boundary`)."""
    body: list[bytes] = []
    for part in parts:
        body += (f"--{boundary}\r\n{part.head}\r\n".encode(), *part.body, b"\r\n")
    body.append(f"--{boundary}--\r\n".encode())
    return Entity(f'Content-Type: multipart/{subtype};\r\n boundary="{boundary}"\r\n', body)


def pick_boundary(seed: str, leaves: Sequence[Entity]) -> str:
    """Return the stem of a message's boundaries, which occurs in none of `leaves`.

    The three boundaries made of it differ in a last letter, so none begins another. A body that
    holds the stem moves it to a digest of the bodies themselves, which nobody can write into them.
    """
    stem = f"=_{seed}"  # "=_" can stand neither in quoted-printable nor in base64
    searched = [b"".join(leaf.body) for leaf in leaves if leaf.searchable]  # one piece each, which is not copied
    while any(stem.encode() in body for body in searched):
        digest = hashlib.sha256(stem.encode())
        for leaf in leaves:
            digest.update(b"".join(leaf.body))
        stem = f"=_{digest.hexdigest()[:32]}"
    return stem
