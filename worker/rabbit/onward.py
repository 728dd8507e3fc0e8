"""Where an event goes when its delivery is settled, decided with values.

An event that is not finished is published again, with confirm, before its delivery is
acknowledged: to a tier to rest, to its lane as if new, or to the parked queue. A requeue by the
broker would do for none of them: it marks the event as redelivered, which is how a worker knows
that another one has crashed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from worker.delivery.ports import Ack, Incoming, Later, Park, Return, Settlement
from worker.delivery.progress import SUSPECT, carried
from worker.rabbit import topology
from worker.rabbit.parking import parked_headers, progress_of


@dataclass(frozen=True, slots=True)
class Onward:
    """The message that takes the event's place: a queue, all of its headers, how long it rests (ms)."""

    queue: str
    headers: Mapping[str, Any]
    expiration_ms: int | None = None


def onward(incoming: Incoming, settlement: Settlement) -> Onward | None:
    """Decide what is to be published before `incoming` may be acknowledged; None: nothing."""
    match settlement:
        case Ack():
            return None
        case Park():
            return Onward(topology.PARKED_QUEUE, parked_headers(incoming, settlement))
        case Return(headers):
            return Onward(topology.lane_queue(incoming.lane), carried(incoming.headers, headers))
        case Later(tier, wait_s, headers):
            # The queue's own limit would cut a longer wait; 0 would mean "expire at once, or stay where you are".
            rest_ms = max(1, min(round(wait_s * 1000), tier.seconds * 1000))
            queue = topology.retry_queue(incoming.lane, tier)
            return Onward(queue, carried(incoming.headers, headers), rest_ms)
        case never:
            assert_never(never)


def untouched(incoming: Incoming) -> Return:
    """Give an event back that no handler has seen: what it came with, and what its delivery gave away."""
    suspicion = {SUSPECT: 1} if incoming.redelivered else {}
    return Return({**progress_of(incoming.headers), **suspicion})
