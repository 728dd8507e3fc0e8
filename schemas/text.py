"""Text that is safe to stand in an envelope, a header or an identifier.

A control character in any of them could forge an SMTP command or a header line, so it is
refused where the event is parsed, never cleaned: a cleaned address is another address.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

# C0, DEL and C1 controls; the line and paragraph separators, which some readers
# (Python's own str.splitlines among them) treat as line ends; lone surrogates, which
# cannot be encoded at all.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSAFE_IN_BODY = re.compile("[\x00\ud800-\udfff]")

MAX_HEADER_CHARS = 2000
MAX_BODY_CHARS = 5_000_000


def one_line(value: str) -> str:
    """Return `value` unchanged if it is one line of printable text, else raise ValueError."""
    if value.isprintable():  # the quick answer for nearly every value; also false for harmless ones
        return value
    found = _UNSAFE.search(value)
    if found:
        msg = f"control character U+{ord(found.group()):04X} at position {found.start()} is not allowed"
        raise ValueError(msg)
    return value


def body_text(value: str) -> str:
    """Return `value` unchanged if it can be a text body (any line ends, no NUL)."""
    if value.isascii() and "\0" not in value:  # no surrogates there: what is left need not be searched
        return value
    found = _UNSAFE_IN_BODY.search(value)
    if found:
        msg = f"character U+{ord(found.group()):04X} at position {found.start()} is not allowed"
        raise ValueError(msg)
    return value


HeaderText = Annotated[str, StringConstraints(max_length=MAX_HEADER_CHARS), AfterValidator(one_line)]
"""One line for a header or a template's value; up to 2,000 characters, no controls."""

RequiredText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_HEADER_CHARS, strip_whitespace=False),
    AfterValidator(one_line),
]
"""Like HeaderText, and not empty."""

BodyText = Annotated[str, StringConstraints(max_length=MAX_BODY_CHARS), AfterValidator(body_text)]
"""A text or HTML body: any line ends, no NUL, no lone surrogate."""

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(one_line)]
"""A CloudEvents id, source or type."""

TenantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""A partner's or organization's name: what may safely be a label, a key and a path segment."""

Url = Annotated[
    str,
    StringConstraints(max_length=MAX_HEADER_CHARS, pattern=r"^https?://[^\s<>\"]+$"),
    AfterValidator(one_line),
]
"""An http(s) link as it will stand in the mail."""
