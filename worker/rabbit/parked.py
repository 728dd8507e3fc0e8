"""The parked queue, for an operator: messages are taken one by one and held until the end.

AMQP has no way to look at a message without taking it, and a message that is given back would be
taken again at once. So every message is asked for with basic.get and held unacknowledged: those
that an operator has decided about are acknowledged, the others go back together, at the end or with
the connection, however that ends. Only the body at hand is in memory. basic.get and not a consumer:
what is held counts against a consumer's prefetch, and without one the broker would send everything.

A replay is a confirmed publish and then an acknowledgement: killed in between, the event is in its
lane and still parked. Replayed once more it comes to a worker twice, and the worker's look into the
audit stops a second mail.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, Self

import pika
from pika.exceptions import AMQPError
from pika.spec import Basic

from worker.delivery.parked import DELIVERY_LIMIT, TOO_LARGE, UNROUTED, Held, ParkedMessage
from worker.delivery.ports import Lane
from worker.delivery.progress import PENDING, read_progress
from worker.errors import BrokerUnavailable, TopologyMismatch
from worker.rabbit import parking, topology
from worker.rabbit.connection import Link, open_link
from worker.rabbit.publisher import Publisher, open_publisher

_GET_TIMEOUT_S = 30.0
_RETURN_TIMEOUT_S = 5.0
_RETURN_POLL_S = 0.02
_NOT_FOUND = "404"

_Got = tuple[Any, pika.BasicProperties, bytes] | None


class RabbitParked:
    """A `ParkedShelf` over the parked queue; made by `open_parked_queue`, for one task at a time to take from."""

    def __init__(self, link: Link, publisher: Publisher) -> None:
        """`link` is this shelf's own: what is held is held by its channel."""
        self._link = link
        self._publisher = publisher
        self._held: set[int] = set()
        self._answer: asyncio.Future[_Got] | None = None
        link.channel.add_callback(lambda _frame: self._resolve(None), [Basic.GetEmpty], one_shot=False)

    async def count(self) -> int:
        """How many are ready; what another operator holds is not.

        Raises TopologyMismatch where there is no parked queue.
        """
        try:
            frame = await self._link.call(self._link.channel.queue_declare, topology.PARKED_QUEUE, passive=True)
        except BrokerUnavailable as error:
            if not str(error).startswith(_NOT_FOUND):
                raise
            words = f"there is no queue {topology.PARKED_QUEUE} on this broker: no worker has declared it yet"
            raise TopologyMismatch(words) from None
        return int(frame.method.message_count)

    async def take(self) -> Held | None:
        """Hold the next one, or None where none is ready."""
        got = await self._get()
        if got is None:
            return None
        method, properties, body = got
        self._held.add(method.delivery_tag)
        return Held(method.delivery_tag, read_parked(properties, body, method.routing_key))

    async def replay(self, held: Held, headers: Mapping[str, Any], lane: Lane) -> bool:
        """Publish into the lane, wait for the confirm, acknowledge; True, since nobody else can have it."""
        message = held.message
        await self._publisher.publish(
            "", topology.lane_queue(lane), message.body, content_type=message.content_type, headers=dict(headers)
        )
        self._settle(held.token)
        return True

    async def drop(self, held: Held) -> bool:
        """Acknowledge; True, since nobody else can have it."""
        self._settle(held.token)
        return True

    async def give_back(self) -> None:
        """Return what is held, and wait until it is ready again, lest the next look miss it.

        A queue announces no return, so it is asked; another operator may have taken some by then,
        and after `_RETURN_TIMEOUT_S` it is enough.
        """
        returned, self._held = len(self._held), set()
        if returned:
            try:
                # Tag 0 and multiple: all that this channel holds.
                self._link.channel.basic_nack(0, multiple=True, requeue=True)
            except (AMQPError, ValueError) as error:
                self._lost(error)
        # Asked even where nothing was held: the answer also says that the acknowledgements before it arrived.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETURN_TIMEOUT_S):
                while await self.count() < returned:  # noqa: ASYNC110 # the broker sets no event
                    await asyncio.sleep(_RETURN_POLL_S)

    def _settle(self, tag: int) -> None:
        if self._link.lost.done():
            raise BrokerUnavailable(self._link.lost.result())
        try:
            self._link.channel.basic_ack(tag)
        except (AMQPError, ValueError) as error:
            self._lost(error)
        self._held.discard(tag)

    async def _get(self) -> _Got:
        answered: asyncio.Future[_Got] = asyncio.get_running_loop().create_future()
        self._answer = answered
        try:
            self._link.channel.basic_get(topology.PARKED_QUEUE, lambda _c, m, p, b: self._resolve((m, p, b)))
        except (AMQPError, ValueError) as error:
            self._lost(error)
        waiting: set[asyncio.Future[Any]] = {answered, self._link.lost}
        await asyncio.wait(waiting, timeout=_GET_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return answered.result()
        if self._link.lost.done():
            raise BrokerUnavailable(self._link.lost.result())
        raise BrokerUnavailable("RabbitMQ did not answer in time")

    def _resolve(self, got: _Got) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(got)

    def _lost(self, error: Exception) -> NoReturn:
        reason = self._link.lost.result() if self._link.lost.done() else str(error) or type(error).__name__
        raise BrokerUnavailable(reason) from None

    async def __aenter__(self) -> Self:
        """Nothing is held yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Return what is held; without the connection it has returned by itself."""
        if not self._link.lost.done():
            await self.give_back()


@contextlib.asynccontextmanager
async def open_parked_queue(url: str) -> AsyncIterator[RabbitParked]:
    """Yield the parked queue on connections of its own, and give back at the end what is still held.

    Raises BrokerUnavailable where RabbitMQ does not answer.
    """
    async with open_publisher(url, "postbote parked replay") as publisher:
        link = await open_link(url, "postbote parked")
        try:
            async with RabbitParked(link, publisher) as shelf:
                yield shelf
        finally:
            await link.close()


def read_parked(properties: pika.BasicProperties, body: bytes, routing_key: str = "") -> ParkedMessage:
    """Read a message of the parked queue; `routing_key` is the one that it was published with.

    A worker writes its reason on what it parks. What the broker itself brought here bears only the
    broker's marks: x-death from a lane, for its delivery limit or a size that nobody can publish, and
    nothing where no binding matched.
    """
    headers: Mapping[str, Any] = properties.headers or {}
    pending = headers.get(PENDING)
    reason, detail, lane = _by_the_worker(headers) or _by_the_broker(headers, routing_key)
    return ParkedMessage(
        body=body,
        content_type=properties.content_type,
        headers=headers,
        reason=reason,
        detail=detail,
        pending=tuple(each for each in pending if isinstance(each, str)) if isinstance(pending, list) else (),
        lane=lane,
        first_seen=read_progress(headers, ()).first_seen,
    )


_Why = tuple[str, str, Lane | None]


def _by_the_worker(headers: Mapping[str, Any]) -> _Why | None:
    reason = headers.get(parking.REASON)
    if not isinstance(reason, str) or not reason:
        return None
    return reason, str(headers.get(parking.DETAIL) or ""), _lane_named(str(headers.get(parking.LANE)), "")


def _by_the_broker(headers: Mapping[str, Any], routing_key: str) -> _Why:
    deaths = headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else ():
        if not isinstance(death, Mapping):
            continue
        lane = _lane_named(str(death.get("queue")), topology.lane_queue(Lane.BULK).removesuffix(Lane.BULK))
        if lane is not None:
            return *_why_it_died(str(death.get("reason")), death.get("count", 1), lane), lane
    return UNROUTED, f"no queue is bound for the routing key {routing_key!r}", None


def _why_it_died(reason: str, count: object, lane: Lane) -> tuple[str, str]:
    match reason:
        case "rejected":
            return TOO_LARGE, "it has more bytes than RabbitMQ takes in one message: raise its max_message_size"
        case "delivery_limit":
            reason = DELIVERY_LIMIT
        case _:  # the broker's own word: an operator's policy was at work
            pass
    return reason, f"the broker gave up delivering it from {topology.lane_queue(lane)} (count {count})"


def _lane_named(name: str, prefix: str) -> Lane | None:
    found = name.removeprefix(prefix)
    return Lane(found) if name.startswith(prefix) and found in tuple(Lane) else None
