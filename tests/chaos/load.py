"""`python -m tests.chaos.load`: many events through two workers, which must not grow.

Resident memory is compared between 20 % and 100 % of the events, while mails flow; file descriptors
and AMQP channels over the whole of that. Exit code 1 where memory differs by more than 10 %, where
descriptors or channels grow, or where a mail is missing. Writes build/load.json.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.__main__ import servers
from tests.chaos.audit import count_accepted
from tests.chaos.report import BUILD
from tests.chaos.world import Servers, Shape, World, open_world
from tests.services.ways import ServiceUnavailable

EVENTS = 200_000
EARLY = 0.20
GROWTH = 0.10
_BACKLOG = 5000
_SHARE = 1000
_SAMPLE_S = 1.0
_AROUND = 0.05
_STALLED_S = 120.0
_MORE_DESCRIPTORS = 8  # SMTP connections come and go with the load


@dataclass(frozen=True)
class Sample:
    """One look at one worker."""

    done: float
    worker: str
    rss_kib: int
    descriptors: int


@dataclass
class Load:
    """A run and what was seen of it."""

    events: int
    samples: list[Sample] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)
    mails: int = 0
    accepted: int = 0
    seconds: float = 0.0

    def of(self, worker: str, around: float) -> list[Sample]:
        """The samples of a worker near a share of the events; the last ones end at `around`."""
        low, high = around - _AROUND, around + (_AROUND if around < 1 else 0)
        return [s for s in self.samples if s.worker == worker and low <= s.done <= high]

    def report(self) -> dict[str, Any]:
        """What build/load.json holds."""
        workers = {name: self._worker(name) for name in sorted({sample.worker for sample in self.samples})}
        steady = all(each["steady"] for each in workers.values()) and len(set(self.channels.values())) == 1
        return {
            "events": self.events,
            "mails": self.mails,
            "accepted": self.accepted,
            "seconds": round(self.seconds, 1),
            "mails_per_s": round(self.mails / self.seconds, 1),
            "workers": workers,
            "channels": self.channels,
            "steady": steady,
            "complete": self.mails == self.accepted >= self.events,
        }

    def _worker(self, name: str) -> dict[str, Any]:
        early, late = self.of(name, EARLY), self.of(name, 1.0)
        before, after = (statistics.median(s.rss_kib for s in group) / 1024 for group in (early, late))
        first, last = (max(s.descriptors for s in group) for group in (early, late))
        growth = after / before - 1
        return {
            "rss_mib_at_20": round(before, 1),
            "rss_mib_at_100": round(after, 1),
            "rss_growth": round(growth, 4),
            "descriptors_at_20": first,
            "descriptors_at_100": last,
            "steady": abs(growth) <= GROWTH and last <= first + _MORE_DESCRIPTORS,
        }


async def run_load(shared: Servers, events: int) -> dict[str, Any]:
    """Run it; returns the report. Raises ServiceUnavailable where nothing moves any more."""
    load = Load(events)
    shape = Shape(env={"POSTBOTE_LOG_LEVEL": "info", "POSTBOTE_OPENSEARCH_URL": shared.opensearch.url})
    async with open_world(shared, "load", shape, random.Random(events)) as world:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(_publish(world, events))
            await _watch(world, load)
        load.seconds = time.monotonic() - began
        await world.drain(_STALLED_S)
        load.mails = sum(len(mail.recipients) for mail in world.sink.kept())
        load.accepted = count_accepted(shared.opensearch.url, world.index_prefix)
    return load.report()


async def _publish(world: World, events: int) -> None:
    """Keep the lanes filled, and not more than that: the broker's memory is not what is measured."""
    while world.made < events:
        if world.made - world.sink.counted() < _BACKLOG:
            await world.publish(min(_SHARE, events - world.made), spread_s=0.0)
        else:
            await asyncio.sleep(0.02)


async def _watch(world: World, load: Load) -> None:
    """Sample until every event has become a mail."""
    done, moved = 0, time.monotonic()
    while done < load.events:
        await asyncio.sleep(_SAMPLE_S)
        now = world.sink.counted()
        if now > done:
            done, moved = now, time.monotonic()
        elif time.monotonic() - moved > _STALLED_S:
            msg = f"nothing moves: {done} of {load.events} mails"
            raise ServiceUnavailable(msg)
        load.samples += [_look(worker.name, worker.pid, done / load.events) for worker in world.workers]
        for share in (EARLY, 1 - _AROUND):
            if done >= share * load.events and f"at {share:.0%}" not in load.channels:
                load.channels[f"at {share:.0%}"] = await asyncio.to_thread(_channels, world)


def _look(name: str, pid: int, done: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return Sample(done, name, rss, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def _channels(world: World) -> int:
    """The workers' channels on the broker; the driver has one of its own."""
    listed = world.servers.broker.ctl("list_channels", "--vhost", world.vhost, "pid", "vhost")
    return sum(world.vhost in line for line in listed.splitlines())


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=EVENTS)
    arguments = parser.parse_args(argv)
    try:
        with servers() as shared:
            found = asyncio.run(run_load(shared, arguments.events))
    except ServiceUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    BUILD.mkdir(exist_ok=True)
    (BUILD / "load.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0 if found["steady"] and found["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
