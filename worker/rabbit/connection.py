"""pika's AsyncioConnection as awaitables.

pika calls back; whoever raises inside such a callback ends the connection. So the callbacks here
only set futures and put on queues, and everything that can fail happens in the awaiting task.
A `Link` is one connection with one channel: it is used until it is lost, and then made anew,
never repaired. Its `lost` future says why it ended.

**A network that stalls** sends neither data nor an end. Only heartbeats notice: pika ends a connection
over which nothing came for a whole period of heartbeat + 5 s, so after 35 to 70 s with ours, and the
broker one that was silent for two heartbeats. The URL may say otherwise (``?heartbeat=10``).
TCP_USER_TIMEOUT would notice a dead peer no earlier, and Linux also ends a connection whose peer
takes nothing for so long, although it answers: that is what a broker under an alarm does to whoever
publishes. So it is not set here; ``?tcp_options={'TCP_USER_TIMEOUT': 20000}`` sets it.

**An alarm** (memory, disk) makes the broker read no more from a connection that publishes. It says so
only once the connection does publish, and confirms what it had read by then when the alarm is over.

**Several nodes** are tried in random order, so that replicas spread over a cluster.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

import pika
import structlog
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorPhaseErrorBase
from pika.channel import Channel
from pika.exceptions import AMQPConnectionError, AMQPError

from worker.errors import BrokerUnavailable
from worker.rabbit.addresses import addresses, host_of, parameters_of
from worker.rabbit.event_loop import ReadsToTheEnd

log = structlog.get_logger(__name__)

HEARTBEAT_S = 30
CONNECT_TIMEOUT_S = 15.0
# For each of several nodes: the next one may be well while this one is a host that answers nothing.
NODE_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 5.0
RPC_TIMEOUT_S = 30.0


class Link:
    """One connection and one channel to RabbitMQ; `lost` resolves to the reason of its end."""

    def __init__(self, connection: AsyncioConnection, channel: Channel, lost: asyncio.Future[str]) -> None:
        """Made by `open_link`."""
        self._connection = connection
        self.channel = channel
        self.lost = lost
        self._alarm: str | None = None
        self._on_alarm: Callable[[str | None], None] | None = None
        connection.add_on_connection_blocked_callback(lambda _c, frame: self._note_alarm(frame.method.reason))
        connection.add_on_connection_unblocked_callback(lambda _c, _frame: self._note_alarm(None))

    @property
    def alarm(self) -> str | None:
        """Why the broker takes nothing over this connection, in its words ("low on memory"), or None."""
        return None if self.lost.done() else self._alarm

    def watch_alarms(self, noted: Callable[[str | None], None]) -> None:
        """Call `noted`, which must not raise, with every change of `alarm`."""
        self._on_alarm = noted

    def _note_alarm(self, reason: str | None) -> None:
        self._alarm = reason
        if self._on_alarm is not None:
            self._on_alarm(reason)

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
        """Close, and wait until it is closed, unless nobody reads at the other end."""
        _abandon(self._connection)
        if self.alarm is None:  # else the broker reads our goodbye when the alarm is over
            await asyncio.wait({self.lost}, timeout=CLOSE_TIMEOUT_S)


async def open_link(url: str, name: str) -> Link:
    """Connect to a node that `url` names (see `addresses`) and open a channel; its management UI shows `name`.

    Raises BrokerUnavailable where none can be reached, with the URL's password left out.
    """
    try:
        nodes = _in_turn(addresses(url))
    except ValueError as error:
        raise BrokerUnavailable(f"the URL of RabbitMQ is wrong: {error}") from None
    if len(nodes) == 1:
        return await _open(nodes[0], name, CONNECT_TIMEOUT_S)
    faults: list[str] = []
    for node in nodes:
        try:
            return await _open(node, name, NODE_TIMEOUT_S)
        except BrokerUnavailable as error:
            faults.append(f"{host_of(node)}: {error}")
    raise BrokerUnavailable("; ".join(faults))


def _in_turn(nodes: Sequence[str]) -> Sequence[str]:
    return random.sample(nodes, len(nodes))


async def _open(url: str, name: str, timeout_s: float) -> Link:
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()
    lost: asyncio.Future[str] = loop.create_future()
    connection = AsyncioConnection(
        _parameters(url, name),
        on_open_callback=lambda _c: _resolve(opened, None),
        on_open_error_callback=lambda _c, error: _resolve(lost, _words(error)),
        on_close_callback=lambda _c, error: _resolve(lost, _words(error)),
        custom_ioloop=cast("asyncio.AbstractEventLoop", ReadsToTheEnd(loop)),
    )
    try:
        async with asyncio.timeout(timeout_s):
            await _first_of(opened, lost)
            return Link(connection, await _open_channel(connection, lost), lost)
    except TimeoutError:
        _abandon(connection)
        raise BrokerUnavailable("RabbitMQ did not answer in time") from None
    except BaseException:  # a stop, too: a connection that opens after that would be nobody's
        _abandon(connection)
        raise


async def _open_channel(connection: AsyncioConnection, lost: asyncio.Future[str]) -> Channel:
    if lost.done():
        raise BrokerUnavailable(lost.result())
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
    try:
        parameters = pika.URLParameters(url)
    except (ValueError, TypeError) as error:
        raise BrokerUnavailable(f"the URL of RabbitMQ is wrong: {error}") from None
    ours = {"heartbeat": HEARTBEAT_S, "socket_timeout": CONNECT_TIMEOUT_S, "stack_timeout": CONNECT_TIMEOUT_S}
    for parameter in ours.keys() - parameters_of(url):
        setattr(parameters, parameter, ours[parameter])
    parameters.client_properties = {"connection_name": name, "product": "postbote"}
    return parameters


def _abandon(connection: AsyncioConnection) -> None:
    if not (connection.is_closing or connection.is_closed):
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
    inner = _inner(error)
    return _words(inner) if inner is not None else str(error) or type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    """What pika has wrapped while connecting: an AMQPConnectionError of a workflow of attempts of a reason each."""
    inner: Any = None
    if isinstance(error, AMQPConnectionWorkflowFailed):
        inner = error.exceptions[-1]
    elif isinstance(error, AMQPConnectorPhaseErrorBase):
        inner = error.exception
    elif isinstance(error, AMQPConnectionError) and error.args:
        inner = error.args[0]
    return inner if isinstance(inner, BaseException) else None
