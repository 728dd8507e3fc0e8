"""pika's AsyncioConnection as awaitables.

pika calls back; whoever raises inside such a callback ends the connection. So the callbacks here
only set futures and put on queues, and everything that can fail happens in the awaiting task.
A `Link` is one connection with one channel: it is used until it is lost, and then made anew,
never repaired. Its `lost` future says why it ended.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pika
import structlog
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError

from worker.errors import BrokerUnavailable

log = structlog.get_logger(__name__)

HEARTBEAT_S = 30
CONNECT_TIMEOUT_S = 15.0
RPC_TIMEOUT_S = 30.0


class Link:
    """One connection and one channel to RabbitMQ; `lost` resolves to the reason of its end."""

    def __init__(self, connection: AsyncioConnection, channel: Channel, lost: asyncio.Future[str]) -> None:
        """Made by `open_link`."""
        self._connection = connection
        self.channel = channel
        self.lost = lost

    async def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call one of the channel's RPC methods and return its frame.

        Raises BrokerUnavailable where the link is lost first, which a refusal by the broker is, too.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()
        try:
            method(*args, callback=lambda frame: _resolve(answered, frame), **kwargs)
        except (AMQPError, ValueError) as error:
            raise BrokerUnavailable(_words(error)) from None
        await _first_of(answered, self.lost, timeout_s=RPC_TIMEOUT_S)
        if answered.done():
            return answered.result()
        if not self.lost.done():
            raise BrokerUnavailable("RabbitMQ did not answer in time")
        raise BrokerUnavailable(self.lost.result())

    async def close(self) -> None:
        """Close, and wait until it is closed."""
        if not self.lost.done() and self._connection.is_open:
            self._connection.close()
        await asyncio.wait({self.lost}, timeout=CONNECT_TIMEOUT_S)


async def open_link(url: str, name: str) -> Link:
    """Connect to the broker at `url` and open a channel; `name` is shown in its management UI.

    Raises BrokerUnavailable, with the URL's password left out.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()
    lost: asyncio.Future[str] = loop.create_future()
    connection = AsyncioConnection(
        _parameters(url, name),
        on_open_callback=lambda _c: _resolve(opened, None),
        on_open_error_callback=lambda _c, error: _resolve(lost, _words(error)),
        on_close_callback=lambda _c, error: _resolve(lost, _words(error)),
    )
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await _first_of(opened, lost)
            if lost.done():
                raise BrokerUnavailable(lost.result())
            return Link(connection, await _open_channel(connection, lost), lost)
    except TimeoutError:
        _abandon(connection)
        raise BrokerUnavailable("RabbitMQ did not answer in time") from None


async def _open_channel(connection: AsyncioConnection, lost: asyncio.Future[str]) -> Channel:
    opened: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    channel = connection.channel(on_open_callback=lambda c: _resolve(opened, c))

    def closed(_channel: Channel, reason: Exception) -> None:
        # A channel without its connection is of no use to a Link: both end together.
        _resolve(lost, _words(reason))
        _abandon(connection)

    channel.add_on_close_callback(closed)
    await _first_of(opened, lost)
    if not opened.done():
        raise BrokerUnavailable(lost.result())
    return opened.result()


def _parameters(url: str, name: str) -> pika.URLParameters:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT_S
    parameters.socket_timeout = CONNECT_TIMEOUT_S
    parameters.stack_timeout = CONNECT_TIMEOUT_S
    parameters.client_properties = {"connection_name": name, "product": "postbote"}
    return parameters


def _abandon(connection: AsyncioConnection) -> None:
    if connection.is_open:
        connection.close()


async def _first_of(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _words(error: BaseException) -> str:
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", None)
    if code is not None:
        return f"{code} {text}"
    return str(error) or type(error).__name__
