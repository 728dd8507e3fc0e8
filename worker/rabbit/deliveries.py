"""One delivery: what came, and the one channel on which it is answered, or on none."""

from enum import Enum
from typing import Any, NamedTuple

import pika

from worker.delivery.ports import Incoming, Lane
from worker.rabbit.acks import Acks
from worker.rabbit.connection import Link


class Answer(Enum):
    """What becomes of a delivery at the broker.

    Returned and failed come again. Up to RabbitMQ 4.2 both count for the delivery limit; since 4.3 only a
    basic.reject counts, and a basic.nack would let an event that no worker can handle come for ever.
    """

    DONE = "acknowledged: something has taken its place, or it is finished"
    RETURNED = "given back, through no fault of its own"
    FAILED = "given back, and counted"
    SET_ASIDE = "moved by the broker itself to the parked queue, as nobody can publish it"


class Delivery(NamedTuple):
    """A message that a link's channel has delivered under `tag`."""

    link: Link
    acks: Acks
    tag: int
    incoming: Incoming

    def answer(self, answer: Answer) -> None:
        """Tell the broker; nothing where the link is lost, for it has taken the delivery back then."""
        channel = self.link.channel
        if self.link.lost.done() or not channel.is_open:
            return
        if answer is Answer.DONE:
            self.acks.done(self.tag)
            return
        self.acks.settled_otherwise(self.tag)
        if answer is Answer.RETURNED:
            channel.basic_nack(self.tag, requeue=True)
        else:
            channel.basic_reject(self.tag, requeue=answer is Answer.FAILED)


def incoming_of(lane: Lane, method: Any, properties: pika.BasicProperties, body: bytes) -> Incoming:
    """What was delivered, free of pika's types."""
    return Incoming(body, properties.content_type, properties.headers or {}, lane, bool(method.redelivered))
