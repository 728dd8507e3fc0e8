"""Header lines: unstructured text, encoded words (RFC 2047) and folding (RFC 5322 section 2.2.3).

Nothing that could end a line early gets past `require_one_line`: every value is looked at here
again although the schemas refuse controls, because templates fill in values of their own.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator

from schemas.text import one_line
from worker.errors import RenderError

# RFC 5322 recommends 78; RFC 2047 section 2 demands 76 of lines with encoded words. One limit for both.
MAX_LINE = 76
# Still far below the hard limit of 998 with the longest name (76) in front of it.
MAX_TOKEN = 900
MAX_ENCODED_WORD = 75
_OVERHEAD = len("=?utf-8?q??=")

# What stands for itself in an encoded word even inside a phrase (RFC 2047 section 5, rule 3).
_LITERAL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"
_LITERAL_CHARS = frozenset(_LITERAL.decode() + " ")
_Q = [chr(octet) if octet in _LITERAL else f"={octet:02X}" for octet in range(256)]
_Q[ord(" ")] = "_"
_TOKEN = re.compile(" *[^ ]+")


def require_one_line(value: str, path: str) -> None:
    """Raise RenderError naming `path` if `value` holds a control, a line end or a lone surrogate."""
    if value.isprintable():  # the quick answer for nearly every value; also false for harmless ones
        return
    try:
        one_line(value)
    except ValueError as error:
        raise RenderError(path, str(error)) from None


def text_header(name: str, value: str, path: str) -> str:
    """Return a header of free text, folded and encoded as needed, with its CRLF.

    A reader gets `value` back to the character. Raises RenderError naming `path`.
    """
    require_one_line(value, path)
    if not value:
        return f"{name}:\r\n"
    if not stands_as_it_is(value):
        return fold(name, (f" {word}" for word in encoded_words(value, MAX_LINE - len(name) - 2)))
    if len(name) + len(value) + 2 <= MAX_LINE:
        return f"{name}: {value}\r\n"
    tokens: list[str] = _TOKEN.findall(f" {value}")
    if max(map(len, tokens)) > MAX_TOKEN:
        return fold(name, (f" {word}" for word in encoded_words(value)))
    return fold(name, tokens)


def stands_as_it_is(value: str) -> bool:
    """Tell whether a value needs no encoding: ASCII, no blank at an end, nothing like an encoded word."""
    return value.isascii() and "=?" not in value and value[0] != " " and value[-1] != " "


def fold(name: str, tokens: Iterable[str]) -> str:
    """Return `name: tokens`, broken before a token wherever the line would pass 76 octets.

    Each token brings the blanks in front of it, so that unfolding gives the same text back. A
    token that is longer than a line stays where it is: breaking would not make it any shorter.
    """
    bare = line = f"{name}:"
    lines: list[str] = []
    for token in tokens:
        helpless = line is bare and len(token) > MAX_LINE
        if len(line) + len(token) > MAX_LINE and not helpless:
            lines.append(line)
            line = token
        else:
            line += token
    lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def encoded_words(value: str, first_room: int = MAX_ENCODED_WORD) -> list[str]:
    """Return `value` as encoded words of up to 75 characters, whole characters in each.

    `first_room` is what the header's name leaves of the first line; ignored where nothing fits.
    Base64 or Q, whichever is shorter for the whole value.
    """
    octets = value.encode()
    unsafe = len(octets.translate(None, _LITERAL + b" "))
    q_width, first, later = len(octets) + 2 * unsafe, _room(first_room), _room()
    if 3 * q_width <= 4 * len(octets):
        chunks = (value,) if q_width <= first else _chunks(value, _q_width, first, later)
        return [_q_word(chunk) for chunk in chunks]
    first, later = first // 4 * 3, later // 4 * 3
    chunks = (value,) if len(octets) <= first else _chunks(value, _octets, first, later)
    return [_b_word(chunk) for chunk in chunks]


def _room(room: int = MAX_ENCODED_WORD) -> int:
    # One character of four octets needs twelve places in Q; with less, the word starts a new line.
    inside = min(room, MAX_ENCODED_WORD) - _OVERHEAD
    return inside if inside >= len("=F0=9F=98=80") else MAX_ENCODED_WORD - _OVERHEAD


def _q_word(chunk: str) -> str:
    return f"=?utf-8?q?{''.join([_Q[octet] for octet in chunk.encode()])}?="


def _b_word(chunk: str) -> str:
    return f"=?utf-8?b?{b64encode(chunk.encode()).decode()}?="


def _q_width(character: str) -> int:
    return 1 if character in _LITERAL_CHARS else 3 * len(character.encode())


def _octets(character: str) -> int:
    return len(character.encode())


def _chunks(value: str, width: Callable[[str], int], first: int, room: int) -> Iterator[str]:
    start, used, limit = 0, 0, first
    for index, character in enumerate(value):
        wide = width(character)
        if used + wide > limit:
            yield value[start:index]
            start, used, limit = index, 0, room
        used += wide
    yield value[start:]
