"""Cursors as clients hold them: a Continuation, sealed, for one scope and one question.

They are encrypted and signed (Fernet): what a store keeps for a cursor is nobody's business, and a made-up one
must never reach the store. The times of the question are in it as they were read at the first page, so that
``now-1h`` stays the same hour on every page.
"""

import hashlib
import time
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken

from schemas.audit_query import AuditQuery, AuditRequest, Continuation, epoch_ms
from worker.api.problem import Problem
from worker.control.principals import Principal

KEEP_S = 300
"""So long after its page a cursor may be used; OpenSearch keeps its point in time as long."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PATH = "cursor"
_NO_CURSOR = "is no cursor of this service: take `next` of the answer before, or begin again without one"
_ANOTHERS = "belongs to another question: ask the one that it was the answer to, or begin again without it"


class Cursors:
    """Seals and opens. Replicas with the same `key` know each other's; without one, each process its own alone."""

    def __init__(self, key: bytes | None = None, *, clock: Callable[[], float] = time.time) -> None:
        """Take the secret, of any length, and what tells the seconds since 1970."""
        derived = None if key is None else hashlib.sha256(b"postbote audit cursor\0" + key).digest()
        self._fernet = Fernet(Fernet.generate_key() if derived is None else urlsafe_b64encode(derived))
        self._clock = clock

    def seal(self, after: Continuation, asked: AuditRequest, principal: Principal) -> str:
        """The cursor behind a page of `asked`, for `principal`'s scope."""
        query = asked.query
        content = {
            "for": _bound_to(asked.question, principal),
            "from": None if query.time_from is None else epoch_ms(query.time_from),
            "to": None if query.time_to is None else epoch_ms(query.time_to),
            "after": [after.position, after.snapshot, after.total, after.shown],
        }
        sealed = self._fernet.encrypt_at_time(zlib.compress(orjson.dumps(content)), int(self._clock()))
        return sealed.decode().rstrip("=")

    def opened(self, asked: AuditRequest, principal: Principal) -> AuditQuery:
        """The question to go on with. Raises Problem: 400 for one of another scope or question, 410 for an old one."""
        token = (asked.cursor or "").encode()
        token += b"=" * (-len(token) % 4)
        try:
            content = orjson.loads(zlib.decompress(self._fernet.decrypt(token)))
        except InvalidToken:
            raise _refused(_NO_CURSOR) from None
        if content["for"] != _bound_to(asked.question, principal):
            raise _refused(_ANOTHERS)
        if self._clock() > self._fernet.extract_timestamp(token) + KEEP_S:
            raise expired()
        return _continued(asked.query, content)


def expired() -> Problem:
    """What the cursor goes on from is not kept any more."""
    detail = f"a cursor is good for {KEEP_S // 60} minutes: begin again without one"
    return Problem(410, "Cursor expired", detail, [(_PATH, "has expired")])


def _continued(query: AuditQuery, content: Mapping[str, Any]) -> AuditQuery:
    position, snapshot, total, shown = content["after"]
    after = Continuation(tuple(position), snapshot, total, tuple(shown))
    return replace(query, time_from=_moment(content["from"]), time_to=_moment(content["to"]), after=after)


def _bound_to(question: Mapping[str, str], principal: Principal) -> str:
    content = orjson.dumps([str(principal.scope), sorted(question.items())])
    return hashlib.sha256(content).hexdigest()


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else _EPOCH + timedelta(milliseconds=milliseconds)


def _refused(message: str) -> Problem:
    return Problem(400, "Invalid cursor", f"{_PATH}: {message}", [(_PATH, message)])
