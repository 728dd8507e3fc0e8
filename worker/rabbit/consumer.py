"""Consuming: one task per delivery, settled on the channel that delivered it or not at all.

A delivery tag means something only on its own channel. When the link is lost, its deliveries are
the broker's again: their tasks are cancelled here (the work itself goes on in the pipeline, which
joins a redelivery to it), and nothing of an old link is ever acknowledged on a new one.

What is subscribed follows from three things: the link, `hold`, and the broker, which cancels a
consumer whose queue is deleted. Each change wakes one loop that brings the subscriptions in line.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from worker.delivery.ports import Ack, Incoming, Lane, Park, Settlement
from worker.errors import BrokerUnavailable, PublishRefused
from worker.rabbit import topology
from worker.rabbit.acks import Acks
from worker.rabbit.connection import Link, open_link
from worker.rabbit.declaring import Provision, prepare
from worker.rabbit.deliveries import Answer, Delivery, incoming_of
from worker.rabbit.onward import Onward, onward, untouched
from worker.rabbit.publisher import MessageTooLarge, Publisher

log = structlog.get_logger(__name__)

Handler = Callable[[Incoming], Awaitable[Settlement]]

# What goes wrong unexpectedly so often is no accident: the event is set aside.
MAX_SURPRISES = 5
_SURPRISE_PAUSE_S = 1.0
# How long an event that must move on is kept in hand while nothing can be published, an alarm, say, and as long again
# for the confirm: given back, it would be delivered and tried again at once, and parked when that had happened
# a hundred times. Both together end well before consumer_timeout (30 min).
_MOVE_ON_PATIENCE_S = 300.0
# Before an event that could not be published goes back: the broker would deliver it again at once.
_REFUSAL_PAUSE_S = 1.0
# Bulk may hold a quarter of what transactional mail may, so that it never fills a worker.
_BULK_SHARE = 4
_CANCEL_PAUSE_S = 0.2
_MAX_CANCEL_PAUSE_S = 10.0
_QUIET_S = 60.0  # a subscription that lasted so long was no failure
# How long deliveries must have rested before a subscription is cancelled, and how long one waits for that.
_REST_S = 0.1
_LONGEST_REST_S = 1.0


class Consumer:
    """Consumes both lanes until told to stop, over as many connections as that takes."""

    def __init__(
        self,
        url: str,
        publisher: Publisher,
        handler: Handler,
        *,
        prefetch: int,
        name: str,
        provision: Provision = Provision.DECLARE,
    ) -> None:
        """`prefetch` bounds the transactional deliveries held at once; bulk has a quarter of it."""
        self._url = url
        self._publisher = publisher
        self._handler = handler
        self._prefetch = prefetch
        self._name = name
        self._provision = provision
        self._tasks: set[asyncio.Future[Any]] = set()
        self._tags: dict[Lane, str] = {}
        self._numbers = itertools.count(1)
        self._stopping = False
        self._held: str | None = None
        self._changed = asyncio.Event()
        self._settling = asyncio.Event()
        self._settling.set()
        self._delivered_at = 0.0
        self._cancelled = False
        self._cancellations = 0
        self._cancelled_at = 0.0

    @property
    def consuming(self) -> bool:
        """True while the broker is delivering to this consumer."""
        return len(self._tags) == len(Lane) and self._taking

    @property
    def held(self) -> str | None:
        """Why nothing is taken at present, or None."""
        return self._held

    def hold(self, reason: str) -> None:
        """Take nothing more until `resume`; what is in hand is settled. The last reason counts."""
        if self._held is None:
            log.warning("consumer holds", reason=reason, in_hand=len(self._tasks))
        self._held = reason
        self._changed.set()

    def resume(self) -> None:
        """Take events again."""
        if self._held is not None:
            log.info("consumer resumes", held_for=self._held)
        self._held = None
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; reconnects with backoff.

        Returns once nothing is taken any more and every task has settled. Raises
        TopologyMismatch where a queue exists with other arguments, or is missing and not to be declared.
        """
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                link = await self._connect(stopped)
                if link is not None:
                    await self._consume(link, stopped)
        finally:
            stopped.cancel()

    @property
    def _taking(self) -> bool:
        return self._held is None and not self._stopping

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
            await prepare(link, self._provision)
        except BaseException:
            await link.close()
            raise
        link.channel.add_on_cancel_callback(self._on_cancelled)
        return link

    async def _consume(self, link: Link, stopped: asyncio.Future[Any]) -> None:
        self._stopping = self._cancelled = False
        acks = self._acks = Acks(link.channel.basic_ack, lambda: not link.lost.done() and link.channel.is_open)
        try:
            await self._keep_subscribed(link, stopped)
            if not link.lost.done():
                await self._drain(link)
        except BrokerUnavailable as error:
            log.warning("RabbitMQ went away", reason=str(error))
        finally:
            if link.lost.done():
                log.warning("consumer lost RabbitMQ", reason=link.lost.result(), unsettled=len(self._tasks))
            self._tags.clear()
            await self._abandon_tasks()
            acks.flush()
            await link.close()

    async def _keep_subscribed(self, link: Link, stopped: asyncio.Future[Any]) -> None:
        """Bring the subscriptions in line with what is wanted, after each change, until the link ends or the stop."""
        while not link.lost.done() and not stopped.done():
            self._changed.clear()
            if self._held is not None:
                await self._unsubscribe(link)
            else:
                await self._subscribe_missing(link, stopped)
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait({link.lost, stopped, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()

    async def _subscribe_missing(self, link: Link, stopped: asyncio.Future[Any]) -> None:
        if self._cancelled:
            await asyncio.wait({link.lost, stopped}, timeout=self._pause_s(), return_when=asyncio.FIRST_COMPLETED)
            self._cancelled = False
            await prepare(link, self._provision)
        for lane in Lane:
            if lane not in self._tags and self._held is None and not stopped.done():
                await self._subscribe(link, lane)
                log.info("consuming", lane=lane.value, prefetch=self._prefetch_of(lane))

    async def _subscribe(self, link: Link, lane: Lane) -> None:
        # Applies to the consumer that is made next: quorum queues know no limit for a whole channel.
        await link.call(link.channel.basic_qos, prefetch_count=self._prefetch_of(lane))
        # Known before the broker answers: it may cancel right after.
        self._tags[lane] = tag = f"postbote.{lane.value}.{next(self._numbers)}"
        on_message = partial(self._on_message, link, self._acks, lane)
        await link.call(link.channel.basic_consume, topology.lane_queue(lane), on_message, consumer_tag=tag)

    def _prefetch_of(self, lane: Lane) -> int:
        return self._prefetch if lane is Lane.TRANSACTIONAL else max(1, self._prefetch // _BULK_SHARE)

    async def _unsubscribe(self, link: Link) -> None:
        if not self._tags:
            return
        self._acks.flush()  # what is done now would be acknowledged while deliveries rest
        self._settling.clear()
        try:
            await self._deliveries_rest(link)
            for lane, tag in list(self._tags.items()):
                if tag in link.channel.consumer_tags:  # else the broker was faster, and would not answer
                    await link.call(link.channel.basic_cancel, tag)
                self._tags.pop(lane, None)
        finally:
            self._settling.set()

    async def _deliveries_rest(self, link: Link) -> None:
        """Wait until the broker sends nothing more, which it does as nothing is acknowledged meanwhile.

        What a quorum queue has on its way when its consumer is cancelled it counts as delivered, and
        the next worker would take it for a crash of this one.
        """
        started = self._delivered_at = time.monotonic()
        while (now := time.monotonic()) < min(self._delivered_at + _REST_S, started + _LONGEST_REST_S):
            await asyncio.wait({link.lost}, timeout=self._delivered_at + _REST_S - now)
            if link.lost.done():
                return

    def _on_cancelled(self, frame: Any) -> None:
        """The broker has ended a subscription: its queue was deleted, or has lost its leader."""
        tag = frame.method.consumer_tag
        for lane in [lane for lane, known in self._tags.items() if known == tag]:
            log.warning("RabbitMQ cancelled the consumer", queue=topology.lane_queue(lane))
            del self._tags[lane]
        self._cancelled = True
        self._changed.set()

    def _pause_s(self) -> float:
        """How long to wait after a cancellation: longer each time, until a subscription has lasted."""
        now = time.monotonic()
        self._cancellations = 1 if now - self._cancelled_at > _QUIET_S else self._cancellations + 1
        self._cancelled_at = now
        longest = min(_CANCEL_PAUSE_S * 2.0**self._cancellations, _MAX_CANCEL_PAUSE_S)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 # so that workers don't come back in step

    def _on_message(
        self, link: Link, acks: Acks, lane: Lane, _channel: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        self._delivered_at = time.monotonic()
        tag = method.delivery_tag
        acks.delivered(tag)
        delivery = Delivery(link, acks, tag, incoming_of(lane, method, properties, body))
        if not self._taking:  # it came between the stop, or a hold, and the broker's word that it sends no more
            back = untouched(delivery.incoming)
            self._begin(self._settle_once_at_rest(delivery, back), back)
            return
        handled = asyncio.ensure_future(self._handler(delivery.incoming))
        self._tasks.add(handled)
        handled.add_done_callback(partial(self._on_handled, delivery))

    def _on_handled(self, delivery: Delivery, handled: asyncio.Future[Settlement]) -> None:
        """Acknowledge what is finished; all else takes longer than a moment, and a task of its own."""
        abandoned = handled not in self._tasks
        self._tasks.discard(handled)
        if handled.cancelled():
            return
        error = handled.exception()
        if error is not None:
            log.error("event could not be handled", exc_info=error)
        settlement = None if error is not None else handled.result()
        if abandoned:
            _tell(settlement, done=False)
        elif isinstance(settlement, Ack) and self._settling.is_set():
            delivery.answer(Answer.DONE)
        else:
            self._begin(self._settle(delivery, settlement), settlement)

    def _begin(self, settling: Coroutine[Any, Any, None], settlement: Settlement | None) -> None:
        task = asyncio.ensure_future(settling)
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_settled, settlement))

    def _on_settled(self, settlement: Settlement | None, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        _tell(settlement, done=False)  # it may have been cancelled before its first step; else this is the second word

    async def _settle_once_at_rest(self, delivery: Delivery, settlement: Settlement) -> None:
        await self._settling.wait()
        await self._settle(delivery, settlement)

    async def _settle(self, delivery: Delivery, settlement: Settlement | None) -> None:
        """Carry out what a handler said; where it failed (None), let the event come again."""
        incoming = delivery.incoming
        if settlement is None:
            settlement = await _after_surprise(incoming)
        answer = Answer.FAILED if settlement is None else await self._carried_out(incoming, settlement)
        if not self._settling.is_set():
            await self._settling.wait()
        delivery.answer(answer)

    async def _carried_out(self, incoming: Incoming, settlement: Settlement) -> Answer:
        """Do what takes the event's place, and tell who waits for that."""
        if isinstance(settlement, Ack):
            return Answer.DONE
        answer = Answer.RETURNED
        try:
            answer = await self._moved_on(incoming, onward(incoming, settlement))
        finally:
            _tell(settlement, done=answer is Answer.DONE)
        return answer

    async def _moved_on(self, incoming: Incoming, onward: Onward | None) -> Answer:
        """Publish what takes the event's place, if anything does."""
        if onward is None:
            return Answer.DONE
        try:
            await self._publisher.publish(
                "",
                onward.queue,
                incoming.body,
                content_type=incoming.content_type,
                headers=onward.headers,
                expiration_ms=onward.expiration_ms,
                patience_s=_MOVE_ON_PATIENCE_S,
            )
        except MessageTooLarge as error:
            log.error("event is set aside by the broker", meant_for=onward.queue, reason=str(error))  # noqa: TRY400 # no bug to trace
            return Answer.SET_ASIDE
        except (BrokerUnavailable, PublishRefused) as error:
            log.warning("could not move an event on: it goes back", queue=onward.queue, reason=str(error))
            await asyncio.sleep(_REFUSAL_PAUSE_S)
            return Answer.RETURNED
        except Exception:  # without an answer the broker would keep it for this worker, who has forgotten it
            log.exception("moving an event on surprised: it comes again", queue=onward.queue)
            await asyncio.sleep(_SURPRISE_PAUSE_S)
            return Answer.FAILED
        return Answer.DONE

    async def _drain(self, link: Link) -> None:
        """Take nothing more, and let the tasks settle."""
        self._stopping = True
        await self._unsubscribe(link)
        while self._tasks and not link.lost.done():
            # All of them at once: to go through a thousand whenever one of them ends takes seconds.
            waiting: set[asyncio.Future[Any]] = {asyncio.gather(*self._tasks, return_exceptions=True), link.lost}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def _abandon_tasks(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell(settlement: Settlement | None, *, done: bool) -> None:
    """Tell other copies of the event, who wait for it, whether this one has moved it on; the first word counts."""
    if settlement is not None and not isinstance(settlement, Ack):
        settlement.told(done)


async def _after_surprise(incoming: Incoming) -> Park | None:
    """Let the event come again, slowly (None), until it has surprised often enough to be parked."""
    deliveries = incoming.headers.get("x-delivery-count", 0)
    if isinstance(deliveries, int) and deliveries >= MAX_SURPRISES:
        return Park("handler_error", "handling it failed again and again: see the worker's log")
    await asyncio.sleep(_SURPRISE_PAUSE_S)
    return None


def _say_unavailable(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("RabbitMQ is not available", reason=str(error), retry_in_s=round(state.upcoming_sleep, 1))
