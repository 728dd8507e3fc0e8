"""The scenarios: which faults come in which order, on what kind of workers, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos import faults
from tests.chaos.faults import Fault
from tests.chaos.proxy import Trouble
from tests.chaos.world import Shape


@dataclass(frozen=True)
class Scenario:
    """Events are published in equal shares, one with each step; a step is one fault.

    `mixed`: the fault of each step is drawn at random; else they follow one another in their order.
    """

    name: str
    faults: Sequence[Fault]
    steps: int
    long_steps: int
    events: int = 400
    long_events: int = 10_000
    shape: Shape = field(default_factory=Shape)
    mixed: bool = False


KILLS = (faults.kill_worker, faults.kill_worker_while_audit_is_slow)
TROUBLES = tuple(map(faults.trouble_opensearch, (trouble for trouble in Trouble if trouble is not Trouble.NONE)))

SCENARIOS = (
    Scenario("worker-kills", KILLS, steps=10, long_steps=300, shape=Shape(workers=3)),
    Scenario("rolling-restart", (faults.restart_workers,), steps=2, long_steps=30),
    Scenario("frozen-worker", (faults.freeze_worker,), steps=3, long_steps=30),
    Scenario("rabbitmq-kills", (faults.kill_rabbitmq,), steps=2, long_steps=20),
    Scenario("opensearch-kills", (faults.kill_opensearch,), steps=1, long_steps=10),
    Scenario("sink-kills", (faults.kill_sink,), steps=4, long_steps=60),
    Scenario("cuts", (faults.cut_connections, faults.slow_replies), steps=8, long_steps=100),
    Scenario("opensearch-troubles", TROUBLES, steps=7, long_steps=90),
    Scenario("memory-alarm", (faults.raise_memory_alarm,), steps=2, long_steps=15),
    Scenario("full-disk", (faults.fill_disk,), steps=3, long_steps=30, shape=Shape(small_disks=True)),
    Scenario("clock-jumps", (faults.jump_clock,), steps=3, long_steps=30, shape=Shape(moved_clock=True)),
    Scenario("lane-outage", (faults.stop_lanes,), steps=1, long_steps=5, events=200),
    Scenario(
        "mixed",
        (
            *(4 * (faults.kill_worker,)),
            *(2 * (faults.kill_worker_while_audit_is_slow,)),
            faults.restart_workers,
            faults.freeze_worker,
            faults.kill_rabbitmq,
            faults.kill_opensearch,
            *(2 * (faults.kill_sink,)),
            *(3 * (faults.cut_connections,)),
            faults.slow_replies,
            *TROUBLES,
            faults.raise_memory_alarm,
            faults.fill_disk,
            faults.jump_clock,
        ),
        steps=10,
        long_steps=200,
        shape=Shape(workers=3, small_disks=True, moved_clock=True),
        mixed=True,
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
