"""How long one event waits: from just before its publish to the sink's 250, on CLOCK_MONOTONIC.

Idle: one event every `IDLE_GAP_S`. Half load: events evenly paced at half the rate that publisher,
broker, worker and sink have just shown together: they share the machine's cores, and half of what the
worker alone can do may be more than all four manage.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import uvloop

from tests.bench.contenders import Contender, Site, publish_one
from tests.bench.events import Batch, write_batch
from tests.bench.measure import STALL_S, Running, running
from tests.bench.sinks import TimedSink, wait_for
from worker.rabbit.publisher import Publisher

IDLE_GAP_S = 0.05
IDLE_EVENTS = 200
BURST = 2000
LOADED_S = 8.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds from publish to 250 over `mails` mails; `lost` never arrived."""

    HEADERS: ClassVar = ("", "load", "mails", "events/s", "p50 ms", "p99 ms", "max ms", "lost")

    name: str
    load: str
    mails: int
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    lost: int

    def cells(self) -> tuple[str, ...]:
        """A row under `HEADERS`."""
        times = (f"{self.p50_ms:.1f}", f"{self.p99_ms:.1f}", f"{self.max_ms:.1f}")
        return (self.name, self.load, f"{self.mails:,}", f"{self.rate:,.0f}", *times, str(self.lost))


def measure_latency(contender: Contender, site: Site, sink: TimedSink, label: str) -> list[Latency]:
    """Idle, then half load, on one worker of Postbote's."""
    with running(contender, site, sink) as worker:
        idle = write_batch(site.folder, f"{label}-idle", IDLE_EVENTS)
        found = [_paced(worker, sink, idle, 1 / IDLE_GAP_S, "idle", f"{label}-idle")]
        half = BURST / _seconds_for(worker, sink, write_batch(site.folder, f"{label}-burst", BURST)) / 2
        worker.come_to_rest()
        loaded = write_batch(site.folder, f"{label}-half", int(half * LOADED_S))
        found.append(_paced(worker, sink, loaded, half, "half load", f"{label}-half"))
    return found


def _seconds_for(worker: Running, sink: TimedSink, batch: Batch) -> float:
    """From the first publish of a burst to its last 250, the publisher going as fast as it can."""
    target, began = sink.count() + len(batch.recipients), time.monotonic()
    worker.contender.publish(worker.site, batch.file)
    wait_for(sink, target, STALL_S, worker.process)
    return time.monotonic() - began


def _paced(worker: Running, sink: TimedSink, batch: Batch, rate: float, load: str, run: str) -> Latency:
    target = sink.count() + len(batch.recipients)
    published = uvloop.run(_publish(worker.site.amqp_url, batch.bodies(), rate))
    wait_for(sink, target, STALL_S, worker.process)
    # Addresses are numbered in the order of the file.
    sent = dict(zip(sorted(batch.recipients), published, strict=True))
    arrived = {recipient: at for at, recipient in reversed(sink.answers(run))}
    waits = sorted((at - sent[recipient]) / 1e6 for recipient, at in arrived.items())
    return Latency(
        worker.contender.name,
        load,
        len(waits),
        rate,
        _percentile(waits, 50),
        _percentile(waits, 99),
        waits[-1] if waits else 0.0,
        len(sent) - len(waits),
    )


async def _publish(amqp_url: str, bodies: Sequence[bytes], rate: float) -> list[int]:
    """Publish on schedule, whatever the confirms do; returns the moment before each publish."""
    publisher = await Publisher(amqp_url, "bench").start()
    moments, began = [], time.monotonic()
    try:
        async with asyncio.timeout(len(bodies) / rate + 60), asyncio.TaskGroup() as group:
            for number, body in enumerate(bodies):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                moments.append(time.monotonic_ns())
                group.create_task(publish_one(publisher, body))
    finally:
        await publisher.close()
    return moments


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0
