"""Whether records exist already: gets by id, coalesced into one ``_mget`` for many askers.

A get sees every write that was answered, refreshed or not: OpenSearch reads its translog for it. Under
field-level security it silently doesn't, and reads what was last refreshed. So ``refresh`` is asked for,
which is done in that case alone.

An asker waits for a bounded time: what it does without an answer (send, or let the event rest) is
not decided here. No answer is never "no".
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from worker.audit.index_template import DEAD_LETTER_MONTH
from worker.audit.link import Call, OpenSearchLink, backoff_s
from worker.errors import AuditUnavailable

# Others come along where there was a question a moment ago; alone, nobody waits for company.
_COALESCE_S = 0.002
_BUSY_S = 0.02
_MAX_IDS = 500
# Whoever has an answer goes on at once, and hundreds in one turn of the loop would keep replies unread meanwhile.
_ANSWERED_A_TURN = 50
_NOBODYS = "0" * 40
_DENIED = "security_exception"
_PATIENCE_S = 2.0
# While the link is known to fail, one lookup in so many seconds finds out whether it still does.
_PROBE_EVERY_S = 1.0
_ANSWER = {"_source": "false", "refresh": "true", "filter_path": "docs.found,docs.error.type"}
# What a get of an index that nobody has written to says: nothing of it is recorded.
_NO_INDEX = "index_not_found_exception"


@dataclass(slots=True, eq=False)
class _Question:
    """One caller: `open` are the ids without an answer yet."""

    open: dict[str, str]
    deadline: float
    answer: asyncio.Future[frozenset[str]]
    found: set[str] = field(default_factory=set)

    def note(self, document_id: str, *, exists: bool) -> None:
        """Take one id's answer; with the last one, the caller has its own."""
        del self.open[document_id]
        if exists:
            self.found.add(document_id)
        if not self.open and not self.answer.done():  # whoever asked may have been cancelled
            self.answer.set_result(frozenset(self.found))


_Asked = tuple[_Question, str, str]
"""Who asks, the document's id, its month."""


class RecordLookup:
    """Answers whether documents exist; sees every write that was answered, refreshed or not."""

    def __init__(self, link: OpenSearchLink, prefix: str, patience_s: float = _PATIENCE_S) -> None:
        """Look in ``PREFIX-YYYY.MM``, and for each id among the dead letters too."""
        self._link = link
        self._prefix = prefix
        self._patience_s = patience_s
        self._questions: deque[_Question] = deque()
        self._answered_at = -_BUSY_S
        self._asker: asyncio.Task[None] | None = None
        self._checker: asyncio.Task[None] | None = None
        self._alarm: asyncio.Handle | None = None
        self._closed = False
        self._month = DEAD_LETTER_MONTH  # what was asked for last: of an index that is not there, nothing is refused

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> ``YYYY.MM``), those that exist; a month without an index holds none.

        Raises AuditUnavailable where OpenSearch has not answered in time, at once where it is known
        to be away, and once this closes.
        """
        if not ids:
            return frozenset()
        if self._closed:
            raise AuditUnavailable("this worker stops: the audit is not asked any more")
        if self._link.health.failed_within(_PROBE_EVERY_S):
            raise AuditUnavailable("OpenSearch is away: whether something is recorded is not known")
        loop = asyncio.get_running_loop()
        self._month = next(iter(ids.values()))
        question = _Question(dict(ids), loop.time() + self._patience_s, loop.create_future())
        self._questions.append(question)
        if self._alarm is None:
            self._alarm = loop.call_at(question.deadline, self._expire)
        if self._asker is None or self._asker.done():
            self._asker = asyncio.create_task(self._ask_all(), name="audit lookup")
        return await question.answer

    async def check(self) -> None:
        """Find out whether lookups work, with the link's health; where not, this goes on behind until they do."""
        if not await self._check() and not self._closed and (self._checker is None or self._checker.done()):
            self._checker = asyncio.create_task(self._check_on(), name="audit lookup check")

    async def close(self) -> None:
        """Stop asking; whoever waits gets AuditUnavailable."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        tasks = [task for task in (self._asker, self._checker) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._give_up()

    async def _check_on(self) -> None:
        while not await self._check():
            await self._link.pause(_PROBE_EVERY_S)

    async def _check(self) -> bool:
        """Ask for a document that never is; a user without the right to is refused it all the same."""
        body = orjson.dumps({"docs": [{"_index": f"{self._prefix}-{self._month}", "_id": _NOBODYS}]})
        try:
            answer = await self._link.request(Call("POST", "/_mget", body, _ANSWER, timeout_s=self._patience_s))
            found = _exists(answer["docs"][0])
        except AuditUnavailable as error:
            self._link.health.failed(str(error))
            return False
        except (KeyError, IndexError, TypeError, AttributeError):
            found = "its answer cannot be read"
        if isinstance(found, str):
            self._link.health.failed(self._refusal(found))
            return False
        self._link.health.succeeded()
        return True

    def _expire(self) -> None:
        """Fail whoever has waited long enough, a few a turn; one timer serves all, since all are equally patient."""
        loop = asyncio.get_running_loop()
        due = [q for q in self._questions if not q.answer.done() and q.deadline <= loop.time()]
        reason = f"OpenSearch did not answer a lookup within {self._patience_s:g} s"
        for question in due[:_ANSWERED_A_TURN]:
            question.answer.set_exception(AuditUnavailable(reason))
        if due:  # not by a timer that may be due at once: uvloop runs one before those who were just woken
            self._alarm = loop.call_soon(self._expire)
            return
        waiting = [question.deadline for question in self._questions if not question.answer.done()]
        self._alarm = loop.call_at(min(waiting), self._expire) if waiting else None

    async def _ask_all(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(_COALESCE_S if loop.time() - self._answered_at < _BUSY_S else 0)
        failures = 0
        try:
            while batch := self._next_batch():
                failures = 0 if await self._ask(batch) else failures + 1
                if failures:
                    await self._link.pause(backoff_s(failures))
        finally:
            self._answered_at = loop.time()
            self._give_up()  # after a mistake of ours: nobody is left waiting for no one

    def _next_batch(self) -> list[_Asked]:
        """The ids of the first questions without an answer; they go to the end, so that others have their turn."""
        batch: list[_Asked] = []
        for _ in range(len(self._questions)):
            question = self._questions.popleft()
            if question.answer.done():
                continue
            self._questions.append(question)
            batch.extend((question, document_id, month) for document_id, month in question.open.items())
            if len(batch) >= _MAX_IDS:
                break
        return batch[:_MAX_IDS]

    async def _ask(self, batch: Sequence[_Asked]) -> bool:
        """Ask for a batch; whether every id of it was answered."""
        try:
            unknown = await self._note(batch, await self._link.request(self._call(batch)))
        except AuditUnavailable as error:
            self._link.health.failed(str(error))
            return False
        if unknown == _DENIED:  # each document by itself: a role is missing, and the request was fine
            self._link.health.failed(self._refusal(unknown))
        else:
            self._link.health.succeeded()
        return unknown is None

    def _refusal(self, kind: str) -> str:
        return f"OpenSearch does not answer lookups: {kind}: see {self._link.setting}"

    def _give_up(self) -> None:
        for question in self._questions:
            if not question.answer.done():
                question.answer.set_exception(AuditUnavailable("this worker stops before the audit has answered"))
        self._questions.clear()

    def _call(self, batch: Sequence[_Asked]) -> Call:
        # Composed by hand: ids, months and prefixes are of letters, digits, dots and dashes.
        letters = f'{{"_index":"{self._prefix}-{DEAD_LETTER_MONTH}","_id":"'
        record = f'{{"_index":"{self._prefix}-'
        docs = ",".join([f'{record}{month}","_id":"{id_}"}},{letters}{id_}"}}' for _, id_, month in batch])
        # Nobody waits longer than the patience, and a connection that hangs is given up with them.
        return Call("POST", "/_mget", b'{"docs":[%b]}' % docs.encode(), _ANSWER, timeout_s=self._patience_s)

    async def _note(self, batch: Sequence[_Asked], answer: Any) -> str | None:
        """Note what is known, and return why something is not; raises AuditUnavailable without an answer."""
        try:
            found = [_exists(doc) for doc in answer["docs"]]
            answers = list(zip(batch, found[::2], found[1::2], strict=True))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            msg = "OpenSearch's answer to a lookup cannot be read"
            raise AuditUnavailable(msg) from error
        unknown = None
        for n, ((question, document_id, _), *parts) in enumerate(answers):
            if n % _ANSWERED_A_TURN == 0 and n:
                await asyncio.sleep(0)
            refused = [part for part in parts if isinstance(part, str)]
            if refused and True not in parts:
                unknown = refused[0]
            else:
                question.note(document_id, exists=True in parts)
        return unknown


def _exists(doc: Mapping[str, Any]) -> bool | str:
    """Whether an item was found, or why that is not known."""
    error = doc.get("error")
    if error is None:
        return bool(doc["found"])
    kind = str(error.get("type", "unknown error"))
    return False if kind == _NO_INDEX else kind
