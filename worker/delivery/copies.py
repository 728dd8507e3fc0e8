"""Several copies of one event in hand at once: one piece of work, and one of the copies goes on.

A publisher that did not hear the confirm publishes again, and both copies may reach the same worker
within the same second. They share the work. If it ends with the event resting, parked or returned,
one copy does that, and the others are done with once it has: else one event would go on as two.
"""

import asyncio
from dataclasses import dataclass, replace

from worker.delivery.ports import Ack, Settlement


@dataclass(slots=True)
class InHand:
    """The work on one event, and those who wait for its end."""

    work: asyncio.Task[Settlement]
    waiting: int = 0
    moving: asyncio.Future[bool] | None = None

    async def settlement(self) -> Settlement:
        """Wait for the end of the work, and return what this copy is to do.

        A caller may be cancelled, as when its connection to the broker is lost; the work goes on.
        """
        self.waiting += 1
        try:
            settlement = await asyncio.shield(self.work)
            while self.moving is not None:
                if await asyncio.shield(self.moving):
                    return Ack()
        finally:
            self.waiting -= 1
        if isinstance(settlement, Ack) or not self.waiting:
            return settlement
        self.moving = asyncio.get_running_loop().create_future()
        return replace(settlement, told=self._moved)

    def _moved(self, done: bool) -> None:  # noqa: FBT001 # as `Told` says
        moving = self.moving
        if moving is None or moving.done():
            return
        if not done:
            self.moving = None  # the next one who wakes does it instead
        moving.set_result(done)
