"""Whether records exist already: real-time gets by id, coalesced into one ``_mget`` for many askers."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from worker.audit.index_template import DEAD_LETTER_MONTH
from worker.audit.link import Call, OpenSearchLink, backoff_s
from worker.errors import AuditUnavailable

_COALESCE_S = 0.002
_MAX_IDS = 500
# What a get of an index that nobody has written to says: nothing of it is recorded.
_NO_INDEX = "index_not_found_exception"


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    document_id: str
    month: str
    answer: asyncio.Future[bool]


class RecordLookup:
    """Answers whether documents exist; sees every write that was answered, refreshed or not."""

    def __init__(self, link: OpenSearchLink, prefix: str) -> None:
        """Look in ``PREFIX-YYYY.MM``, and for each id among the dead letters too."""
        self._link = link
        self._prefix = prefix
        self._questions: deque[_Question] = deque()
        self._asker: asyncio.Task[None] | None = None
        self._closed = False

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> ``YYYY.MM``), those that exist; waits while OpenSearch is away.

        A month whose index doesn't exist holds none. Raises AuditUnavailable once this closes.
        """
        if self._closed:
            msg = "this worker stops: the audit is not asked any more"
            raise AuditUnavailable(msg)
        if not ids:
            return frozenset()
        loop = asyncio.get_running_loop()
        asked = [_Question(document_id, month, loop.create_future()) for document_id, month in ids.items()]
        self._questions.extend(asked)
        if self._asker is None or self._asker.done():
            self._asker = asyncio.create_task(self._ask_all(), name="audit lookup")
        found = await asyncio.gather(*(question.answer for question in asked))
        return frozenset(question.document_id for question, exists in zip(asked, found, strict=True) if exists)

    async def close(self) -> None:
        """Stop asking; whoever waits gets AuditUnavailable."""
        self._closed = True
        if self._asker is not None:
            self._asker.cancel()
            await asyncio.gather(self._asker, return_exceptions=True)
        self._give_up()

    async def _ask_all(self) -> None:
        await asyncio.sleep(_COALESCE_S)
        failures = 0
        try:
            while batch := self._first_unanswered():
                failures = 0 if await self._ask(batch) else failures + 1
                if failures:
                    self._questions.rotate(-len(batch))  # what cannot be answered now lets the others go first
                    await self._link.pause(backoff_s(failures))
        finally:
            self._give_up()  # after a mistake of ours: nobody is left waiting for no one

    async def _ask(self, batch: Sequence[_Question]) -> bool:
        try:
            self._answer(batch, await self._link.request(self._call(batch)))
        except AuditUnavailable as error:
            self._link.health.failed(str(error))
            return False
        self._link.health.succeeded()
        return True

    def _first_unanswered(self) -> list[_Question]:
        # A question stays in the queue until it is answered, so that whoever gives up finds it there.
        self._questions = deque(question for question in self._questions if not question.answer.done())
        return list(islice(self._questions, _MAX_IDS))

    def _give_up(self) -> None:
        for question in self._questions:
            if not question.answer.done():
                question.answer.set_exception(AuditUnavailable("this worker stops before the audit has answered"))
        self._questions.clear()

    def _call(self, batch: Sequence[_Question]) -> Call:
        indices = [(q.document_id, f"{self._prefix}-{part}") for q in batch for part in (q.month, DEAD_LETTER_MONTH)]
        docs = [{"_index": index, "_id": document_id} for document_id, index in indices]
        return Call("POST", "/_mget", orjson.dumps({"docs": docs}), {"_source": "false"}, timeout_s=10.0)

    def _answer(self, batch: Sequence[_Question], answer: Any) -> None:
        """Set what is known; raise AuditUnavailable where an item could not be read."""
        try:
            found = [_exists(doc) for doc in answer["docs"]]
            answers = list(zip(batch, found[::2], found[1::2], strict=True))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            msg = "OpenSearch's answer to a lookup cannot be read"
            raise AuditUnavailable(msg) from error
        unknown = None
        for question, *parts in answers:
            refused = [part for part in parts if isinstance(part, str)]
            if refused and True not in parts:
                unknown = refused[0]
            elif not question.answer.done():  # whoever asked may have been cancelled
                question.answer.set_result(True in parts)
        if unknown is not None:
            msg = f"OpenSearch cannot say whether a record exists: {unknown}"
            raise AuditUnavailable(msg)


def _exists(doc: Mapping[str, Any]) -> bool | str:
    """Whether an item was found, or why that is not known."""
    error = doc.get("error")
    if error is None:
        return bool(doc["found"])
    kind = str(error.get("type", "unknown error"))
    return False if kind == _NO_INDEX else kind
