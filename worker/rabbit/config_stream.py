"""Reading and writing the stream of the config topic.

A stream keeps its messages after they were read; each one has an offset that goes up by one, and a
reader says at which one it begins. Over AMQP 0.9.1 it is consumed like a queue, with a prefetch and
acknowledgements, which only ask for more.

**Where the end is.** A reader must know when it has read what was there before it came. The number of
messages that a passive declaration tells is an estimate for streams (RabbitMQ 3.10.8 said 0 for 20),
and the offset ``last`` leads to the last chunk, whose end is unknown, and in an empty stream to
nothing at all. So a reader writes a marker of its own: what was confirmed before stands before it.
It goes over a connection of its own, since an alarm would stop the reading of one that has published.

**Whether it is the same stream.** Offsets begin at 0 again in a stream that was deleted and made anew,
and a reader that asks for an offset beyond the end waits without a word. Every message has an id in
its headers, so the first one that the stream still holds tells them apart (see `Place`).
"""

import asyncio
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from schemas.config_change import Marker, Message
from worker.errors import BrokerUnavailable, PublishRefused
from worker.rabbit.connection import Link, open_link
from worker.rabbit.publisher import Publisher, open_publisher
from worker.rabbit.topology import CONFIG_STREAM

ID = "x-postbote-id"
FIRST = "first"
_OFFSET = "x-stream-offset"
# Messages in hand at most; one may hold a hundred records, some 50 KB.
PREFETCH = 40
_ACK_EVERY = PREFETCH // 2


@dataclass(frozen=True, slots=True)
class Place:
    """A message's offset, and its id where its publisher gave it one."""

    offset: int
    id: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of the stream."""

    place: Place
    body: bytes


class StreamReader:
    """One consumer of the stream, on one link, until either of them ends."""

    def __init__(self, link: Link, prefetch: int = PREFETCH) -> None:
        """Nothing is consumed before `open`."""
        self._link = link
        self._prefetch = prefetch
        self._arrived: asyncio.Queue[tuple[int, Delivery] | None] = asyncio.Queue()
        self._unacked = 0

    async def open(self, offset: int | str) -> Self:
        """Begin at `offset`, or at the first message that there is; raises BrokerUnavailable."""
        link, channel = self._link, self._link.channel
        channel.add_on_cancel_callback(lambda _frame: self._arrived.put_nowait(None))
        link.lost.add_done_callback(lambda _lost: self._arrived.put_nowait(None))
        await link.call(channel.basic_qos, prefetch_count=self._prefetch)
        await link.call(channel.basic_consume, CONFIG_STREAM, self._on_message, arguments={_OFFSET: offset})
        return self

    async def next(self) -> Delivery:
        """The next message, however long it takes; raises BrokerUnavailable where none can come any more."""
        arrived = await self._arrived.get()
        if arrived is None:
            raise BrokerUnavailable(self._link.lost.result() if self._link.lost.done() else "the stream is gone")
        tag, delivery = arrived
        self._unacked += 1
        if self._unacked >= min(_ACK_EVERY, self._prefetch) and not self._link.lost.done():
            self._link.channel.basic_ack(tag, multiple=True)
            self._unacked = 0
        return delivery

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        headers = properties.headers or {}
        identity = headers.get(ID)
        place = Place(int(headers.get(_OFFSET, 0)), identity if isinstance(identity, str) else None)
        self._arrived.put_nowait((method.delivery_tag, Delivery(place, body)))


async def head_of(url: str, name: str) -> Place:
    """The place of the first message that the stream still holds; it must hold one. Raises BrokerUnavailable."""
    # Over a connection of its own, closed with the consumer: pika rejects what arrives after a cancel,
    # and a stream ends the connection that rejects.
    link = await open_link(url, name)
    try:
        reader = await StreamReader(link, prefetch=1).open(FIRST)
        return (await reader.next()).place
    finally:
        await link.close()


async def publish_message(publisher: Publisher, message: Message) -> None:
    """Append one message and return once it is confirmed; raises BrokerUnavailable or PublishRefused."""
    await publisher.publish(
        "",
        CONFIG_STREAM,
        message.model_dump_json().encode(),
        content_type="application/json",
        headers={ID: str(uuid.uuid4())},
    )


async def publish_marker(url: str, name: str) -> str:
    """Append a marker and return its id: everything that was confirmed before stands before it.

    Raises BrokerUnavailable, also where the broker does not take messages now.
    """
    marker = str(uuid.uuid4())
    try:
        async with open_publisher(url, name) as publisher:
            await publish_message(publisher, Marker(marker=marker, published_at=datetime.now(UTC)))
    except PublishRefused as error:
        raise BrokerUnavailable(str(error)) from None
    return marker
