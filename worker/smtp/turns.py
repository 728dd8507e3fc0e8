"""Whose turn it is among the messages that wait for one server: transactional mail first, bulk never last for ever.

A person waits for a password reset, nobody for a newsletter; but a newsletter that only goes out
when nobody resets a password might never go out. Of every so many messages one is bulk, if any waits.
"""

from collections import deque
from collections.abc import Iterator

from worker.smtp.job import Job

BULK_EVERY = 5


class Turns:
    """Two queues that are taken from as one; `appendleft` puts a message back to where it was taken from."""

    __slots__ = ("_bulk", "_since_bulk", "_urgent")

    def __init__(self) -> None:
        """Nothing waits."""
        self._urgent: deque[Job] = deque()
        self._bulk: deque[Job] = deque()
        self._since_bulk = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._urgent) + len(self._bulk)

    def __iter__(self) -> Iterator[Job]:
        """All that wait, transactional mail first."""
        yield from self._urgent
        yield from self._bulk

    def append(self, job: Job) -> None:
        """Let a message wait."""
        self._queue(job).append(job)

    def appendleft(self, job: Job) -> None:
        """Put a message back before all others of its kind."""
        self._queue(job).appendleft(job)

    def remove(self, job: Job) -> None:
        """Take a message back; nothing happens where it does not wait."""
        queue = self._queue(job)
        if job in queue:
            queue.remove(job)

    def popleft(self) -> Job | None:
        """Take the message whose turn it is; those that nobody waits for any more are left out."""
        while job := self._next():
            if not job.answered.done():
                return job
        return None

    def _next(self) -> Job | None:
        if self._bulk and (not self._urgent or self._since_bulk >= BULK_EVERY - 1):
            self._since_bulk = 0
            return self._bulk.popleft()
        if not self._urgent:
            return None
        self._since_bulk += 1
        return self._urgent.popleft()

    def _queue(self, job: Job) -> deque[Job]:
        return self._bulk if job.message.bulk else self._urgent
