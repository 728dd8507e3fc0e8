"""``format=csv|ndjson``: all that a question finds, as a stream, in the memory of one page.

An answer that breaks off is no answer: where the audit goes away meanwhile, the connection ends without the end
that HTTP asks for, and every client knows. A client that goes away ends the walk.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing
from typing import Any, cast

import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from schemas.audit_filters import Format
from schemas.audit_query import AuditQuery
from worker.api.ports import AuditSearch
from worker.api.turns import Turns
from worker.control.audit_rows import MEDIA_TYPES, cut_of, head_of, lines_of
from worker.control.audit_scope import shown_to
from worker.control.audit_walk import MOST, Walk
from worker.control.principals import Principal
from worker.errors import AuditUnavailable, CursorExpired

log = structlog.get_logger(__name__)

LONGEST_S = 3600.0
"""So long a stream may take; a client that does not read holds a place no longer."""

_Pages = AsyncGenerator[list[dict[str, Any]], None]


class Exports:
    """Streams of the audit: four at once in a process, two of them of one scope, ten a minute; `most` records each."""

    def __init__(self, search: AuditSearch, *, most: int = MOST) -> None:
        """Take the audit to walk through."""
        self._search = search
        self._most = most
        self._turns = Turns()

    async def begin(self, query: AuditQuery | None, form: Format, principal: Principal) -> "Stream":
        """Answer `query`, or with nothing where it is None.

        The first page is read before the answer begins. Raises AuditUnavailable, and Problem 429.
        """
        with ExitStack() as stack:
            stack.enter_context(self._turns.taken(str(principal.scope)))
            walk = None if query is None else Walk(self._search, query, self._most)
            pages = cast("_Pages", _nothing() if walk is None else walk.pages())
            first: list[dict[str, Any]] = await anext(pages, [])
            body = _body(walk, first, pages, form, principal)
            return Stream(body, pages, form, stack.pop_all())


class Stream(StreamingResponse):
    """A body, the pages that it is made of, and a place that is free again at its end, whatever ends it."""

    def __init__(self, body: AsyncIterator[bytes], pages: _Pages, form: Format, place: ExitStack) -> None:
        """Take what is to be sent and what is to be let go."""
        headers = {"Content-Disposition": f'attachment; filename="audit.{form}"'}
        super().__init__(body, 200, headers, MEDIA_TYPES[form])
        self._pages = pages
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        try:
            with self._place:
                async with aclosing(self._pages), asyncio.timeout(LONGEST_S):
                    await super().__call__(scope, receive, send)
        except (AuditUnavailable, CursorExpired, TimeoutError) as error:
            # The answer is begun and stays without its end: the server breaks the connection.
            log.warning("an export broke off", reason=str(error) or f"it took longer than {LONGEST_S:.0f} s")


async def _body(
    walk: Walk | None, first: list[dict[str, Any]], pages: _Pages, form: Format, principal: Principal
) -> AsyncIterator[bytes]:
    lines = lines_of(form)
    yield head_of(form) + lines(shown_to(record, principal) for record in first)
    del first  # or it stays as long as the stream
    async for page in pages:
        yield lines(shown_to(record, principal) for record in page)
        del page  # or it stays until the next is here, and there are two
    if walk is not None and walk.cut:
        yield cut_of(form, walk.most)


async def _nothing() -> AsyncIterator[list[dict[str, Any]]]:
    no_pages: tuple[list[dict[str, Any]], ...] = ()
    for page in no_pages:
        yield page
