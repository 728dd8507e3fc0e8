"""Publishing to the config topic: single changes, and snapshots of the whole store.

Whoever changed the store publishes what the store then says of the scope, after the commit. Two who
change the same record at once may publish in either order: the store has numbered their versions.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.config_change import Changes, Delete, Feature, Message, Put, SnapshotBegin, SnapshotEnd, in_batches
from worker.rabbit.config_stream import publish_message
from worker.rabbit.connection import open_link
from worker.rabbit.declaring import Provision, prepare
from worker.rabbit.publisher import Publisher, open_publisher
from worker.rabbit.topology import CONFIG_STREAM

ConfigChanges = Sequence[Put | Delete | Feature]


@dataclass(frozen=True, slots=True)
class PublishedSnapshot:
    """What a snapshot held."""

    snapshot: str
    records: int
    deletes: int
    features: int
    messages: int

    @property
    def count(self) -> int:
        """Records, deletes and features together."""
        return self.records + self.deletes + self.features


class ConfigPublisher:
    """Publishes with confirm; every method may raise BrokerUnavailable or PublishRefused.

    After an error it is unknown which of the messages arrived. That does no harm: they may be
    published again, and a snapshot without its end changes nothing by what it leaves out.
    """

    def __init__(self, publisher: Publisher) -> None:
        """Take a started publisher; the stream exists (see `open_config_publisher`)."""
        self._publisher = publisher

    async def publish(self, changes: ConfigChanges) -> None:
        """Publish changes of their own; return once they are confirmed."""
        for batch in in_batches(changes):
            await self._send(Changes(published_at=datetime.now(UTC), items=batch))

    async def publish_snapshot(
        self,
        read: Callable[[], Awaitable[ConfigChanges]],
        progress: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> PublishedSnapshot:
        """Publish all that `read` returns, between two marks; `progress` hears how many changes of how many.

        `read` is called after the first mark is confirmed: what stands before the mark is in the store.
        """
        snapshot = str(uuid.uuid4())
        await self._send(SnapshotBegin(published_at=datetime.now(UTC), snapshot=snapshot))
        changes = await read()
        done = messages = 0
        for batch in in_batches(changes):
            await self._send(Changes(published_at=datetime.now(UTC), snapshot=snapshot, items=batch))
            done, messages = done + len(batch), messages + 1
            progress(done, len(changes))
        await self._send(SnapshotEnd(published_at=datetime.now(UTC), snapshot=snapshot, count=len(changes)))
        puts, deletes, features = (sum(isinstance(each, kind) for each in changes) for kind in (Put, Delete, Feature))
        return PublishedSnapshot(snapshot, puts, deletes, features, messages + 2)

    async def _send(self, message: Message) -> None:
        await publish_message(self._publisher, message)


@contextlib.asynccontextmanager
async def open_config_publisher(
    url: str, *, name: str = "postbote config publisher", provision: Provision = Provision.DECLARE
) -> AsyncIterator[ConfigPublisher]:
    """Yield a connected ConfigPublisher; raises BrokerUnavailable or TopologyMismatch where there is no topic."""
    link = await open_link(url, name)
    try:
        await prepare(link, provision)
    finally:
        await link.close()
    async with open_publisher(url, name) as publisher:
        yield ConfigPublisher(publisher)


async def delete_topic(url: str, *, name: str = "postbote config publisher") -> None:
    """Delete the stream with all that it holds; readers keep what they know until a new one has a snapshot.

    For a store that went back in time, whose versions are lower than those that the topic knows.
    Raises BrokerUnavailable.
    """
    link = await open_link(url, name)
    try:
        await link.call(link.channel.queue_delete, CONFIG_STREAM)
    finally:
        await link.close()
