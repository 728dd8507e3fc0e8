"""The parked messages of the embedded queue, for an operator: RabbitMQ's parked queue in one table.

Nothing needs to be held: a replay moves the row in one transaction, so of two operators one moves
it and the other finds it gone, and whoever is killed has either moved it or not.
"""

from collections.abc import Mapping
from typing import Any

from worker.delivery.parked import Held
from worker.delivery.ports import Lane
from worker.embedded.queue import SqliteQueue


class SqliteParked:
    """A `ParkedShelf` over the embedded queue, also while a worker consumes it."""

    def __init__(self, queue: SqliteQueue) -> None:
        """The queue stays its opener's to close."""
        self._queue = queue
        self._last = 0

    async def count(self) -> int:
        """How many are parked."""
        return (await self._queue.counts())["parked"]

    async def take(self) -> Held | None:
        """The next one, oldest first, or None at the end."""
        row = await self._queue.parked_after(self._last)
        if row is None:
            return None
        self._last = row.id
        return Held(row.id, row.message)

    async def replay(self, held: Held, headers: Mapping[str, Any], lane: Lane) -> bool:
        """Move it to the lane; False where it was gone."""
        return await self._queue.replay_parked(held.token, lane, headers)

    async def drop(self, held: Held) -> bool:
        """Forget it; False where it was gone."""
        return await self._queue.drop_parked(held.token)

    async def give_back(self) -> None:
        """Begin with the oldest again."""
        self._last = 0
