"""One scenario from beginning to end: make its world, publish, do harm, put right, wait, count."""

import asyncio
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.count import WINDOW_S, Verdict, judge
from tests.chaos.faults import USUAL_REPLY_S
from tests.chaos.scenarios import Scenario
from tests.chaos.story import keep_logs, tell
from tests.chaos.world import Servers, World, open_world

DRAIN_S = 90.0
_PUBLISH_S = 120.0
_STORIES = 6
_THREADS = 48


@dataclass(frozen=True)
class Result:
    """What one scenario came to; `stories` tell what happened to the first offenders."""

    scenario: str
    seed: int
    published: int
    repeats: int
    mails: int
    kills: int
    worker_kills: int
    drain_s: float
    elapsed_s: float
    verdict: Verdict
    longest_stop_s: float = 0.0
    overdue: tuple[str, ...] = ()
    stories: tuple[str, ...] = field(default=(), repr=False)

    @property
    def red(self) -> bool:
        """Whether anything happened that must never happen."""
        return self.verdict.red or bool(self.overdue)

    @property
    def duplicates_per_1000_kills(self) -> float:
        """Second copies that nothing excuses; 0.0 where nobody was killed."""
        return round(1000 * len(self.verdict.duplicated) / self.worker_kills, 2) if self.worker_kills else 0.0

    def to_json(self) -> dict[str, Any]:
        """The row of build/chaos.json."""
        found = self.verdict
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "published": self.published,
            "mails": self.mails,
            "lost": len(found.lost),
            "duplicated": len(found.duplicated),
            "unflagged_duplicates": len(found.unflagged),
            "lost_final_reply_window": len(found.lost_replies),
            "read_but_not_noted": len(found.not_noted),
            "oldest_unread_ms": round(1000 * found.oldest_unread_s),
            "oldest_not_noted_ms": round(1000 * found.oldest_not_noted_s),
            "duplicated_after_repeated_publish": len(found.published_again),
            "disagreements": found.disagreements,
            "accepted_not_received": len(found.accepted_not_received),
            "received_not_accepted": len(found.received_not_accepted),
            "changed_copies": len(found.changed),
            "strange_mails": len(found.strange),
            "parked": found.parked,
            "queued": found.queued,
            "drain_s": round(self.drain_s, 1),
            "elapsed_s": round(self.elapsed_s, 1),
            "kills": self.kills,
            "worker_kills": self.worker_kills,
            "duplicates_per_1000_kills": self.duplicates_per_1000_kills,
            "publishes_repeated": self.repeats,
            "longest_stop_s": round(self.longest_stop_s, 1),
            "overdue_stops": list(self.overdue),
            "red": self.red,
        }


@dataclass(frozen=True)
class Run:
    """How much of a scenario to run."""

    seed: int
    events: int
    steps: int
    drain_s: float = DRAIN_S
    window_s: float = WINDOW_S
    logs: Path | None = None


async def run_scenario(servers: Servers, scenario: Scenario, run: Run) -> Result:
    """Run one scenario. Raises ServiceUnavailable where the workers do not start."""
    rng = random.Random(f"{run.seed}:{scenario.name}")
    began = time.monotonic()
    async with open_world(servers, scenario.name, scenario.shape, rng) as world:
        await asyncio.to_thread(lambda: world.sink.order(delay_s=USUAL_REPLY_S))
        await _do_harm(world, scenario, run)
        drain_s = await world.drain(run.drain_s)
        await world.stop_workers()
        return await asyncio.to_thread(_count, world, scenario, run, drain_s, began)


async def run_side_by_side(servers: Servers, runs: Sequence[tuple[Scenario, Run]], at_once: int) -> list[Result]:
    """Run scenarios that harm nothing of each other's at the same time: much of each is waiting."""
    # Waiting for a worker takes a thread, and asyncio's own pool has six on two cores.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    places = asyncio.Semaphore(at_once)

    async def one(scenario: Scenario, run: Run) -> Result:
        async with places:
            return await run_scenario(servers, scenario, run)

    return await asyncio.gather(*(one(scenario, run) for scenario, run in runs))


async def _do_harm(world: World, scenario: Scenario, run: Run) -> None:
    """Publish a share with each step, whatever the step does, and see that all is confirmed at the end."""
    async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as publishing:
        for step in range(run.steps):
            share = run.events * (step + 1) // run.steps - run.events * step // run.steps
            publishing.create_task(world.publish(share))
            fault = (
                world.rng.choice(scenario.faults) if scenario.mixed else scenario.faults[step % len(scenario.faults)]
            )
            await fault(world)
        limit.reschedule(asyncio.get_running_loop().time() + _PUBLISH_S)


def _count(world: World, scenario: Scenario, run: Run, drain_s: float, began: float) -> Result:
    evidence = world.evidence()
    if run.logs is not None:
        keep_logs(world, run.logs / scenario.name)
    verdict = judge(evidence, window_s=run.window_s)
    return Result(
        scenario=scenario.name,
        seed=run.seed,
        published=len(evidence.published),
        repeats=world.publishing.repeats,
        mails=len(evidence.kept),
        kills=len(world.kills),
        worker_kills=sum(kill.what in {worker.ehlo for worker in world.workers} for kill in world.kills),
        drain_s=drain_s,
        elapsed_s=time.monotonic() - began,
        verdict=verdict,
        longest_stop_s=max(world.stops_s, default=0.0),
        overdue=tuple(world.overdue),
        stories=tuple(tell(pair, evidence, world) for pair in verdict.offenders(_STORIES)),
    )
