"""Work that ends when nobody waits for it any more.

A search that was begun costs the audit as much as one that is read. Where the client's connection ends, its
work is cancelled; OpenSearch ends a search whose connection ends, and the embedded form looks for it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")


async def while_awaited(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. Raises ClientDisconnect where the client left before, and whatever the work raises."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for each in (working, leaving):
            each.cancel()
        # Waited for, so that the place that the work has is free only when it is over.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Return once the client has gone; a body, which a question has none of, is passed over."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
