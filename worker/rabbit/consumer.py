"""Consuming: one task per delivery, settled on the channel that delivered it or not at all.

A delivery tag means something only on its own channel. When the link is lost, its deliveries are
the broker's again: their tasks are cancelled here (the work itself goes on in the pipeline, which
joins a redelivery to it), and nothing of an old link is ever acknowledged on a new one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pika
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from worker.delivery.ports import Ack, Incoming, Lane, Park, Return, Settlement
from worker.errors import BrokerUnavailable, PublishRefused
from worker.rabbit import topology
from worker.rabbit.acks import Acks
from worker.rabbit.connection import Link, open_link
from worker.rabbit.parking import parked_headers
from worker.rabbit.publisher import Publisher

log = structlog.get_logger(__name__)

Handler = Callable[[Incoming], Awaitable[Settlement]]

# What goes wrong unexpectedly so often is no accident: the event is set aside.
MAX_SURPRISES = 5
_SURPRISE_PAUSE_S = 1.0
# Bulk may hold a quarter of what transactional mail may, so that it never fills a worker.
_BULK_SHARE = 4


class Consumer:
    """Consumes both lanes until told to stop, over as many connections as that takes."""

    def __init__(self, url: str, publisher: Publisher, handler: Handler, *, prefetch: int, name: str) -> None:
        """`prefetch` bounds the transactional deliveries held at once; bulk has a quarter of it."""
        self._url = url
        self._publisher = publisher
        self._handler = handler
        self._prefetch = prefetch
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()
        self._consuming = False

    @property
    def consuming(self) -> bool:
        """True while the broker is delivering to this consumer."""
        return self._consuming

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; reconnects with backoff.

        Returns once nothing is taken any more and every task has settled. Raises
        TopologyMismatch where a queue exists with other arguments.
        """
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                link = await self._connect(stopped)
                if link is not None:
                    await self._consume(link, stopped)
        finally:
            stopped.cancel()

    async def _connect(self, stopped: asyncio.Future[Any]) -> Link | None:
        """Connect and declare, however long it takes; None where the stop comes first."""
        again = AsyncRetrying(
            retry=retry_if_exception_type(BrokerUnavailable),
            wait=wait_exponential_jitter(multiplier=0.2, max=10),
            before_sleep=_say_unavailable,
        )
        connecting: asyncio.Task[Link] = asyncio.ensure_future(again(self._open))
        await asyncio.wait({connecting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            return connecting.result()
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        return None

    async def _open(self) -> Link:
        link = await open_link(self._url, self._name)
        try:
            await link.declare()
        except BaseException:
            await link.close()
            raise
        return link

    async def _consume(self, link: Link, stopped: asyncio.Future[Any]) -> None:
        self._consuming = True
        self._acks = Acks(link.channel.basic_ack, lambda: not link.lost.done())
        try:
            tags = [await self._subscribe(link, lane) for lane in Lane]
        except BrokerUnavailable as error:
            self._consuming = False
            log.warning("RabbitMQ went away", reason=str(error))
            await link.close()
            return
        log.info("consuming", prefetch=self._prefetch)
        await asyncio.wait({link.lost, stopped}, return_when=asyncio.FIRST_COMPLETED)
        self._consuming = False
        if link.lost.done():
            log.warning("consumer lost RabbitMQ", reason=link.lost.result(), unsettled=len(self._tasks))
            await self._abandon_tasks()
        else:
            await self._drain(link, tags)

    async def _subscribe(self, link: Link, lane: Lane) -> str:
        prefetch = self._prefetch if lane is Lane.TRANSACTIONAL else max(1, self._prefetch // _BULK_SHARE)
        # Applies to the consumer that is made next: quorum queues know no limit for a whole channel.
        await link.call(link.channel.basic_qos, prefetch_count=prefetch)
        on_message = partial(self._on_message, link, self._acks, lane)
        frame = await link.call(link.channel.basic_consume, topology.lane_queue(lane), on_message)
        return str(frame.method.consumer_tag)

    def _on_message(
        self, link: Link, acks: Acks, lane: Lane, _channel: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        acks.delivered(method.delivery_tag)
        task = asyncio.ensure_future(self._take(link, acks, lane, method, properties, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, link: Link, acks: Acks, lane: Lane, method: Any, properties: Any, body: bytes) -> None:
        incoming = _incoming(lane, method, properties, body)
        settlement: Settlement
        try:
            # What arrives between the stop and the broker's word that it sends no more goes back.
            settlement = await self._handler(incoming) if self._consuming else Return()
        except Exception:
            log.exception("event could not be handled")
            settlement = await _after_surprise(incoming)
        await self._settle(link, acks, method.delivery_tag, incoming, settlement)

    async def _settle(self, link: Link, acks: Acks, tag: int, incoming: Incoming, settlement: Settlement) -> None:
        match settlement:
            case Park():
                if not await self._park(incoming, settlement):
                    settlement = Return()
            case Ack() | Return():
                pass
        if link.lost.done():  # the broker has taken the delivery back already
            return
        if isinstance(settlement, Return):
            link.channel.basic_nack(tag, requeue=True)
            acks.settled_otherwise(tag)
        else:
            acks.done(tag)

    async def _park(self, incoming: Incoming, park: Park) -> bool:
        """Publish to the parked queue; False where the broker did not take it."""
        headers = parked_headers(incoming, park)
        try:
            await self._publisher.publish(
                "", topology.PARKED_QUEUE, incoming.body, content_type=incoming.content_type, headers=headers
            )
        except (BrokerUnavailable, PublishRefused) as error:
            log.warning("could not park", reason=str(error))
            return False
        return True

    async def _drain(self, link: Link, tags: list[str]) -> None:
        """Take nothing more, let the tasks settle, and close."""
        for tag in tags:
            try:
                await link.call(link.channel.basic_cancel, tag)
            except BrokerUnavailable:
                await self._abandon_tasks()
                return
        while self._tasks and not link.lost.done():
            waiting: set[asyncio.Future[Any]] = {*self._tasks, link.lost}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await self._abandon_tasks()
        self._acks.flush()
        await link.close()

    async def _abandon_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _incoming(lane: Lane, method: Any, properties: pika.BasicProperties, body: bytes) -> Incoming:
    return Incoming(
        body=body,
        content_type=properties.content_type,
        headers=properties.headers or {},
        lane=lane,
        redelivered=bool(method.redelivered),
    )


async def _after_surprise(incoming: Incoming) -> Settlement:
    """Give the event another try, slowly, until it has surprised often enough to be parked."""
    deliveries = incoming.headers.get("x-delivery-count", 0)
    if isinstance(deliveries, int) and deliveries >= MAX_SURPRISES:
        return Park("handler_error", "handling it failed again and again: see the worker's log")
    await asyncio.sleep(_SURPRISE_PAUSE_S)
    return Return()


def _say_unavailable(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("RabbitMQ is not available", reason=str(error), retry_in_s=round(state.upcoming_sleep, 1))
