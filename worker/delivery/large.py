"""Work on large events is done beside the loop: 24 MB take about 0.4 s to parse, and as long to render."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

# A message of this size takes a few milliseconds.
_LARGE_BYTES = 256 * 1024

T = TypeVar("T")


async def off_loop_if_large(body: bytes, work: Callable[..., T], *arguments: object) -> T:
    """Run `work` here, or in a thread where `body` is large enough to hold everybody else up."""
    if len(body) < _LARGE_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)
