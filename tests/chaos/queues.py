"""What lies in the queues: how much while they drain, and which events at the end."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pika

from schemas.audit import CATEGORY
from tests.services.rabbitmq import Broker
from tests.services.ways import ServiceUnavailable
from worker.delivery.ports import Lane, Tier
from worker.rabbit import topology

_STREAM = "stream"
_EMPTY_WITHIN_S = 120.0
_COUNTS_LAG_S = 1.0
AUDIT_OUTBOX_QUEUE = "postbote.audit.outbox"


def depths(broker: Broker, amqp_url: str) -> dict[str, int]:
    """Messages in each queue, ready or being handled; streams, which keep what was read, are left out."""
    found = broker.queues(amqp_url)
    return {queue["name"]: int(queue.get("messages", 0)) for queue in found if not _is_stream(queue)}


def unsettled(counts: dict[str, int]) -> int:
    """Messages that a worker is still to take from somewhere: all but the parked ones."""
    return sum(count for name, count in counts.items() if name != topology.PARKED_QUEUE)


def resting(counts: dict[str, int]) -> int:
    """Messages in the shortest tiers, which soon come back to their lanes."""
    return sum(counts.get(topology.retry_queue(lane, Tier.TEN_SECONDS), 0) for lane in Lane)


def _is_stream(queue: dict[str, Any]) -> bool:
    return _STREAM in (queue.get("type"), queue.get("arguments", {}).get("x-queue-type"))


def take_all(broker: Broker, amqp_url: str) -> tuple[dict[str, frozenset[str]], list[dict[str, Any]]]:
    """Empty every queue: the ids of the events in each, and the audit records that were waiting in the outbox.

    A tier gives back what is due while it is read, to a lane that may have been read before: so all are read until
    nothing is left in any.
    """
    events: dict[str, set[str]] = defaultdict(set)
    records: list[dict[str, Any]] = []
    deadline = time.monotonic() + _EMPTY_WITHIN_S
    while True:
        for name, body in _drained(amqp_url, [q["name"] for q in broker.queues(amqp_url) if not _is_stream(q)]):
            if name == AUDIT_OUTBOX_QUEUE:
                found = map(json.loads, body.splitlines()[1::2])  # each record follows a line with its id
                records += [record for record in found if record["category"] == CATEGORY]  # and no proof
            else:
                events[name].add(str(json.loads(body)["id"]))
        time.sleep(_COUNTS_LAG_S)
        left = {name: count for name, count in depths(broker, amqp_url).items() if count}
        if not left:
            return {name: frozenset(ids) for name, ids in events.items()}, records
        if time.monotonic() > deadline:
            msg = f"the queues cannot be emptied: {left}"
            raise ServiceUnavailable(msg)


def _drained(amqp_url: str, names: list[str]) -> Iterator[tuple[str, bytes]]:
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    try:
        channel = connection.channel()
        for name in names:
            while True:
                method, _, body = channel.basic_get(name, auto_ack=True)
                if method is None:
                    break
                yield name, body
    finally:
        connection.close()
