"""Going through parked messages: look at each once, pick, and replay or drop what was picked.

Bodies can be large, so what is in memory is bounded: one message while looking, a window of them
while publishing. No more are looked at than were there at the start; what is replayed and parked
again at once is therefore not met twice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.delivery.parked import Held, ParkedEvent, ParkedFilter, ParkedShelf, describe, replayed_headers
from worker.delivery.ports import Lane
from worker.errors import PostboteError

MAX_AT_ONCE = 32
MAX_OCTETS_AT_ONCE = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Picked:
    """A message that the filter picked, held, with its description."""

    held: Held
    event: ParkedEvent


@dataclass(frozen=True, slots=True)
class Pick:
    """What to pick at `now`: at most `limit`, and only those `fingerprints`, where they are given."""

    wanted: ParkedFilter
    now: datetime
    limit: int | None = None
    fingerprints: frozenset[bytes] | None = None

    def takes(self, event: ParkedEvent) -> bool:
        """Whether the event is among them."""
        chosen = self.fingerprints is None or event.fingerprint in self.fingerprints
        return chosen and self.wanted.matches(event, self.now)


async def look(shelf: ParkedShelf, pick: Pick) -> AsyncIterator[Picked]:
    """Go through the shelf, oldest first, and yield what is picked; the others stay held."""
    found = 0
    for _ in range(await shelf.count()):
        if found == pick.limit:
            return
        held = await shelf.take()
        if held is None:  # another operator holds the rest
            return
        event = describe(held.message)
        if pick.takes(event):
            found += 1
            yield Picked(held, event)


Act = Callable[[Picked], Awaitable[bool]]
"""Replays or drops one; False where it was gone, PostboteError where it failed and stays parked."""


def replaying(shelf: ParkedShelf, now: datetime, lane_of_laneless: Lane) -> Act:
    """Send events on their way again, those that never were in a lane into `lane_of_laneless`."""

    async def act(picked: Picked) -> bool:
        message = picked.held.message
        return await shelf.replay(picked.held, replayed_headers(message, now), message.lane or lane_of_laneless)

    return act


def dropping(shelf: ParkedShelf) -> Act:
    """Remove events for good."""

    async def act(picked: Picked) -> bool:
        return await shelf.drop(picked.held)

    return act


@dataclass(slots=True)
class Tally:
    """What became of those that were picked; `failure` is the first one's reason, after which none was begun."""

    done: int = 0
    gone: int = 0
    failed: int = 0
    failure: str | None = None


async def carry_out(shelf: ParkedShelf, pick: Pick, act: Act, report: Callable[[ParkedEvent], None]) -> Tally:
    """Do it to all that are picked, `report` each that is done, and begin no more after a failure."""
    tally, window = Tally(), _Window()

    async def step(picked: Picked) -> None:
        try:
            done = await act(picked)
        except PostboteError as error:
            tally.failed += 1
            tally.failure = tally.failure or str(error)
            return
        if done:
            tally.done += 1
            report(picked.event)
        else:
            tally.gone += 1

    try:
        async for picked in look(shelf, pick):
            await window.start(step(picked), picked.event.size)
            if tally.failure:
                break
    finally:
        await window.join()
    return tally


class _Window:
    """Steps that run side by side, bounded in their number and in the octets that they hold."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], int] = {}

    async def start(self, step: Coroutine[Any, Any, None], octets: int) -> None:
        """Wait for room, then begin."""
        while len(self._running) >= MAX_AT_ONCE or (
            self._running and sum(self._running.values()) + octets > MAX_OCTETS_AT_ONCE
        ):
            await self._wait(asyncio.FIRST_COMPLETED)
        self._running[asyncio.ensure_future(step)] = octets

    async def join(self) -> None:
        """Wait for all that were begun; raises what one of them raised."""
        if self._running:
            await self._wait(asyncio.ALL_COMPLETED)

    async def _wait(self, until: str) -> None:
        done, _ = await asyncio.wait(self._running, return_when=until)
        for task in done:
            del self._running[task]
        for task in done:
            task.result()
