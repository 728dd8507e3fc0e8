"""The chaos suite's short form: things are killed for some minutes, and the three books agree.

And it can fail: with each of three deliberate defects the same scenarios are red. Scenarios in
worlds of their own run side by side; those that kill the shared servers come alone, afterwards. Clock
jumps and the memory alarm come in `mixed` here, and alone in `python -m tests.chaos`.
"""

import asyncio
import random
from dataclasses import replace

import pytest

from tests.chaos.driver import Result, Run, run_scenario, run_side_by_side
from tests.chaos.scenarios import BY_NAME
from tests.chaos.world import Servers
from tests.services.opensearch import OpenSearchServer
from tests.services.rabbitmq import Broker

pytestmark = pytest.mark.chaos

SEED = random.SystemRandom().randrange(10**6)
AT_ONCE = 5
# It begins first wherever it is wanted: begun late, it would be waited for alone.
LONGEST = "lane-outage"
# (scenario, events, steps); what drains soonest comes last.
SIDE_BY_SIDE = [
    (LONGEST, 150, 1),
    ("sink-kills", 200, 2),
    ("worker-kills", 300, 5),
    ("cuts", 300, 4),
    ("opensearch-troubles", 200, 7),
    ("rolling-restart", 300, 1),
]
# With a full disk the audit alone is left to note what was sent: where five worlds keep it busy for a second, a kill
# in that second is a second fault.
ALONE = [("full-disk", 200, 1), ("rabbitmq-kills", 300, 1), ("opensearch-kills", 200, 1), ("mixed", 200, 4)]
# (defect, the scenario that finds it, events, steps)
DEFECTS = [
    ("no-reject-publish", LONGEST, 100, 1),
    ("no-lookup", "worker-kills", 200, 4),
    ("ack-before-audit", "worker-kills", 200, 4),
]


def plan(events: int, steps: int) -> Run:
    return Run(SEED, events, steps)


@pytest.fixture(scope="module")
def servers(rabbitmq: Broker, opensearch: OpenSearchServer) -> Servers:
    opensearch.resume()
    for server in (rabbitmq, opensearch):
        if not server.healthy():
            server.start()
    return Servers(rabbitmq, opensearch)


@pytest.fixture(scope="module")
def results(servers: Servers) -> dict[str, Result]:
    """Those that run side by side, by scenario or defect."""
    runs = {name: (BY_NAME[name], plan(events, steps)) for name, events, steps in SIDE_BY_SIDE}
    for defect, name, events, steps in DEFECTS:
        scenario = BY_NAME[name]
        runs[defect] = replace(scenario, shape=replace(scenario.shape, defect=defect)), plan(events, steps)
    names = sorted(runs, key=lambda name: runs[name][0].name != LONGEST)
    found = asyncio.run(run_side_by_side(servers, [runs[name] for name in names], AT_ONCE))
    return dict(zip(names, found, strict=True))


def check(result: Result, events: int) -> None:
    assert not result.red, f"{result.to_json()}\n" + "\n\n".join(result.stories)
    assert result.published == events


@pytest.mark.parametrize(("name", "events", "steps"), SIDE_BY_SIDE)
def test_nothing_is_lost_and_nothing_sent_twice(results: dict[str, Result], name: str, events: int, steps: int) -> None:
    check(results[name], events)


@pytest.mark.parametrize(("defect", "scenario", "events", "steps"), DEFECTS)
def test_a_deliberate_defect_turns_the_suite_red(
    results: dict[str, Result], defect: str, scenario: str, events: int, steps: int
) -> None:
    assert results[defect].red, results[defect].to_json()


@pytest.mark.parametrize(("name", "events", "steps"), ALONE)
def test_nothing_is_lost_when_servers_die(servers: Servers, name: str, events: int, steps: int) -> None:
    check(asyncio.run(run_scenario(servers, BY_NAME[name], plan(events, steps))), events)
