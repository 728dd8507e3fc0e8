"""One scenario's world: a virtual host, an index prefix, tenants, a sink, a proxy, workers with disks of their own."""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.audit import read_audit
from tests.chaos.clock import Clock
from tests.chaos.count import Evidence, Kill
from tests.chaos.disk import small_disk
from tests.chaos.events import make_events, store_records
from tests.chaos.processes import Sink, Worker
from tests.chaos.proxy import AuditProxy
from tests.chaos.publishing import Publishing
from tests.chaos.pulse import Pulse
from tests.chaos.queues import depths, take_all, unsettled
from tests.services import sessions
from tests.services.opensearch import OpenSearchServer
from tests.services.rabbitmq import Broker, vhost_of
from worker.store.secrets import new_key

STOP_S = 20.0
SPREAD_S = 2.0
_GRACE_S = 10
# Queues that are empty, and stay so for this long while something has no end, will not end it.
_QUIET_S = 8.0
_LOOK_S = 0.5


@dataclass(frozen=True)
class Servers:
    """What all scenarios share, started."""

    broker: Broker
    opensearch: OpenSearchServer


@dataclass(frozen=True)
class Shape:
    """What a scenario's workers are like; `defect` names one of `tests.chaos.defective`, `watch`: see `watched`."""

    workers: int = 2
    small_disks: bool = False
    moved_clock: bool = False
    defect: str | None = None
    watch: bool = False
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class World:
    """Everything that a fault can reach, and the books of what was done."""

    servers: Servers
    amqp_url: str
    index_prefix: str
    folder: Path
    run: str
    rng: random.Random
    sink: Sink
    proxy: AuditProxy
    publishing: Publishing
    workers: Sequence[Worker]
    disk: Path | None
    clock: Clock
    pulse: Pulse
    kills: list[Kill] = field(default_factory=list)
    made: int = 0
    notes: list[str] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)
    overdue: list[str] = field(default_factory=list)

    @property
    def vhost(self) -> str:
        """The name of the scenario's virtual host."""
        return vhost_of(self.amqp_url)

    async def publish(self, count: int, *, spread_s: float = SPREAD_S) -> None:
        """Publish so many more events, spread over some seconds; returns when all are confirmed."""
        events = make_events(self.run, self.made, count, self.rng)
        self.made += count
        await self.publishing.publish(events, [self.rng.uniform(0, spread_s) for _ in events])

    async def kill(self, what: str, kill: Callable[[], object]) -> None:
        """Kill something by `kill`, which returns when it is gone, and note when that was."""
        began = time.monotonic()
        await asyncio.to_thread(kill)
        self.kills.append(Kill(what, began, time.monotonic()))
        self.note(f"killed {what}")

    async def kill_worker(self, worker: Worker) -> None:
        """SIGKILL a worker that was stopped a moment before, so that what it had read can be looked up.

        Between the two signals it does nothing: to its disk and its queues it is as if it had been killed at once.
        """
        await asyncio.to_thread(worker.stop_running)
        began = time.monotonic()
        read = await asyncio.to_thread(self._read_by, worker)
        run = self.pulse.last_run(worker.pid)
        await asyncio.to_thread(worker.kill)
        self.kills.append(Kill(worker.ehlo, began, time.monotonic(), read, run))
        self.note(f"killed {worker.ehlo}, which ran until {began:.3f}")

    def _read_by(self, worker: Worker) -> dict[str, int]:
        return self.sink.read_by(worker.pid) if worker.alive() and self.sink.alive() else {}

    def note(self, what: str) -> None:
        """Remember what was done, with the time that the sink's log uses."""
        self.notes.append(f"{time.monotonic():.3f} {what}")

    async def drain(self, seconds: float) -> float:
        """Wait until every queue but the parked one is empty; returns the seconds that took, at most `seconds`."""
        began, empty_since = time.monotonic(), None
        while (now := time.monotonic()) - began < seconds:
            busy = await asyncio.to_thread(self._unsettled)
            empty_since = None if busy else (empty_since or now)
            if empty_since is not None and now - empty_since > _QUIET_S / 4:
                missing = await asyncio.to_thread(self._without_record)
                if not missing or now - empty_since > _QUIET_S:
                    break
            await asyncio.sleep(_LOOK_S)
        return (empty_since or time.monotonic()) - began

    def _unsettled(self) -> bool:
        return unsettled(depths(self.servers.broker, self.amqp_url)) > 0

    def _without_record(self) -> bool:
        known = {str(record["event_id"]) for record in read_audit(self.servers.opensearch.url, self.index_prefix)}
        return bool(set(self.publishing.confirmed) - known)

    async def stop(self, worker: Worker) -> None:
        """SIGTERM one worker; one that does not end in time is `overdue`, and killed."""
        began = time.monotonic()
        if not await asyncio.to_thread(worker.terminate, STOP_S):
            self.kills.append(Kill(worker.ehlo, began, time.monotonic()))
            self.overdue.append(worker.name)
        self.stops_s.append(time.monotonic() - began)
        self.note(f"stopped {worker.name} in {self.stops_s[-1]:.1f} s")

    async def stop_workers(self) -> None:
        """SIGTERM them all."""
        await asyncio.gather(*map(self.stop, self.workers))

    def evidence(self) -> Evidence:
        """Read everything that is to be counted; empties the queues."""
        queued, waiting = take_all(self.servers.broker, self.amqp_url)
        records: list[dict[str, Any]] = [*read_audit(self.servers.opensearch.url, self.index_prefix), *waiting]
        return Evidence(self.publishing.confirmed, list(self.sink.kept()), records, queued, self.kills)


@contextlib.asynccontextmanager
async def open_world(servers: Servers, name: str, shape: Shape, rng: random.Random) -> AsyncIterator[World]:
    """Make a world with workers that are ready, and take it down; its folder stays until the session ends."""
    folder = sessions.current().subfolder(f"chaos-{name}")
    run = f"{name.replace('-', '')[:12]}{uuid.uuid4().hex[:6]}"
    amqp_url, prefix = servers.broker.fresh_vhost(), f"chaos-{uuid.uuid4().hex[:12]}"
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(servers.opensearch.delete_indices, f"{prefix}*")
        stack.callback(servers.broker.drop_vhost, amqp_url)
        disk = stack.enter_context(small_disk(folder / "disk")) if shape.small_disks else None
        proxy = await stack.enter_async_context(AuditProxy(servers.opensearch.url, rng).serving())
        sink, clock = Sink(folder), Clock(folder / "clock")
        sink.start()
        stack.callback(sink.kill)
        env = await _environment(folder, sink, amqp_url, proxy.url, prefix)
        env |= shape.env | (clock.environment() if shape.moved_clock else {})
        workers = [_worker(f"worker-{n}", folder, disk, env, shape) for n in range(shape.workers)]
        publishing = Publishing(amqp_url)
        stack.push_async_callback(publishing.close)
        for worker in workers:
            stack.callback(worker.kill)
            worker.start()
        await asyncio.gather(*(asyncio.to_thread(worker.wait_ready) for worker in workers))
        await publishing.start()
        pulse = Pulse(workers)
        pulse.start()
        stack.callback(pulse.stop)
        yield World(servers, amqp_url, prefix, folder, run, rng, sink, proxy, publishing, workers, disk, clock, pulse)


async def _environment(folder: Path, sink: Sink, amqp_url: str, opensearch_url: str, prefix: str) -> dict[str, str]:
    key, database = new_key(), f"sqlite:///{folder / 'postbote.db'}"
    await store_records(database, key, sink.ports)
    return {
        "POSTBOTE_AMQP_URL": amqp_url,
        "POSTBOTE_OPENSEARCH_URL": opensearch_url,
        "POSTBOTE_AUDIT_INDEX_PREFIX": prefix,
        "POSTBOTE_DATABASE_URL": database,
        "POSTBOTE_SECRET_KEYS": key,
        "POSTBOTE_RETRY_FIRST_WAIT_S": "0.1",
        "POSTBOTE_RETRY_BUDGET_S": "4",
        "POSTBOTE_DOUBT_WAIT_S": "1",
        "POSTBOTE_SHUTDOWN_GRACE_S": str(_GRACE_S),
        "POSTBOTE_EGRESS_ALLOW": "127.0.0.0/8",
        "POSTBOTE_EGRESS_PORTS": "1-65535",
        "POSTBOTE_LOG_LEVEL": "debug",
    }


def _worker(name: str, folder: Path, disk: Path | None, env: dict[str, str], shape: Shape) -> Worker:
    return Worker(name, folder / name, (disk or folder) / f"{name}-journal", env, _command(shape))


def _command(shape: Shape) -> tuple[str, ...]:
    if shape.defect is not None:
        return ("tests.chaos.defective", shape.defect, "worker")
    return ("tests.chaos.watched" if shape.watch else "worker.cli", "worker")
