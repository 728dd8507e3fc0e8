"""At-least-once publishing: what is not confirmed is published again, as the same event."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from tests.chaos.count import Published
from tests.chaos.events import Event
from worker.delivery.ports import Lane
from worker.errors import BrokerUnavailable, PublishRefused
from worker.rabbit import topology
from worker.rabbit.publisher import Publisher

_AGAIN_S = 0.2
_AT_ONCE = 200
_BULK_EVERY = 5


class Publishing:
    """The upstream service; `confirmed` has every event once, `repeats` counts what was published again."""

    def __init__(self, amqp_url: str) -> None:
        self._publisher = Publisher(amqp_url, "chaos publisher")
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._begun = 0
        self.confirmed: dict[str, Published] = {}
        self.repeats = 0

    async def start(self) -> None:
        """Connect; the queues must be there."""
        await self._publisher.start()

    async def close(self) -> None:
        """Disconnect."""
        await self._publisher.close()

    async def publish(self, events: Sequence[Event], after_s: Sequence[float]) -> None:
        """Publish each event after its own while; return once all are confirmed, however often that takes."""
        await asyncio.gather(*map(self._publish, events, after_s))

    async def _publish(self, event: Event, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._begun += 1
        lane = Lane.BULK if self._begun % _BULK_EVERY == 0 else Lane.TRANSACTIONAL
        copies = 1
        async with self._places:
            while not await self._confirmed(event, lane):
                copies += 1
                await asyncio.sleep(_AGAIN_S)
        self.repeats += copies - 1
        self.confirmed[event.expected.id] = replace(event.expected, copies=copies)

    async def _confirmed(self, event: Event, lane: Lane) -> bool:
        key = topology.routing_key(lane, "chaos")
        kind = "application/cloudevents+json"
        try:
            await self._publisher.publish(topology.EVENTS_EXCHANGE, key, event.body, content_type=kind, headers={})
        except (BrokerUnavailable, PublishRefused):
            return False
        return True
