"""Replicas tell each other of their breakers, over a RabbitMQ stream.

Every replica reads the whole stream; a stream keeps what was read, so one that starts reads the
last hour and then knows which records rest before it takes an event. Where the broker or the stream
is away, each replica goes on with its own breakers, and says so in `missing`.

    share ──► pending (the last change of each record) ──► at most PER_SECOND messages ──► stream
    stream ──► queue ──► read, apply, acknowledge

What is published is the last change of a record at that moment: the order in which changes are
told apart (see `Change.order`) makes those in between superfluous.
"""

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog
from pika.exceptions import AMQPError
from tenacity import AsyncRetrying, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from schemas.breaker import MAX_CHANGES, ChangesMessage, MarkerMessage, PublishedChange, read_breaker_message
from schemas.smtp_config import Scope
from worker.delivery.breakers import MAX_KEYS, BreakerKey, Change, State
from worker.errors import BrokerUnavailable, PublishRefused
from worker.rabbit import topology
from worker.rabbit.connection import Link, open_link

log = structlog.get_logger(__name__)

PER_SECOND = 20
# A breaker's longest wait is minutes, and the stream keeps an hour.
HISTORY = timedelta(hours=1)
PREFETCH = 200
CATCH_UP_S = 10.0
AGAIN_S = 1.0
CLOSE_S = 2.0
_CONTENT_TYPE = "application/json"


class Publisher(Protocol):
    """What is needed of `worker.rabbit.publisher.Publisher`."""

    async def publish(
        self, exchange: str, routing_key: str, body: bytes, *, content_type: str | None, headers: Mapping[str, Any]
    ) -> None:
        """Publish with confirm; raises BrokerUnavailable or PublishRefused."""
        ...


class BreakerStream:
    """Publishes this replica's changes, and applies the others'; works until `close`."""

    def __init__(
        self,
        url: str,
        publisher: Publisher,
        apply: Callable[[Change, float], bool],
        *,
        name: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is connected before `start`; `apply` is `Breakers.apply`, `clock` tells seconds since the epoch."""
        self._url = url
        self._publisher = publisher
        self._apply = apply
        self._name = name
        self._clock = clock
        self._pending: OrderedDict[tuple[Scope, str], Change] = OrderedDict()
        self._something = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._marker = ""
        self._unsent = ""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Connect in the background, again and again."""
        self._tasks = [asyncio.ensure_future(self._read_on()), asyncio.ensure_future(self._publish_on())]

    async def caught_up(self, timeout_s: float = CATCH_UP_S) -> bool:
        """Wait until the last hour is known; False where that takes longer, and one begins without."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._caught_up.wait(), timeout_s)
        return self._caught_up.is_set()

    async def close(self) -> None:
        """Stop reading, and say what was not said yet where that goes quickly."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # the others find out by themselves
            async with asyncio.timeout(CLOSE_S):
                while self._pending and await self._publish_some():
                    continue

    def share(self, change: Change) -> None:
        """Tell the other replicas, soon; never waits and never fails."""
        name = (change.key.scope, change.key.name)
        waiting = self._pending.get(name)
        if waiting is None or change.order > waiting.order:
            self._pending[name] = change
        if len(self._pending) > MAX_KEYS:
            self._pending.popitem(last=False)
        self._something.set()

    def missing(self) -> str | None:
        """Say why the replicas' breakers are not shared now, or None."""
        if not self._caught_up.is_set():
            return "the breakers' stream is not read: this replica knows its own breakers only"
        return self._unsent or None

    # Publishing

    async def _publish_on(self) -> None:
        while True:
            await self._something.wait()
            await asyncio.sleep(1 / PER_SECOND if await self._publish_some() else AGAIN_S)

    async def _publish_some(self) -> bool:
        """Publish one message of what is pending; what could not be published is pending again."""
        batch = [self._pending.popitem(last=False)[1] for _ in range(min(MAX_CHANGES, len(self._pending)))]
        if not self._pending:
            self._something.clear()
        try:
            if batch:
                await self._publish(ChangesMessage(changes=tuple(map(published, batch))).to_json())
        except (BrokerUnavailable, PublishRefused) as error:
            self._unsent = f"changes of breakers cannot be published: {error}"
            return False
        else:
            batch = []
            self._unsent = ""
            return True
        finally:
            for change in batch:
                self.share(change)

    async def _publish(self, body: bytes) -> None:
        await self._publisher.publish("", topology.BREAKERS_STREAM, body, content_type=_CONTENT_TYPE, headers={})

    # Reading

    async def _read_on(self) -> None:
        again = AsyncRetrying(
            retry=retry_if_exception_type(BrokerUnavailable), wait=wait_exponential_jitter(multiplier=0.2, max=5)
        )
        while True:
            link: Link = await again(open_link, self._url, self._name)
            try:
                await self._follow(link)
            except BrokerUnavailable as error:
                log.warning("breakers are not shared with other replicas now", reason=str(error))
                await asyncio.sleep(AGAIN_S)
            finally:
                self._caught_up.clear()
                await link.close()

    async def _follow(self, link: Link) -> None:
        """Read until the link is lost or the stream goes away, which raises BrokerUnavailable."""
        arrived: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        await self._subscribe(link, arrived)
        link.lost.add_done_callback(lambda _: arrived.put_nowait(None))
        self._marker = uuid.uuid4().hex
        marking = asyncio.ensure_future(self._mark(self._marker))
        try:
            while (found := await arrived.get()) is not None:
                tag, body = found
                self._read(body)
                _acknowledge(link, tag)
        finally:
            marking.cancel()
            await asyncio.gather(marking, return_exceptions=True)
        raise BrokerUnavailable(link.lost.result() if link.lost.done() else "the stream was deleted, or moves")

    async def _subscribe(self, link: Link, arrived: "asyncio.Queue[tuple[int, bytes] | None]") -> None:
        channel = link.channel
        await link.call(channel.basic_qos, prefetch_count=PREFETCH)  # a stream insists on a limit, and on acks
        channel.add_on_cancel_callback(lambda _frame: arrived.put_nowait(None))
        await link.call(
            channel.basic_consume,
            topology.BREAKERS_STREAM,
            lambda _channel, method, _properties, body: arrived.put_nowait((method.delivery_tag, body)),
            arguments={"x-stream-offset": datetime.fromtimestamp(self._clock(), UTC) - HISTORY},
        )

    async def _mark(self, marker: str) -> None:
        """Publish the mark behind what is there, however long the publisher takes to come."""
        again = AsyncRetrying(
            retry=retry_if_exception_type((BrokerUnavailable, PublishRefused)),
            wait=wait_exponential_jitter(multiplier=0.2, max=5),
        )
        await again(self._publish, MarkerMessage(id=marker).to_json())

    def _read(self, body: bytes) -> None:
        try:
            message = read_breaker_message(body)
        except ValueError as error:
            log.warning("a message in the breakers' stream is ignored", reason=str(error))
            return
        match message:
            case MarkerMessage(id=marker):
                if marker == self._marker and not self._caught_up.is_set():
                    self._caught_up.set()
                    log.info("breakers are shared with other replicas")
            case ChangesMessage(changes=changes):
                for each in changes:
                    self._take(each)

    def _take(self, told: PublishedChange) -> None:
        change = change_of(told)
        if self._apply(change, self._clock()):
            log.info(
                "breaker of another replica",
                record=str(change.key.scope),
                name=change.key.name,
                version=change.key.version,
                state=told.state,
                reason=told.reason,
            )


def published(change: Change) -> PublishedChange:
    """Return a change as it travels."""
    key = change.key
    return PublishedChange.model_validate(
        {
            "partner": key.scope.partner,
            "org": key.scope.org,
            "name": key.name,
            "version": key.version,
            "state": change.state.name.lower(),
            "at": change.at,
            "failures": min(change.failures, 1_000_000),
            "reason": change.reason,
        }
    )


def change_of(told: PublishedChange) -> Change:
    """Return the change that a message tells of."""
    key = BreakerKey(told.scope, told.name, told.version)
    return Change(key, State[told.state.upper()], told.at, told.failures, told.reason)


def _acknowledge(link: Link, tag: int) -> None:
    """Acknowledge for the sake of the prefetch alone; a link that ended meanwhile is noticed by its reader."""
    try:
        link.channel.basic_ack(tag)
    except AMQPError as error:
        log.debug("the link ended before an acknowledgement", reason=str(error))
