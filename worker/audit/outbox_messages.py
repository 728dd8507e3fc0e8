"""How records travel through the outbox: some of them in one message, as lines of JSON.

For each record a line with its id and the month of its index, and a line with the document, whose
octets stay as they are. A message that cannot be read is no reason to lose it: it becomes a dead
letter.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from datetime import datetime

import orjson

from schemas.audit import CATEGORY
from schemas.audit_chain import PROOF_MONTH
from worker.audit.bulk import Document
from worker.audit.entries import Entry
from worker.audit.index_template import DEAD_LETTER_MONTH

MAX_RECORDS = 100
MAX_BYTES = 256 * 1024
_ID = re.compile(r"[0-9A-Za-z_-]{1,128}\Z", re.ASCII)
_MONTH = re.compile(rf"(?:\d{{4}}\.\d{{2}}|{DEAD_LETTER_MONTH}|{PROOF_MONTH})\Z", re.ASCII)


class UnreadableMessage(ValueError):
    """A message of the outbox that nobody of ours can have written."""


def pack(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Put the entries into as few messages as the bounds allow; a larger record goes alone."""
    lines: list[bytes] = []
    size = 0
    for entry in entries:
        line = b'{"id":"%b","month":"%b"}\n%b\n' % (entry.document_id.encode(), entry.month.encode(), entry.document)
        if lines and (len(lines) == MAX_RECORDS or size + len(line) > MAX_BYTES):
            yield b"".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield b"".join(lines)


def unpack(body: bytes) -> list[Document]:
    """Read a message; raises UnreadableMessage."""
    lines = body.split(b"\n")
    if len(lines) < 3 or len(lines) % 2 == 0 or lines.pop():  # noqa: PLR2004 # a record is two lines, each ended
        raise UnreadableMessage("the message is not made of pairs of lines")
    return [_read(names, document) for names, document in zip(lines[::2], lines[1::2], strict=True)]


def poison_letter(body: bytes, reason: str, now: datetime) -> Document:
    """The dead letter that keeps a message which cannot be read; the same message makes the same letter."""
    raw = body.decode("utf-8", "backslashreplace")
    letter = {"index": "outbox", "error": reason, "raw": raw}
    document = {"@timestamp": now.isoformat(), "category": CATEGORY, "type": "audit.outbox", "dead_letter": letter}
    return hashlib.sha256(body).hexdigest()[:40], DEAD_LETTER_MONTH, orjson.dumps(document)


def _read(names: bytes, document: bytes) -> Document:
    try:
        named, content = orjson.loads(names), orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise UnreadableMessage(f"a line is not JSON: {error}") from None
    if not isinstance(named, dict) or not isinstance(content, dict) or not isinstance(content.get("@timestamp"), str):
        raise UnreadableMessage("a line is not what a record is made of")
    document_id, month = named.get("id"), named.get("month")
    if not isinstance(document_id, str) or not _ID.match(document_id):
        raise UnreadableMessage("a record has no usable id")
    if not isinstance(month, str) or not _MONTH.match(month):
        raise UnreadableMessage("a record has no usable month")
    return document_id, month, document
