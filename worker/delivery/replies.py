"""What can be read out of an SMTP reply: its enhanced status code, its words, the queue id it grants.

Pure functions over text that a stranger wrote. Every pattern is linear in its input and every
input is cut before it is searched, so that a hostile server can cost microseconds and no more.
"""

import base64
import binascii
import re

from schemas.audit import MAX_REPLY_CHARS
from worker.delivery.ports import SmtpReply

# RFC 5321 section 4.5.3.1.5 allows 512 octets a reply line; eight such lines say all that is of use.
_MAX_READ_CHARS = 4096

# RFC 2034 section 4: at the very start of the text. Cisco's gateways write "#5.7.1"; it is the same code.
_ENHANCED = re.compile(r"\s{0,4}#?([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])")

# Controls of ASCII and Latin-1, line and paragraph separators, the marks that turn the reading
# direction, and lone surrogates: none of them may reach a log line or an audit page.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_SPACES = re.compile(r" {2,}")

# A padded word of 8 or any word of 12 characters of either base64 alphabet (RFC 4648 sections 4 and 5).
_BASE64_WORD = re.compile(r"(?<![A-Za-z0-9+/_-])(?:[A-Za-z0-9+/_-]{6,}={1,2}|[A-Za-z0-9+/_-]{12,})(?![A-Za-z0-9+/=_-])")
_SASL_SEPARATORS = str.maketrans("", "", "\0\1\t\r\n")  # PLAIN (RFC 4616) has NUL, XOAUTH2 has SOH
_REDACTED = "[redacted]"

_ID = r"([A-Za-z0-9][A-Za-z0-9._:/@+=-]{2,199})"
_QUEUE_IDS: tuple[re.Pattern[str], ...] = (
    re.compile(rf"\bqueued as {_ID}", re.IGNORECASE),  # Postfix, SendGrid, Amavis
    re.compile(rf"\bids?={_ID}"),  # Exim, KumoMTA
    re.compile(r"\[InternalId=(\d{1,30})\b"),  # Exchange since 2010, Microsoft 365
    re.compile(rf"<{_ID}> Queued mail for delivery", re.IGNORECASE),  # Exchange 2003 and 2007
    re.compile(rf"^{_ID} Message accepted for delivery", re.IGNORECASE),  # sendmail, Proofpoint
    re.compile(rf"^OK +\d{{6,12}} {_ID} - gsmtp\b"),  # Gmail
    re.compile(rf"\bMessage Queued \({_ID}\)", re.IGNORECASE),  # Haraka
    re.compile(r"^OK:? ([A-Za-z0-9][A-Za-z0-9/-]{11,199})$", re.IGNORECASE),  # Amazon SES, SparkPost
)


def parse_enhanced(reply: SmtpReply) -> str | None:
    """Return the enhanced status code such as "5.1.1" (RFC 3463), or None.

    It counts only at the start of the text, and only where its class is the first digit of the
    reply code (RFC 2034 section 4): "450 5.1.1 ..." contradicts itself, and the reply code wins.
    """
    found = _ENHANCED.match(reply.text)
    if found is None or int(found[1]) != reply.code // 100:
        return None
    return ".".join(found.groups())


def clean_text(text: str) -> str:
    """Return the reply's words as one printable line of at most 512 characters.

    The lines are joined by a space, the enhanced code that servers repeat on each of them is kept
    once, controls become spaces, and what looks like an echoed SASL message is taken out. A
    password that a server repeats in clear cannot be known here: whoever holds it masks it.
    """
    cut = text[:_MAX_READ_CHARS]
    printable = cut.strip() if cut.isprintable() and "  " not in cut else _one_line(cut)
    return _BASE64_WORD.sub(_mask, printable)[:MAX_REPLY_CHARS]


def remote_queue_id(reply: SmtpReply) -> str | None:
    """Return the name under which the server queued the message, or None where it gave none.

    Only a 2yz reply names one. For Exchange it is the InternalId, which its message trace finds.
    """
    if not 200 <= reply.code <= 299:  # noqa: PLR2004 - the class of positive completion replies
        return None
    cut = reply.text[:_MAX_READ_CHARS]
    text = _without_enhanced(cut if cut.isprintable() else _UNPRINTABLE.sub(" ", cut)).strip()
    for pattern in _QUEUE_IDS:
        found = pattern.search(text)
        if found is not None:
            return found[1].rstrip(".")
    return None


def _one_line(text: str) -> str:
    lines = text.splitlines()
    joined = " ".join([*lines[:1], *_continued(lines)])
    return _SPACES.sub(" ", _UNPRINTABLE.sub(" ", joined)).strip()


def _continued(lines: list[str]) -> list[str]:
    """The lines after the first, without the enhanced code where it only repeats the first one's."""
    first = _ENHANCED.match(lines[0]) if lines else None
    if first is None:
        return lines[1:]
    return [_without_enhanced(line) if _repeats(line, first) else line for line in lines[1:]]


def _repeats(line: str, first: re.Match[str]) -> bool:
    found = _ENHANCED.match(line)
    return found is not None and found.groups() == first.groups()


def _without_enhanced(line: str) -> str:
    found = _ENHANCED.match(line)
    return line[found.end() :].lstrip() if found else line


def _mask(word: re.Match[str]) -> str:
    return _REDACTED if _hides_text(word[0]) else word[0]


def _hides_text(word: str) -> bool:
    """Whether base64 of readable text: a SASL message is; a queue id decodes to random octets."""
    bare = word.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        decoded = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return decoded.translate(_SASL_SEPARATORS).isprintable()
