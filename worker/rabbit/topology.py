"""Exchanges and queues: where an event can be, so that it is always in one of them.

    postbote.events (topic) ── email.transactional.# ──► postbote.lane.transactional ◄──┐ its time is up
            │               └─ email.bulk.# ───────────► postbote.lane.bulk             │
            │ no binding matches                          │        │ to be tried again  │
            │                              delivery limit │        └──► postbote.retry.<lane>.{10s 1m 5m 30m 2h}
            ▼                                             ▼
    postbote.unrouted (fanout) ───────────────► postbote.parked

    postbote.audit.outbox   audit records that OpenSearch could not take yet
    postbote.config         stream: every change of an SMTP record
    postbote.breakers       stream: which records have just failed, from worker to worker

Dead-lettering is at-least-once only if the queue that dead-letters also rejects publishes when
full; without that RabbitMQ silently falls back to at-most-once. Both arguments stand together here,
on lanes and tiers. A tier is a quorum queue that nobody consumes: a message leaves it at the head
only, when its own expiration or the tier's is over, so it rests at most the tier's time.
"""

from dataclasses import dataclass, field
from typing import Any

from worker.delivery.ports import Lane, Tier

EVENTS_EXCHANGE = "postbote.events"
UNROUTED_EXCHANGE = "postbote.unrouted"
PARKED_QUEUE = "postbote.parked"
AUDIT_OUTBOX_QUEUE = "postbote.audit.outbox"
CONFIG_STREAM = "postbote.config"
BREAKERS_STREAM = "postbote.breakers"
DELIVERY_LIMIT = 100
# RabbitMQ 4 drops after 20 deliveries unless told otherwise; its word for "never", -1, is unknown to 3.10,
# a large number to neither.
NEVER = 1_000_000_000


def lane_queue(lane: Lane) -> str:
    """Name the queue of a lane."""
    return f"postbote.lane.{lane.value}"


def retry_queue(lane: Lane, tier: Tier) -> str:
    """Name the queue in which a lane's events rest for at most the tier's time."""
    return f"postbote.retry.{lane.value}.{tier.label}"


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
    """A durable quorum queue or stream with its bindings (exchange, routing key)."""

    name: str
    arguments: dict[str, Any]
    bindings: tuple[tuple[str, str], ...] = ()


def _kept(name: str, *bindings: tuple[str, str]) -> Queue:
    """A queue that loses nothing, however full it is and however often its messages are looked at."""
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": NEVER, "x-overflow": "reject-publish"}
    return Queue(name, arguments, bindings)


def _dead_lettering(target: str) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": target,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _lane(lane: Lane) -> Queue:
    arguments = {**_dead_lettering(PARKED_QUEUE), "x-delivery-limit": DELIVERY_LIMIT}
    return Queue(lane_queue(lane), arguments, ((EVENTS_EXCHANGE, f"email.{lane.value}.#"),))


def _tier(lane: Lane, tier: Tier) -> Queue:
    return Queue(retry_queue(lane, tier), {**_dead_lettering(lane_queue(lane)), "x-message-ttl": tier.seconds * 1000})


EXCHANGES = (
    Exchange(UNROUTED_EXCHANGE, "fanout"),
    Exchange(EVENTS_EXCHANGE, "topic", {"alternate-exchange": UNROUTED_EXCHANGE}),
)
# A stream forgets whole segments only: the smaller they are, the closer it keeps to its limit.
STREAMS = (
    Queue(
        CONFIG_STREAM,
        {
            "x-queue-type": "stream",
            "x-max-length-bytes": 10_000_000_000,
            "x-stream-max-segment-size-bytes": 100_000_000,
        },
    ),
    Queue(
        BREAKERS_STREAM,
        {"x-queue-type": "stream", "x-max-age": "1h", "x-stream-max-segment-size-bytes": 1_000_000},
    ),
)
# In the order of their declaration. Streams come first: where RabbitMQ 3.10 lacks the feature flag that
# at-least-once dead-lettering needs, only a stream's declaration says so. Targets come before their sources.
QUEUES = (
    *STREAMS,
    _kept(AUDIT_OUTBOX_QUEUE),
    _kept(PARKED_QUEUE, (UNROUTED_EXCHANGE, "")),
    *(_lane(lane) for lane in Lane),
    *(_tier(lane, tier) for lane in Lane for tier in Tier),
)
