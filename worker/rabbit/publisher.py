"""Publishing with confirms, on a connection of its own.

Of its own, since a resource alarm makes the broker stop reading from connections that publish:
acknowledgements must not wait behind that. A message counts as published when the broker
confirmed it and did not return it.

During an alarm nothing is written: what lies in a socket until the alarm is over is neither
published nor not, and who gives up waiting and publishes it again has it twice. What was written
before the broker said so is confirmed afterwards.

A channel that is opened after a queue's leader has died and before the next one is known refuses
(nacks) whatever is published to that queue for as long as it lives (RabbitMQ 3.10.8, for queues that
reject publishes when full). So after a refusal the connection is made anew; less and less often,
since a queue that is full refuses, too.

A message that is larger than the broker takes (RabbitMQ 4: 16 MiB unless told otherwise, 3.x: 128) ends the
channel, and with it the confirms of all others under way. That is paid once: the limit is in the broker's
words, and kept until the connection ends for another reason, a restart with another limit, say.
"""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Self

import pika
import structlog
from pika.exceptions import AMQPError, UnsupportedAMQPFieldException
from tenacity import AsyncRetrying, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from worker.errors import BrokerUnavailable, PublishRefused, TopologyMismatch
from worker.rabbit.connection import Link, open_link
from worker.rabbit.declaring import Provision, prepare

log = structlog.get_logger(__name__)

MAX_UNCONFIRMED = 1000
CONFIRM_TIMEOUT_S = 30.0
PATIENCE_S = 5.0  # a reconnect takes less; a caller over HTTP should hear of an absent broker soon
# After a refusal: what a new leader takes to be known, then longer each time, until nothing was refused for a while.
_RENEW_S = 0.5
_MAX_RENEW_S = 30.0
_CALM_S = 60.0
_UNDER_WAY_S = 5.0

_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (?P<limit>\d+)")


class MessageTooLarge(PublishRefused):
    """The broker takes no message of this size, however often it is tried."""


class Publisher:
    """Publishes from any task; connects by itself, again and again, while it is open."""

    def __init__(self, url: str, name: str = "postbote publisher", *, provision: Provision = Provision.DECLARE) -> None:
        """Nothing is connected before `start`; `provision` is how a start that is to declare goes about it."""
        self._url = url
        self._name = name
        self._provision = provision
        self._declare = False
        self._link: Link | None = None
        self._passable = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._places = asyncio.Semaphore(MAX_UNCONFIRMED)
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._next_tag = 1
        self._returned: set[str] = set()
        self._limit_bytes: int | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._renewals = 0
        self._renewed_at = -_CALM_S

    async def start(self, *, declare: bool = False) -> Self:
        """Connect; raise BrokerUnavailable where the first try fails.

        `declare`: make sure that the exchanges and queues exist, so that nothing is refused on a
        broker that no worker has seen yet.
        """
        self._declare = declare
        await self._connect()
        self._keeper = asyncio.ensure_future(self._keep())
        return self

    def start_connecting(self, *, declare: bool = False) -> None:
        """Connect in the background, however long that takes; until then publishing fails."""
        self._declare = declare
        self._keeper = asyncio.ensure_future(self._keep())

    async def close(self) -> None:
        """Close the connection; what is unconfirmed then raises PublishRefused at its caller."""
        tasks = [task for task in (self._keeper, self._renewing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
        self._fail_unconfirmed("the publisher was closed")

    @property
    def connected(self) -> bool:
        """True while a connection is there, and the broker takes messages over it."""
        return self._passable.is_set()

    def missing(self) -> str | None:
        """Say why nothing can be published now, or None."""
        if self._passable.is_set():
            return None
        alarm = self._link.alarm if self._link is not None else None
        return f"RabbitMQ blocks publishing: {alarm}" if alarm else "the connection to RabbitMQ is down"

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        content_type: str | None,
        headers: Mapping[str, Any],
        expiration_ms: int | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Publish one persistent, mandatory message and return once it is confirmed.

        `expiration_ms`: how long it may lie in its queue. `patience_s`: how long to wait for a connection
        and for the end of an alarm before it is sent, and, beyond the usual, for the confirm after. Raises
        BrokerUnavailable (not sent), MessageTooLarge (not sent) or PublishRefused (nacked, returned, or unknown).
        """
        properties = pika.BasicProperties(
            content_type=content_type,
            delivery_mode=2,
            headers=dict(headers),
            expiration=None if expiration_ms is None else str(expiration_ms),
        )
        async with self._place(patience_s):
            confirmed, tag = self._send(exchange, routing_key, body, properties)
            try:
                async with asyncio.timeout(max(patience_s, CONFIRM_TIMEOUT_S)):
                    await confirmed
            except TimeoutError:
                self._renew_soon()  # without an alarm, a channel that confirms nothing is of no use
                raise PublishRefused(f"RabbitMQ did not confirm in time{self._because()}") from None
            finally:
                if self._unconfirmed.get(tag) is confirmed:  # a new channel may have used the tag again
                    del self._unconfirmed[tag]

    @contextlib.asynccontextmanager
    async def _place(self, patience_s: float) -> AsyncIterator[None]:
        """Hold one of the places for unconfirmed messages, at a moment when sending is possible.

        Waited for outside of the places: who has little patience must not queue behind those who have much.
        """
        until = asyncio.get_running_loop().time() + patience_s
        while True:
            try:
                async with asyncio.timeout_at(until):
                    await self._passable.wait()
            except TimeoutError:
                raise BrokerUnavailable(self.missing() or "the connection to RabbitMQ comes and goes") from None
            async with self._places:
                if self._passable.is_set():
                    yield
                    return

    def _because(self) -> str:
        reason = self.missing()
        return f" ({reason})" if reason else ""

    def _send(
        self, exchange: str, routing_key: str, body: bytes, properties: pika.BasicProperties
    ) -> tuple[asyncio.Future[None], int]:
        link = self._link
        if link is None or link.lost.done():
            raise BrokerUnavailable("the connection to RabbitMQ is down")
        self._check_size(len(body))
        tag = self._next_tag
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A return precedes its confirm and names the message only by what we wrote on it.
        properties.message_id = str(tag)
        try:
            link.channel.basic_publish(exchange, routing_key, body, properties, mandatory=True)
        except UnsupportedAMQPFieldException as error:
            msg = f"a header cannot be written: {error}"
            raise PublishRefused(msg) from None
        except (AMQPError, ValueError) as error:
            raise BrokerUnavailable(str(error) or type(error).__name__) from None
        # Counted as the broker counts: what could not be written has no tag there.
        self._next_tag = tag + 1
        self._unconfirmed[tag] = confirmed
        return confirmed, tag

    def _check_size(self, size_bytes: int) -> None:
        if self._limit_bytes is not None and size_bytes > self._limit_bytes:
            told = f"RabbitMQ takes {self._limit_bytes} bytes in one message, and this has {size_bytes}"
            raise MessageTooLarge(f"{told}: raise its max_message_size")

    async def _keep(self) -> None:
        """Notice the loss of each connection and make the next one."""
        while True:
            if self._link is not None:
                reason = await asyncio.shield(self._link.lost)
                self._passable.clear()
                self._limit_bytes = _limit_told(reason)
                self._fail_unconfirmed(f"the connection was lost before the confirm: {reason}")
                log.warning("publisher lost RabbitMQ", reason=reason)
            try:
                await self._connect_at_last()
            except TopologyMismatch as error:
                # Trying again changes nothing: an operator has to, and /readyz stays red until then.
                log.error("publisher cannot work with this broker", reason=str(error))  # noqa: TRY400 # no bug to trace
                return
            log.info("publisher is connected")

    async def _connect_at_last(self) -> None:
        again = AsyncRetrying(
            retry=retry_if_exception_type(BrokerUnavailable), wait=wait_exponential_jitter(multiplier=0.2, max=10)
        )
        await again(self._connect)

    async def _connect(self) -> None:
        link = await open_link(self._url, self._name)
        try:
            if self._declare:
                await prepare(link, self._provision)
            # Tags count from 1 on each channel; nothing of the channel before may be confirmed by this one.
            self._next_tag = 1
            self._returned.clear()
            link.channel.add_on_return_callback(self._on_return)
            await link.call(link.channel.confirm_delivery, self._on_confirm)
        except BaseException:
            await link.close()
            raise
        self._link = link
        link.watch_alarms(partial(self._on_alarm, link))
        link.lost.add_done_callback(lambda _: self._passable.clear())  # sooner than `_keep` could
        self._passable.set()

    def _on_alarm(self, link: Link, alarm: str | None) -> None:
        if alarm is not None:
            log.warning("RabbitMQ blocks publishing", reason=alarm, unconfirmed=len(self._unconfirmed))
            self._passable.clear()
        elif link is self._link and not link.lost.done():
            log.info("RabbitMQ takes messages again")
            self._passable.set()

    def _renew_soon(self) -> None:
        if self._link is not None and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.ensure_future(self._renew(self._link))

    async def _renew(self, link: Link) -> None:
        """End the link, after what is under way on it; `_keep` makes the next one."""
        await asyncio.sleep(self._pause_s())
        if link.lost.done() or link.alarm is not None:
            return
        log.warning("RabbitMQ refuses messages: connecting anew", unconfirmed=len(self._unconfirmed))
        self._passable.clear()
        if self._unconfirmed:
            await asyncio.wait(self._unconfirmed.values(), timeout=_UNDER_WAY_S)
        await link.close()

    def _pause_s(self) -> float:
        now = time.monotonic()
        self._renewals = 0 if now - self._renewed_at > _CALM_S else self._renewals + 1
        self._renewed_at = now
        return min(_RENEW_S * 2.0**self._renewals, _MAX_RENEW_S)

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        self._returned.add(properties.message_id)
        log.error("message was returned", exchange=method.exchange, routing_key=method.routing_key)

    def _on_confirm(self, frame: Any) -> None:
        tag, acked = frame.method.delivery_tag, isinstance(frame.method, pika.spec.Basic.Ack)
        multiple = frame.method.multiple
        tags = list(itertools.takewhile(lambda t: t <= tag, self._unconfirmed)) if multiple else [tag]
        for one in tags:
            self._settle(one, acked=acked)
        if not acked:
            self._renew_soon()

    def _settle(self, tag: int, *, acked: bool) -> None:
        confirmed = self._unconfirmed.pop(tag, None)
        returned = str(tag) in self._returned
        self._returned.discard(str(tag))
        if confirmed is None or confirmed.done():
            return
        if acked and not returned:
            confirmed.set_result(None)
        else:
            confirmed.set_exception(PublishRefused("no queue took it" if returned else "RabbitMQ refused it (nack)"))

    def _fail_unconfirmed(self, reason: str) -> None:
        for confirmed in self._unconfirmed.values():
            if not confirmed.done():
                confirmed.set_exception(PublishRefused(reason))
        self._unconfirmed.clear()


def _limit_told(reason: str) -> int | None:
    """How many bytes a message may have, where one that had more ended the connection."""
    told = _TOO_LARGE.search(reason)
    return int(told["limit"]) if told else None


@contextlib.asynccontextmanager
async def open_publisher(url: str, name: str = "postbote publisher") -> AsyncIterator[Publisher]:
    """Yield a started Publisher and close it."""
    opened = await Publisher(url, name).start()
    try:
        yield opened
    finally:
        await opened.close()
