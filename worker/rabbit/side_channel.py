"""A question to the broker whose answer may be no.

RabbitMQ closes the channel on which it refuses something. So what may be refused is asked on a
channel of its own, beside the one that consumes or publishes; a refusal ends that channel and
nothing else.
"""

import asyncio
from typing import Any, Self

from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from worker.errors import BrokerUnavailable
from worker.rabbit.connection import Link

_TIMEOUT_S = 60.0  # the first declaration of a quorum queue elects a leader among its nodes


class Refused(Exception):  # an answer, translated by whoever asked
    """The broker closed the channel: the AMQP reply code and its words."""

    def __init__(self, code: int, text: str) -> None:
        """Keep both apart."""
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class SideChannel:
    """One more channel on a link's connection, of use until the first refusal."""

    def __init__(self, link: Link) -> None:
        """Nothing is opened before `open`."""
        loop = asyncio.get_running_loop()
        self._link = link
        self._opened: asyncio.Future[Channel] = loop.create_future()
        self._closed: asyncio.Future[Exception] = loop.create_future()

    async def open(self) -> Self:
        """Open it; raises BrokerUnavailable where the connection is or gets lost."""
        try:
            channel = self._link.channel.connection.channel(on_open_callback=self._on_open)
        except AMQPError as error:
            raise BrokerUnavailable(str(error) or type(error).__name__) from None
        channel.add_on_close_callback(self._on_close)
        await self._answer(self._opened)
        return self

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call one of the channel's RPC methods by name and return its frame.

        Raises Refused where the broker says no, BrokerUnavailable where it says nothing.
        """
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer(frame: Any) -> None:
            if not answered.done():
                answered.set_result(frame)

        if not self._closed.done():
            getattr(self._opened.result(), method)(*args, callback=answer, **kwargs)
        return await self._answer(answered)

    async def close(self) -> None:
        """Close it, unless it is closed."""
        channel = self._opened.result()
        if channel.is_open and not self._link.lost.done():
            channel.close()
            futures: set[asyncio.Future[Any]] = {self._closed, self._link.lost}
            await asyncio.wait(futures, timeout=_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)

    async def _answer(self, answered: asyncio.Future[Any]) -> Any:
        futures: set[asyncio.Future[Any]] = {answered, self._closed, self._link.lost}
        await asyncio.wait(futures, timeout=_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return answered.result()
        reason = self._closed.result() if self._closed.done() else None
        if isinstance(reason, ChannelClosedByBroker):
            raise Refused(reason.reply_code, reason.reply_text)
        if reason is None and not self._link.lost.done():
            raise BrokerUnavailable("RabbitMQ did not answer in time")
        raise BrokerUnavailable(await self._end())

    async def _end(self) -> str:
        """Why the connection ended; pika closes the channels first and then says it."""
        await asyncio.wait({self._link.lost}, timeout=1.0)
        return self._link.lost.result() if self._link.lost.done() else "the channel was closed"

    def _on_open(self, channel: Channel) -> None:
        if not self._opened.done():
            self._opened.set_result(channel)

    def _on_close(self, _channel: Channel, reason: Exception) -> None:
        if not self._closed.done():
            self._closed.set_result(reason)
