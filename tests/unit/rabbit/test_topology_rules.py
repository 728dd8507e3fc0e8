"""The topology as data: what must hold for every queue of a kind, whoever adds one."""

import pytest

from worker.delivery.ports import Lane, Tier
from worker.rabbit import topology
from worker.rabbit.topology import Queue

BY_NAME = {queue.name: queue for queue in topology.QUEUES}
TIERS = [topology.retry_queue(lane, tier) for lane in Lane for tier in Tier]
LANES = [topology.lane_queue(lane) for lane in Lane]
ids = pytest.mark.parametrize("queue", topology.QUEUES, ids=lambda q: q.name)


def test_there_are_two_lanes_with_five_tiers_each_and_four_more() -> None:
    assert len(TIERS) == 10
    others = {
        topology.PARKED_QUEUE,
        topology.AUDIT_OUTBOX_QUEUE,
        topology.CONFIG_STREAM,
        topology.BREAKERS_STREAM,
    }
    assert set(BY_NAME) == {*TIERS, *LANES, *others}
    assert len(topology.QUEUES) == len(BY_NAME)


@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize("tier", Tier)
def test_a_tier_gives_back_to_its_own_lane_when_its_time_is_over(lane: Lane, tier: Tier) -> None:
    queue = BY_NAME[f"postbote.retry.{lane.value}.{tier.label}"]
    assert queue.arguments["x-message-ttl"] == tier.seconds * 1000
    assert queue.arguments["x-dead-letter-exchange"] == ""
    assert queue.arguments["x-dead-letter-routing-key"] == topology.lane_queue(lane)


@ids
def test_what_dead_letters_does_so_at_least_once_and_rejects_when_full(queue: Queue) -> None:
    if "x-dead-letter-exchange" in queue.arguments:
        assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
        assert queue.arguments["x-overflow"] == "reject-publish"


@ids
def test_no_queue_of_events_or_records_drops_what_it_holds(queue: Queue) -> None:
    if queue.arguments["x-queue-type"] == "quorum":
        assert queue.arguments["x-overflow"] == "reject-publish"
        expires = "x-message-ttl" in queue.arguments or queue.arguments.get("x-delivery-limit") != topology.NEVER
        assert ("x-dead-letter-routing-key" in queue.arguments) == expires


@ids
def test_targets_are_declared_before_what_dead_letters_to_them(queue: Queue) -> None:
    names = list(BY_NAME)
    target = queue.arguments.get("x-dead-letter-routing-key")
    assert target is None or names.index(target) < names.index(queue.name)


def test_streams_are_declared_first_since_only_they_fail_without_the_feature_flag() -> None:
    kinds = [queue.arguments["x-queue-type"] for queue in topology.QUEUES]
    assert kinds == sorted(kinds, key=lambda kind: kind != "stream")


def test_every_exchange_that_is_bound_or_falls_back_is_declared_before() -> None:
    names = [exchange.name for exchange in topology.EXCHANGES]
    assert {exchange for queue in topology.QUEUES for exchange, _ in queue.bindings} <= set(names)
    assert names.index(topology.UNROUTED_EXCHANGE) < names.index(topology.EVENTS_EXCHANGE)
