"""The event loop as pika is given it, in which a connection that is reset is read to its end.

uvloop's watcher of a socket ends with the socket's first error: it calls the reader once more, and then
never again (uvloop, issue 552). pika reads at most 100 KiB a call. So of a broker that was killed with
more than that on its way, pika would hear nothing until its heartbeats ran out, 70 s later, and what
was written meanwhile would raise RuntimeError. asyncio's own loop goes on calling.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Any

# More than a socket can hold, at what one call reads; who has not ended by then is left to the heartbeats.
_CALLS = 1000


class ReadsToTheEnd:
    """An event loop, but for its readers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Everything else is `loop`'s."""
        self._loop = loop
        self._watched: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        """Hand on what is not about readers."""
        return getattr(self._loop, name)

    def add_reader(self, fd: int, read: Callable[[], None]) -> None:
        """Call `read` whenever there is something, and after a reset until it removes itself."""
        errors = select.poll()
        errors.register(fd, 0)  # errors and hang-ups are told unasked
        self._watched.add(fd)
        self._loop.add_reader(fd, self._read, fd, read, errors)

    def remove_reader(self, fd: int) -> bool:
        """Call it no more."""
        self._watched.discard(fd)
        return self._loop.remove_reader(fd)

    def _read(self, fd: int, read: Callable[[], None], errors: select.poll) -> None:
        read()
        if fd not in self._watched or not errors.poll(0):
            return
        for _ in range(_CALLS):
            if fd not in self._watched:
                return
            read()
