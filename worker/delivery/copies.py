"""Several copies of one event in hand at once: one piece of work, and one of the copies goes on.

A publisher that did not hear the confirm publishes again, and both copies may reach the same worker
within the same second. They share the work. If it ends with the event resting, parked or returned,
one copy does that, and the others are done with once it has: else one event would go on as two.
"""

import asyncio
from dataclasses import replace

from worker.delivery.ports import Ack, Later, Park, Return, Settlement, Told

Copy = asyncio.Future[Settlement]
"""One delivered message, and what the queue is to be told of it; cancelled where nobody can tell it any more."""


class InHand:
    """The work on one event, and the copies that wait for its end."""

    __slots__ = ("_copies", "work")

    def __init__(self, copy: Copy) -> None:
        """The first copy; `work` is set by whoever begins it."""
        self._copies = [copy]
        self.work: asyncio.Task[None] | None = None

    def take_over(self, other: "InHand") -> None:
        """Let the copies of `other`, which turned out to be the same event, wait for this work."""
        self._copies += other._copies  # noqa: SLF001 - its own kind
        other._copies = []  # noqa: SLF001

    def end(self, settlement: Settlement) -> None:
        """Tell every copy of the end; one that moves the event on does so before the others hear of it."""
        if not isinstance(settlement, Ack):
            self._move_on(settlement)
            return
        for copy in self._copies:
            if not copy.done():
                copy.set_result(settlement)

    def fail(self, error: Exception) -> None:
        """Tell every copy that the work has failed."""
        for copy in self._copies:
            if not copy.done():
                copy.set_exception(error)

    def give_up(self) -> None:
        """Tell every copy that the work was cancelled."""
        for copy in self._copies:
            copy.cancel()

    def _move_on(self, settlement: Later | Park | Return) -> None:
        """Let the first copy that is left move the event on, and the next one where it cannot."""
        waiting = [copy for copy in self._copies if not copy.done()]
        if not waiting:
            return
        mover, *self._copies = waiting
        mover.set_result(replace(settlement, told=self._told_of(settlement)) if self._copies else settlement)

    def _told_of(self, settlement: Later | Park | Return) -> Told:
        told = False

        def tell(done: bool) -> None:  # noqa: FBT001 # as `Told` says
            nonlocal told
            if told:
                return
            told = True
            if done:
                self.end(Ack())
            else:
                self._move_on(settlement)

        return tell
