"""Claims in memory: for one process, or for several workers within one process."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.delivery.claims import ClaimTimes, EventKey


@dataclass(slots=True)
class ClaimBook:
    """All claims: by event the holder, and when the claim ends; None while its holder has the event in hand."""

    times: ClaimTimes = field(default_factory=ClaimTimes)
    clock: Callable[[], float] = time.monotonic
    held: dict[EventKey, tuple[str, float | None]] = field(default_factory=dict)

    def drop_ended(self) -> None:
        """Forget the claims that have ended."""
        now = self.clock() - self.times.margin_s
        ended = [key for key, (_, until) in self.held.items() if until is not None and until < now]
        for key in ended:
            del self.held[key]


class MemoryClaims:
    """Fulfils the core's Claims; workers that share a `book` see each other's."""

    def __init__(self, holder: str, book: ClaimBook | None = None) -> None:
        """Claim in the name of `holder`, a worker's id."""
        self._holder = holder
        self._book = book or ClaimBook()

    async def claim(self, key: EventKey) -> bool:
        """Whether the event is this holder's now; what the process has in hand needs no renewal."""
        self._book.drop_ended()
        holder, _ = self._book.held.get(key, (self._holder, None))
        if holder != self._holder:
            return False
        self._book.held[key] = (holder, None)
        return True

    def holds(self, key: EventKey) -> bool:
        """Whether the claim lasts."""
        return self._book.held.get(key) == (self._holder, None)

    async def release(self, key: EventKey) -> None:
        """Give it back, if it is this holder's."""
        if self.holds(key):
            del self._book.held[key]

    def leave(self, key: EventKey) -> None:
        """Let it end by itself, if it is this holder's."""
        if self.holds(key):
            self._book.held[key] = (self._holder, self._book.clock() + self._book.times.lasts_s)
