"""Rules about single fields of an SMTP record that somebody writes, beyond those of `SmtpConfig`.

Each returns the value or raises ValueError with a sentence that does not repeat it. They hold where
a record is saved, not where one is read: what was stored before goes on being used.
"""

import re
import ssl
from typing import Any

from schemas.address import normalize_address
from schemas.text import one_line

RESERVED_NAMES = ("check", "effective", "order")
"""Paths beside those of the records."""

REMEDIES = {
    "host": "expected a host name or an IP address, without scheme and port",
    "port": "expected a port from 1 to 65535",
    "dkim_domain": "expected a domain name",
    "dkim_selector": "expected a selector, such as mail1",
}
"""What to say of a field where pydantic would quote a pattern."""

_BOOLEANS = ("verify_tls", "chunking", "require_tls")
_NUMBERS = ("port", "retries", "max_connections", "rate_per_minute", "timeout_s")
_MAX_RATE = 1_000_000  # a number that no database column holds would be an error too late
_MAX_DIGITS = 9
_MAX_NAME_CHARS = 200
_MAX_PASSWORD_CHARS = 2000  # sealed, it must fit where `schemas.config_change` takes it
_MAX_KEY_CHARS = 4000  # an RSA key of 4096 bits has 3,300; a much larger one takes seconds to sign
_MAX_PATTERNS = 500
_REFERENCE = re.compile(r"(?:env:[A-Za-z_][A-Za-z0-9_]{0,254}|file:/.{1,4000})\Z")


def check_display_name(value: str, reserved: tuple[str, ...] = RESERVED_NAMES) -> str:
    """A name that can stand in a header, a list and a path."""
    one_line(value)
    if not value or value != value.strip() or len(value) > _MAX_NAME_CHARS:
        raise ValueError(f"expected 1 to {_MAX_NAME_CHARS} characters without blanks at the ends")
    if value in reserved:
        raise ValueError(
            f"is reserved, as are {', '.join(name for name in reserved if name != value)}: choose another name"
        )
    if "/" in value or value in {".", ".."}:
        raise ValueError("must not have a slash or be made of dots: it is part of a path")
    return value


def check_secret_name(value: str) -> str:
    """The same of a secret, whose names collide with no path."""
    return check_display_name(value, ())


def check_password(value: str) -> str:
    """One line: a line break or a NUL would be sent as part of it, and some mechanisms end at it."""
    try:
        one_line(value)
    except ValueError:
        # Not even where it is: that would tell something of the password.
        raise ValueError("must be one line without control characters (is a line break at its end?)") from None
    if not value or len(value) > _MAX_PASSWORD_CHARS:
        raise ValueError(f"expected 1 to {_MAX_PASSWORD_CHARS} characters")
    return value


def check_reference(value: str) -> str:
    """``env:NAME`` or ``file:/PATH``."""
    if not _REFERENCE.match(value) or one_line(value) != value:
        raise ValueError("expected env:NAME or file:/PATH")
    return value


def check_dkim_key(value: str) -> str:
    """A PEM text of plausible length; whether it can sign is tried where the signer is."""
    if len(value) > _MAX_KEY_CHARS or not value.isascii() or "PRIVATE KEY" not in value:
        raise ValueError("expected a PEM text of an RSA key")
    return value


def check_ca_bundle(value: str) -> str:
    """PEM certificates, and no private key among them."""
    if "PRIVATE KEY" in value:
        raise ValueError("holds a private key, which nobody else should have: give certificates only")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=value)
    except (ssl.SSLError, ValueError):  # ValueError: empty, or not even ASCII
        raise ValueError("holds no readable certificate: give PEM certificates of the CA") from None
    return value


def check_allowed_from(value: Any) -> list[str]:
    """A list of addresses and of ``@domain``; anything else would silently admit nothing."""
    if not isinstance(value, list) or len(value) > _MAX_PATTERNS or not all(isinstance(v, str) for v in value):
        raise ValueError(f"expected a list of at most {_MAX_PATTERNS} texts")
    for i, entry in enumerate(value):
        bare = entry.strip().removeprefix("*")
        try:
            normalize_address(f"anybody{bare}" if bare.startswith("@") else bare)
        except ValueError:
            raise ValueError(f"number {i + 1} is neither a mail address nor @domain") from None
    return value


def read_value(ours: str, value: Any, *, negated: bool = False) -> Any:
    """What `SmtpConfig`'s field `ours` is to have, by what was written; None where that is nothing.

    `negated`: the writer's field says the opposite of ours.
    """
    if value is None or value == "":
        return None
    if ours in _BOOLEANS:
        return _read_bool(value) is not negated
    if ours in _NUMBERS:
        return _read_number(ours, value)
    if ours == "allowed_from":
        return check_allowed_from(value)
    return check_ca_bundle(read_text(value)) if ours == "ca_bundle" else read_text(value)


def read_text(value: Any) -> str:
    """A text and nothing else."""
    if not isinstance(value, str):
        raise ValueError("expected a text")  # noqa: TRY004 # a wrong value of a field, whatever its type
    return value


def _read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")  # noqa: TRY004
    return value


def _read_number(ours: str, value: Any) -> float:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(REMEDIES.get(ours, "expected a number"))  # noqa: TRY004
    if ours == "rate_per_minute" and value > _MAX_RATE:
        raise ValueError(f"expected at most {_MAX_RATE}")
    return value
