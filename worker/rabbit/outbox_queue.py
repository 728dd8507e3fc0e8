"""The outbox of the audit as a RabbitMQ queue: confirmed in, a few at a time out.

Its link is its own, so that a publisher that is blocked by an alarm never keeps records from being
shipped, and stays open while nothing is shipped: the depth is asked over it. A message is
acknowledged on the channel that delivered it, or returned by it, or the broker's again with it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from pika.exceptions import AMQPError

from worker.errors import AuditUnavailable, BrokerUnavailable
from worker.rabbit import topology
from worker.rabbit.connection import Link, open_link
from worker.rabbit.publisher import Publisher

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/x-ndjson"
PREFETCH = 5
_SURPRISE_PAUSE_S = 1.0

Write = Callable[[bytes], Awaitable[None]]


class RabbitOutbox:
    """Fulfils the audit's OutboxQueue."""

    def __init__(self, url: str, publisher: Publisher, *, name: str, prefetch: int = PREFETCH) -> None:
        """`publisher` is the worker's own; `name` is the link's in the broker's management UI."""
        self._url = url
        self._publisher = publisher
        self._name = name
        self._prefetch = prefetch
        self._link: Link | None = None
        self._opening = asyncio.Lock()
        self._cancelled = asyncio.Event()

    async def put(self, bodies: Sequence[bytes]) -> None:
        """Publish every message, and return once all are confirmed; raises BrokerUnavailable or PublishRefused."""
        publishing = [
            self._publisher.publish("", topology.AUDIT_OUTBOX_QUEUE, body, content_type=CONTENT_TYPE, headers={})
            for body in bodies
        ]
        for result in await asyncio.gather(*publishing, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def ship(self, write: Write, stop: asyncio.Event) -> None:
        """Consume until `stop`; see the port. Raises BrokerUnavailable when the link or the consumer is lost."""
        link = await self._open()
        self._cancelled.clear()
        shipment = _Shipment(link, write)
        ends = [asyncio.ensure_future(event.wait()) for event in (stop, self._cancelled)]
        try:
            await shipment.begin(self._prefetch)
            first: set[asyncio.Future[Any]] = {link.lost, *ends}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await shipment.end(cancelled=self._cancelled.is_set())
        if link.lost.done():
            raise BrokerUnavailable(link.lost.result())
        if not stop.is_set():
            raise BrokerUnavailable("RabbitMQ cancelled the consumer of the outbox")

    async def depth(self) -> int | None:
        """Messages that are ready; those in some worker's hands are not counted. None while RabbitMQ is away."""
        try:
            link = await self._open()
            frame = await link.call(link.channel.queue_declare, topology.AUDIT_OUTBOX_QUEUE, passive=True)
        except BrokerUnavailable as error:
            log.debug("the outbox cannot be counted", reason=str(error))
            return None
        return int(frame.method.message_count)

    async def close(self) -> None:
        """Close the link; what is in hand is the broker's again."""
        async with self._opening:
            if self._link is not None:
                await self._link.close()

    async def _open(self) -> Link:
        async with self._opening:
            if self._link is None or self._link.lost.done():
                self._link = await open_link(self._url, self._name)
                self._link.channel.add_on_cancel_callback(lambda _frame: self._cancelled.set())
            return self._link


class _Shipment:
    """The deliveries of one consumer on one link; `end` leaves none of them behind."""

    def __init__(self, link: Link, write: Write) -> None:
        self._link = link
        self._write = write
        self._tag: str | None = None
        self._ending = False
        self._in_hand: dict[int, asyncio.Task[None]] = {}

    async def begin(self, prefetch: int) -> None:
        """Consume from here on."""
        channel = self._link.channel
        await self._link.call(channel.basic_qos, prefetch_count=prefetch)
        self._tag = f"outbox-{uuid.uuid4().hex}"  # chosen here, so that it can be cancelled whatever comes
        await self._link.call(
            channel.basic_consume, topology.AUDIT_OUTBOX_QUEUE, self._on_message, consumer_tag=self._tag
        )

    async def end(self, *, cancelled: bool) -> None:
        """Take nothing more, and return what is in hand; `cancelled`: the broker has ended the consumer itself."""
        self._ending = True
        if self._tag is not None and not cancelled:
            try:
                await self._link.call(self._link.channel.basic_cancel, self._tag)
            except BrokerUnavailable as error:
                log.debug("the consumer of the outbox ended with its link", reason=str(error))
        tasks = list(self._in_hand.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for tag in list(self._in_hand):  # a task that was cancelled before it began answers nothing
            self._answer(tag, written=False)

    def _on_message(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        tag = int(method.delivery_tag)
        self._in_hand[tag] = asyncio.ensure_future(self._take(tag, body))

    async def _take(self, tag: int, body: bytes) -> None:
        written = False
        try:
            if not self._ending:
                await self._write(body)
                written = True
        except AuditUnavailable as error:
            log.debug("message goes back to the outbox", reason=str(error))
        except Exception:
            log.exception("message of the outbox could not be shipped")
            await asyncio.sleep(_SURPRISE_PAUSE_S)
        finally:
            self._answer(tag, written=written)

    def _answer(self, tag: int, *, written: bool) -> None:
        self._in_hand.pop(tag, None)
        if self._link.lost.done():  # the broker has taken the delivery back already
            return
        try:
            if written:
                self._link.channel.basic_ack(tag)
            else:
                self._link.channel.basic_nack(tag, requeue=True)
        except AMQPError as error:  # the link is about to be lost, and the delivery the broker's
            log.debug("message of the outbox was not answered", reason=repr(error))
