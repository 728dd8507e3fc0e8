"""Declaring the topology, or checking that it is there; what differs is an error that says what to do.

RabbitMQ compares every argument that it knows with those of the queue that exists (3.10.8: all of
`topology`'s and all foreign ones but ``x-consumer-timeout``), and never changes a queue. Its words
are read here and given back with the reason and the remedy.

Two things it does not tell over AMQP. Policies: an ``overflow`` policy beats the argument (3.10.8 and
4.x; with ``drop-head`` dead-lettering is back at at-most-once), and of numeric limits the smaller one
counts. And on 3.10 at-least-once dead-lettering needs the feature flag ``stream_queue``: without it
queues are declared and silently dead-letter at most once. The declaration of a stream fails then, so
the streams are declared first.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from worker.errors import BrokerUnavailable, TopologyMismatch
from worker.rabbit import topology
from worker.rabbit.connection import Link
from worker.rabbit.side_channel import Refused, SideChannel

Item = topology.Exchange | topology.Queue
_ALL: tuple[Item, ...] = (*topology.EXCHANGES, *topology.QUEUES)

_NOT_FOUND = 404
# 404 also says that a queue is there and its node is not up yet, as for a stream just after a restart.
_THERE_BUT_DOWN = re.compile(r"is down or inaccessible|stopped by supervisor|failed to restart")
_SHOWN = 3

_VALUE = r"(?:none|(?:the value )?'(?P<{name}>[^']*)'(?: of type '[^']*')?)"
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for .* in vhost .*: "
    rf"received {_VALUE.format(name='wanted')} but current is {_VALUE.format(name='there')}\Z"
)
_FLAG_IS_OFF = "feature flag is disabled"
_REMAKE = (
    "move what it holds elsewhere and delete it, then run `postbote topology declare`; "
    "or give Postbote a virtual host of its own"
)
_WHY = {
    "x-overflow": "else a full queue drops messages, and dead-lettering silently becomes at-most-once",
    "x-dead-letter-strategy": "else events can get lost between two queues",
    "x-dead-letter-exchange": "else events do not come out where they are looked for",
    "x-dead-letter-routing-key": "else events do not come out where they are looked for",
    "x-delivery-limit": "else events leave the queue too early or never",
    "x-message-ttl": "else events do not rest for as long as the retry schedule says",
    "x-queue-type": "else its messages do not survive the loss of a node",
    "x-max-age": "else it forgets too early, or never",
    "x-max-length-bytes": "else it forgets too early, or never",
    "alternate-exchange": "else events that no binding matches are dropped",
}


class Provision(StrEnum):
    """Whose task the topology is.

    declare  Postbote's: what is missing is made
    check    an operator's: what is missing is an error
    trust    nobody looks
    """

    DECLARE = "declare"
    CHECK = "check"
    TRUST = "trust"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the broker has under a name of the topology; `messages` and `consumers` are 0 for an exchange.

    `messages` counts those that wait, not those in a consumer's hands.
    """

    name: str
    exists: bool
    messages: int = 0
    consumers: int = 0


async def prepare(link: Link, provision: Provision) -> None:
    """Do with the topology what `provision` says; see `declare` and `check` for the errors."""
    match provision:
        case Provision.DECLARE:
            await declare(link)
        case Provision.CHECK:
            await check(link)
        case Provision.TRUST:
            pass
        case never:
            assert_never(never)


async def declare(link: Link) -> None:
    """Declare exchanges, queues and bindings; what exists alike is left alone, whoever else declares at once.

    Raises TopologyMismatch, naming each queue or exchange that differs and the remedy, and
    BrokerUnavailable. The link stays of use after a mismatch, except for a disabled feature flag.
    """
    await _each(link, _declare)


async def check(link: Link) -> None:
    """Make sure that exchanges and queues exist with the arguments they need; errors as of `declare`.

    Nothing is made. Comparing takes the permission to configure these names: RabbitMQ compares
    at a declaration and in no other way. Bindings cannot be read over AMQP and are not checked.
    """
    await _each(link, _compare)


async def look(link: Link) -> tuple[Seen, ...]:
    """Find what exists of the topology, in its order, with counts; needs no permission to configure."""
    found = []
    channel = await SideChannel(link).open()
    for item in _ALL:
        try:
            found.append(await _look_at(channel, item))
        except Refused as refused:
            if not _says_missing(refused):
                raise explained(item, refused) from None
            found.append(Seen(item.name, exists=False))
            channel = await SideChannel(link).open()
    await channel.close()
    return tuple(found)


async def _each(link: Link, act: Callable[[SideChannel, Item], Awaitable[None]]) -> None:
    missing: list[str] = []
    faults: list[str] = []
    try:
        channel = await SideChannel(link).open()
        for item in _ALL:
            try:
                await act(channel, item)
            except Refused as refused:
                if _says_missing(refused):
                    missing.append(item.name)
                else:
                    faults.append(_fault(item, refused))
                channel = await SideChannel(link).open()
        await channel.close()
    except BrokerUnavailable as error:
        raise explained_end(error) from None
    if missing:
        faults.insert(0, f"missing: {_first(missing, ', ')} (run `postbote topology declare`)")
    if faults:
        raise TopologyMismatch(_first(faults, "; "))


def _says_missing(refused: Refused) -> bool:
    return refused.code == _NOT_FOUND and not _THERE_BUT_DOWN.search(refused.text)


def _first(words: list[str], between: str) -> str:
    more = len(words) - _SHOWN
    return between.join(words[:_SHOWN]) + (f"{between}and {more} more" if more > 0 else "")


async def _declare(channel: SideChannel, item: Item) -> None:
    if isinstance(item, topology.Exchange):
        await channel.call(
            "exchange_declare", item.name, exchange_type=item.kind, durable=True, arguments=item.arguments
        )
        return
    await channel.call("queue_declare", item.name, durable=True, arguments=item.arguments)
    for exchange_name, key in item.bindings:
        await channel.call("queue_bind", item.name, exchange_name, routing_key=key)


async def _compare(channel: SideChannel, item: Item) -> None:
    await _look_at(channel, item)
    # It exists, so this makes nothing: it only has the arguments compared.
    await _declare(channel, _unbound(item))


def _unbound(item: Item) -> Item:
    return item if isinstance(item, topology.Exchange) else topology.Queue(item.name, item.arguments)


async def _look_at(channel: SideChannel, item: Item) -> Seen:
    if isinstance(item, topology.Exchange):
        await channel.call("exchange_declare", item.name, passive=True)
        return Seen(item.name, exists=True)
    ok = (await channel.call("queue_declare", item.name, passive=True)).method
    return Seen(item.name, exists=True, messages=ok.message_count, consumers=ok.consumer_count)


def _fault(item: Item, refused: Refused) -> str:
    error = explained(item, refused)
    if isinstance(error, BrokerUnavailable):
        raise error
    return str(error)


def explained(item: Item, refused: Refused) -> BrokerUnavailable | TopologyMismatch:
    """The error that a refusal means: a mismatch has a remedy, anything else may pass."""
    what = f"{'exchange' if isinstance(item, topology.Exchange) else 'queue'} {item.name}"
    match refused.code:
        case 403:
            return TopologyMismatch(
                f"{what}: {refused.text}; grant this user configure, write and read on ^postbote\\. and write on "
                "^amq\\.default$, or set up the topology as another user"
            )
        case 405:
            return TopologyMismatch(f"{what} belongs to another connection alone (exclusive); delete it there")
        case 406:
            return TopologyMismatch(f"{what}: {_difference(refused.text)}")
        case _:
            return BrokerUnavailable(f"{what}: {refused}")


def _difference(text: str) -> str:
    match = _INEQUIVALENT.search(text)
    if not match:
        return f"{text} (RabbitMQ 3.10 or newer is needed); {_REMAKE}"
    argument, wanted, there = match["argument"], match["wanted"], match["there"]
    is_now = "is not set" if there is None else f"is '{there}'"
    must = "must not be set" if wanted is None else f"must be '{wanted}'"
    why = f" ({_WHY[argument]})" if argument in _WHY else ""
    return f"{argument} {is_now} and {must}{why}; {_REMAKE}"


def explained_end(error: BrokerUnavailable) -> BrokerUnavailable | TopologyMismatch:
    """A feature flag that is off ends the whole connection, with 541 (older ones: 540)."""
    words = str(error)
    if _FLAG_IS_OFF in words or words.startswith("540 "):
        return TopologyMismatch(
            f"{words}; run `rabbitmqctl enable_feature_flag all`: without the flag stream_queue "
            "RabbitMQ has no streams and dead-letters at most once"
        )
    return error
