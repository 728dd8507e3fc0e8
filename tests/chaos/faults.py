"""What is done to a world: each fault is brought about while events flow, and put right again."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from tests.chaos.clock import SEEN_WITHIN_S
from tests.chaos.count import SINK
from tests.chaos.disk import fill, free
from tests.chaos.proxy import Trouble
from tests.chaos.queues import depths, resting
from tests.chaos.sink import Cut
from tests.chaos.world import SPREAD_S, World
from worker.delivery.ports import Lane
from worker.rabbit import topology

Fault = Callable[[World], Awaitable[None]]

# How long after the final dot the SMTP server answers: long enough that a kill finds mails in between.
USUAL_REPLY_S = (0.0, 0.1)
_MOMENT_S = 0.4
_HOUR_S = 3600
_READY_S = 60.0
_SHORTEST_REST_S = 10
_TO_REST_S = 15.0


async def kill_worker(world: World) -> None:
    """SIGKILL to one worker at a random moment, and a start on the same disk."""
    worker = world.rng.choice(world.workers)
    await _moment(world)
    await world.kill_worker(worker)
    worker.start()
    if world.rng.random() < 0.8:  # else the next kill may come while it starts
        await asyncio.to_thread(worker.wait_ready, _READY_S)


async def kill_worker_while_audit_is_slow(world: World) -> None:
    """The same, while what was accepted waits for its record: only the journal knows of it."""
    world.proxy.trouble = Trouble.SLOW_WRITES
    await asyncio.sleep(world.rng.uniform(2 * _MOMENT_S, 4 * _MOMENT_S))
    await kill_worker(world)
    world.proxy.trouble = Trouble.NONE


async def restart_workers(world: World) -> None:
    """A rolling restart: SIGTERM one after the other."""
    for worker in world.workers:
        await _moment(world)
        await world.stop(worker)
        worker.start()
        await asyncio.to_thread(worker.wait_ready, _READY_S)


async def freeze_worker(world: World) -> None:
    """SIGSTOP for some seconds: a machine that stalls."""
    worker = world.rng.choice(world.workers)
    world.note(f"froze {worker.ehlo}")
    worker.send(signal.SIGSTOP)
    await asyncio.sleep(world.rng.uniform(1, 4))
    worker.send(signal.SIGCONT)
    world.note(f"thawed {worker.ehlo}")


async def kill_rabbitmq(world: World) -> None:
    """SIGKILL to the broker, and a start with the same data."""
    await _moment(world)
    await world.kill("rabbitmq", world.servers.broker.kill)
    await asyncio.sleep(world.rng.uniform(0, 2))
    await asyncio.to_thread(world.servers.broker.start)


async def kill_opensearch(world: World) -> None:
    """SIGKILL to OpenSearch, and a start with the same data."""
    await _moment(world)
    await world.kill("opensearch", world.servers.opensearch.kill)
    await asyncio.sleep(world.rng.uniform(0, 2))
    await asyncio.to_thread(world.servers.opensearch.start)


async def kill_sink(world: World) -> None:
    """SIGKILL to the SMTP server, and a start on the same ports."""
    await _moment(world)
    await world.kill(SINK, world.sink.kill)
    await asyncio.sleep(world.rng.uniform(0, 1.5))
    await asyncio.to_thread(world.sink.start)


async def cut_connections(world: World) -> None:
    """Dialogues end at every phase, a few times each."""
    cuts = {cut.value: world.rng.randint(1, 3) for cut in Cut}
    world.note("cuts")
    await _order(world, cut=cuts)
    await asyncio.sleep(2 * _MOMENT_S)


async def slow_replies(world: World) -> None:
    """The server takes its time after each final dot."""
    world.note("slow replies")
    await _order(world, delay_s=(0.2, 0.6))
    await asyncio.sleep(4 * _MOMENT_S)
    await _order(world, delay_s=USUAL_REPLY_S)


def trouble_opensearch(trouble: Trouble) -> Fault:
    """OpenSearch answers in one way of `Trouble` for a while."""

    async def troubled(world: World) -> None:
        world.note(f"opensearch: {trouble}")
        world.proxy.trouble = trouble
        await asyncio.sleep(world.rng.uniform(1, 3))
        world.proxy.trouble = Trouble.NONE

    return troubled


async def raise_memory_alarm(world: World) -> None:
    """The broker blocks all who publish, for some seconds."""
    world.note("memory alarm")
    await asyncio.to_thread(world.servers.broker.raise_memory_alarm)
    await asyncio.sleep(world.rng.uniform(1, 4))
    await asyncio.to_thread(world.servers.broker.clear_memory_alarm)


async def fill_disk(world: World) -> None:
    """The workers' disk is full for some seconds; half of the times one of them is killed and starts on it."""
    if world.disk is None:
        return
    await _moment(world)
    world.note("disk is full")
    await asyncio.to_thread(fill, world.disk)
    await asyncio.sleep(world.rng.uniform(1, 3))
    if world.rng.random() < 0.5:
        worker = world.rng.choice(world.workers)
        await world.kill_worker(worker)
        worker.start()
        await asyncio.sleep(1)
    free(world.disk)
    world.note("disk has room")
    await _revive(world)


async def jump_clock(world: World) -> None:
    """The workers' wall clock jumps by an hour, either way, and back."""
    await _moment(world)
    offset = world.rng.choice((-_HOUR_S, _HOUR_S))
    world.note(f"clock {offset:+}")
    world.clock.set(offset)
    await asyncio.sleep(SEEN_WITHIN_S + world.rng.uniform(0, 2))
    world.clock.set(0)


async def stop_lanes(world: World) -> None:
    """The lanes' queues have no leader when what rests in a tier is to come back: it must rest on until they have.

    Events that a worker had in hand when it was killed rest in the shortest tier, so that is how they get there.
    The server is away meanwhile, and the workers are during the outage: none is in their hands.
    """
    await world.kill(SINK, world.sink.kill)
    await asyncio.sleep(SPREAD_S + _MOMENT_S)
    for worker in world.workers:
        await world.kill_worker(worker)
        worker.start()
    await _until(lambda: resting(depths(world.servers.broker, world.amqp_url)) > world.made / 2, _TO_REST_S)
    world.note(f"before the outage: {await asyncio.to_thread(depths, world.servers.broker, world.amqp_url)}")
    for worker in world.workers:
        await world.kill_worker(worker)
    lanes = [f"{{'{world.vhost}_{topology.lane_queue(lane)}', node()}}" for lane in Lane]
    await _eval(world, [f"ra:stop_server(quorum_queues, {lane})" for lane in lanes])
    world.note("lanes are away")
    await asyncio.sleep(_SHORTEST_REST_S + 2)
    await _eval(world, [f"ra:restart_server(quorum_queues, {lane})" for lane in lanes])
    world.note(f"lanes are back: {await asyncio.to_thread(depths, world.servers.broker, world.amqp_url)}")
    await asyncio.to_thread(world.sink.start)
    for worker in world.workers:
        worker.start()


async def _eval(world: World, expressions: Sequence[str]) -> None:
    await asyncio.to_thread(world.servers.broker.ctl, "eval", ", ".join(expressions) + ".")


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait until something holds, or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not await asyncio.to_thread(holds):
        await asyncio.sleep(_MOMENT_S)


async def _revive(world: World) -> None:
    """A worker may end over a full disk, saying so; whoever runs it starts it again."""
    for worker in world.workers:
        if not worker.alive():
            world.note(f"{worker.name} had ended")
            worker.start()
        await asyncio.to_thread(worker.wait_ready, _READY_S)


async def _order(world: World, **orders: object) -> None:
    await asyncio.to_thread(lambda: world.sink.order(**orders))


async def _moment(world: World) -> None:
    await asyncio.sleep(world.rng.uniform(0, _MOMENT_S))
