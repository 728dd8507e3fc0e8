"""Acknowledgements of one channel, several in one frame wherever that is true.

A frame that says "up to and including" (AMQP 0-9-1, basic.ack with multiple) settles every
delivery of its channel up to a tag, so it may be sent only up to the first that is not done.
What is done behind that one waits for the next round and is then acknowledged by itself: a slow
mail holds up nobody's acknowledgement for longer than two rounds. Each frame costs a system call
of its own in pika, more than all the rest of an acknowledgement.
"""

import asyncio
from collections.abc import Callable

# Long enough to gather some at a thousand mails a second, short beside the time that a mail takes.
ROUND_S = 0.005


class Acks:
    """What one channel has delivered and what of it is done; used until the channel is lost, never after.

    Every tag that the channel delivers goes through `delivered`, and each of them through `done` or
    `settled_otherwise`, once.
    """

    def __init__(self, basic_ack: Callable[..., None], alive: Callable[[], bool]) -> None:
        """Send by `basic_ack(tag, multiple=...)`, unless `alive` says that the channel is gone."""
        self._basic_ack = basic_ack
        self._alive = alive
        self._open: dict[int, None] = {}  # in the order of delivery, which is that of the tags
        self._done: set[int] = set()
        self._overdue: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def delivered(self, tag: int) -> None:
        """Learn of a delivery."""
        self._open[tag] = None

    def done(self, tag: int) -> None:
        """Let the broker forget a delivery, within two rounds."""
        self._done.add(tag)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ROUND_S, self._next_round)

    def settled_otherwise(self, tag: int) -> None:
        """Learn that a delivery has been rejected, and is none of ours any more."""
        self._open.pop(tag, None)

    def flush(self) -> None:
        """Acknowledge everything that is done, at once; before the channel is closed."""
        self._overdue |= self._done
        self._round()

    def _next_round(self) -> None:
        self._timer = None
        self._round()
        if self._done:
            self._timer = asyncio.get_running_loop().call_later(ROUND_S, self._next_round)

    def _round(self) -> None:
        if not self._alive():  # the broker has taken every one of them back already
            self._done.clear()
            return
        self._acknowledge_the_first()
        for tag in sorted(self._overdue & self._done):
            self._forget(tag)
            self._basic_ack(tag)
        self._overdue = set(self._done)

    def _acknowledge_the_first(self) -> None:
        """Acknowledge all that are done before the first that is not, in one frame."""
        first: list[int] = []
        for tag in self._open:
            if tag not in self._done:
                break
            first.append(tag)
        for tag in first:
            self._forget(tag)
        if first:
            self._basic_ack(first[-1], multiple=len(first) > 1)

    def _forget(self, tag: int) -> None:
        del self._open[tag]
        self._done.discard(tag)
