"""Exchanges and queues: where an event can be, so that it is always in one of them.

    postbote.events (topic) ── email.transactional.# ──► postbote.lane.transactional ─┐
            │               └─ email.bulk.# ───────────► postbote.lane.bulk ──────────┤ delivery limit
            │ no binding matches                                                      ▼
    postbote.unrouted (fanout) ─────────────────────────────────────────────► postbote.parked

Dead-lettering is at-least-once only if the queue that dead-letters also rejects publishes when
full; without that RabbitMQ silently falls back to at-most-once. Both arguments stand together here.
"""

from dataclasses import dataclass, field
from typing import Any

from worker.delivery.ports import Lane

EVENTS_EXCHANGE = "postbote.events"
UNROUTED_EXCHANGE = "postbote.unrouted"
PARKED_QUEUE = "postbote.parked"
DELIVERY_LIMIT = 100
NEVER = 1_000_000_000


def lane_queue(lane: Lane) -> str:
    """Name the queue of a lane."""
    return f"postbote.lane.{lane.value}"


def routing_key(lane: Lane, kind: str) -> str:
    """Build the key under which an event of `kind` reaches `lane`."""
    return f"email.{lane.value}.{kind}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue with its bindings (exchange, routing key)."""

    name: str
    arguments: dict[str, Any]
    bindings: tuple[tuple[str, str], ...] = ()


def _lane(lane: Lane) -> Queue:
    return Queue(
        lane_queue(lane),
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": PARKED_QUEUE,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
        ((EVENTS_EXCHANGE, f"email.{lane.value}.#"),),
    )


EXCHANGES = (
    Exchange(UNROUTED_EXCHANGE, "fanout"),
    Exchange(EVENTS_EXCHANGE, "topic", {"alternate-exchange": UNROUTED_EXCHANGE}),
)
QUEUES = (
    # A parked event stays until an operator decides, however often it is looked at. RabbitMQ 4 would drop it
    # after 20 looks unless told otherwise; its word for "never", -1, is unknown to 3.10, a large number to neither.
    Queue(PARKED_QUEUE, {"x-queue-type": "quorum", "x-delivery-limit": NEVER}, ((UNROUTED_EXCHANGE, ""),)),
    *(_lane(lane) for lane in Lane),
)
