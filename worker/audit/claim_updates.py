"""Scripted updates of claims, many in one call where many are asked for at once.

After an outage hundreds of suspects come back within a second, since a tier gives nothing back before its
first is due. With a call for each, the last waited longer than its patience: none was claimed, all went to
rest, and came back together a minute later, for ever.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from worker.audit.link import Call, OpenSearchLink
from worker.errors import AuditUnavailable

_AT_ONCE = 200
# Whoever has an answer goes on at once, and hundreds in one turn of the loop would keep replies unread meanwhile.
_ANSWERED_A_TURN = 50
_TIMEOUT_S = 5.0
_CONFLICTS = 3
_WANTED = "items.*.status,items.*.result,items.*.error.type,items.*.error.reason"


class Updated(NamedTuple):
    """What came of one update: its HTTP status, its result ("created", "noop", ...), why it was refused."""

    status: int
    result: str | None
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    document_id: str
    update: bytes
    answer: "asyncio.Future[Updated]"


class Updates:
    """Sends what has come, in one call at a time, and what comes meanwhile in the next."""

    def __init__(self, link: OpenSearchLink, index: str) -> None:
        """Update documents of `index`."""
        self._link = link
        self._index = index
        self._waiting: deque[_Asked] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def update(self, document_id: str, update: bytes) -> Updated:
        """Carry out one update, its body as `_update` takes it; raises AuditUnavailable."""
        asked = _Asked(document_id, update, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="claims asked for")
        return await asked.answer

    def action(self, document_id: str) -> bytes:
        """The line that precedes an update in a bulk."""
        action = {"_index": self._index, "_id": document_id, "retry_on_conflict": _CONFLICTS}
        return orjson.dumps({"update": action})

    async def _send_all(self) -> None:
        batch: Sequence[_Asked] = ()
        error: Exception = AuditUnavailable("claims are asked for no more")
        try:
            await asyncio.sleep(0)  # whoever asks in this turn goes along
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                await self._answer(batch, await self._send(batch))
        except AuditUnavailable as unavailable:
            error = unavailable  # who came meanwhile would wait as long for the same
        finally:
            left, self._waiting = [*batch, *self._waiting], deque()
            for asked in left:
                if not asked.answer.done():
                    asked.answer.set_exception(error)

    async def _send(self, batch: Sequence[_Asked]) -> list[Updated]:
        lines = [line for asked in batch for line in (self.action(asked.document_id), asked.update)]
        body = b"\n".join(lines) + b"\n"
        call = Call("POST", "/_bulk", body, {"filter_path": _WANTED}, _TIMEOUT_S, "application/x-ndjson")
        try:
            found = [_updated(item["update"]) for item in (await self._link.request(call))["items"]]
        except (KeyError, TypeError, ValueError) as error:
            raise AuditUnavailable("OpenSearch's answer to a claim cannot be read") from error
        if len(found) != len(batch):
            raise AuditUnavailable("OpenSearch did not answer every claim")
        return found

    async def _answer(self, batch: Sequence[_Asked], found: Sequence[Updated]) -> None:
        for n, (asked, updated) in enumerate(zip(batch, found, strict=True)):
            if n % _ANSWERED_A_TURN == 0 and n:
                await asyncio.sleep(0)
            if not asked.answer.done():
                asked.answer.set_result(updated)


def _updated(item: dict[str, Any]) -> Updated:
    error = item.get("error", {})
    reason = f"{error.get('type', '')}: {error.get('reason', '')}" if error else ""
    return Updated(int(item["status"]), item.get("result"), reason)
