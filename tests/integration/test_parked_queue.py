"""Parked events over both shelves, by one table, and over RabbitMQ: unrouted, many, large, killed."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from pika.spec import Basic

from tests.support.events import body_of, make_event
from tests.support.process import run_postbote
from worker.delivery.parked import ParkedFilter, ParkedShelf
from worker.delivery.ports import Incoming, Lane, Park
from worker.delivery.progress import Progress
from worker.delivery.replaying import Pick, carry_out, dropping, look, replaying
from worker.embedded.parked import SqliteParked
from worker.embedded.queue import SqliteQueue
from worker.errors import TopologyMismatch
from worker.rabbit import topology
from worker.rabbit.connection import open_link
from worker.rabbit.declaring import declare
from worker.rabbit.parked import open_parked_queue
from worker.rabbit.parking import parked_headers
from worker.rabbit.publisher import open_publisher

STRUCTURED = "application/cloudevents+json"
NOW = datetime.now(UTC)
SEEN = Progress(attempt=3, charged=2, pending=("b@x.test",), doubtful=("b@x.test",), first_seen=NOW)


@dataclass
class Site:
    """One kind of shelf: how events get there, how it is opened, and what stands in the lanes."""

    park: Callable[..., Any]
    open: Callable[[], contextlib.AbstractAsyncContextManager[ParkedShelf]]
    waiting: Callable[[], Any]


async def declared(url: str) -> None:
    link = await open_link(url, "declare")
    await declare(link)
    await link.close()


async def publish_parked(url: str, messages: list[tuple[bytes, Park]], lane: Lane = Lane.BULK) -> None:
    async with open_publisher(url) as publisher, asyncio.TaskGroup() as group:
        for body, park in messages:
            headers = parked_headers(Incoming(body, STRUCTURED, {"traceparent": "t"}, lane), park)
            group.create_task(
                publisher.publish("", topology.PARKED_QUEUE, body, content_type=STRUCTURED, headers=headers)
            )


async def taken_from(url: str, queue: str) -> list[tuple[bytes, str | None, dict[str, Any]]]:
    """Take everything out of a queue, and leave it there."""
    link, found = await open_link(url, "look"), []
    while True:
        got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        link.channel.add_callback(lambda _, got=got: got.done() or got.set_result(None), [Basic.GetEmpty])
        link.channel.basic_get(queue, lambda _c, _m, p, b, got=got: got.set_result((b, p.content_type, p.headers)))
        message = await got
        if message is None:
            await link.close()
            return found
        body, content_type, headers = message
        # The broker's own count comes with every delivery.
        found.append((body, content_type, {n: v for n, v in headers.items() if n != "x-delivery-count"}))


@pytest.fixture
async def rabbit_site(amqp_url: str) -> Site:
    await declared(amqp_url)

    async def waiting() -> list[tuple[bytes, str | None, dict[str, Any]]]:
        return [m for lane in Lane for m in await taken_from(amqp_url, topology.lane_queue(lane))]

    return Site(lambda messages: publish_parked(amqp_url, messages), lambda: open_parked_queue(amqp_url), waiting)


@pytest.fixture
async def embedded_site(tmp_path) -> Site:
    path = tmp_path / "queue.db"

    @contextlib.asynccontextmanager
    async def queue() -> AsyncIterator[SqliteQueue]:
        opened = await SqliteQueue(path).open()
        yield opened
        await opened.close()

    async def park(messages: list[tuple[bytes, Park]]) -> None:
        left, stop = [park for _, park in messages], asyncio.Event()

        async def handler(_: Incoming) -> Park:
            if len(left) == 1:
                stop.set()
            return left.pop(0)

        async with queue() as opened:
            for body, _ in messages:
                await opened.publish(body, content_type=STRUCTURED, headers={"traceparent": "t"}, lane=Lane.BULK)
            await opened.run(handler, prefetch=1, stop=stop)

    @contextlib.asynccontextmanager
    async def shelf() -> AsyncIterator[ParkedShelf]:
        async with queue() as opened:
            yield SqliteParked(opened)

    async def waiting() -> list[tuple[bytes, str | None, dict[str, Any]]]:
        import sqlite3

        with sqlite3.connect(path) as db:
            found = db.execute("SELECT body, content_type, headers FROM messages ORDER BY id").fetchall()
        return [(body, kind, json.loads(headers)) for body, kind, headers in found]

    return Site(park, shelf, waiting)


@pytest.fixture(params=["embedded", "rabbitmq"])
def site(request: pytest.FixtureRequest) -> Site:
    return request.getfixturevalue("embedded_site" if request.param == "embedded" else "rabbit_site")


def event(number: int, **data: Any) -> bytes:
    return body_of(make_event("a@x.test", "b@x.test", id=f"e{number}", **data))


def pick(*ids: str, **options: Any) -> Pick:
    return Pick(ParkedFilter(ids=frozenset(ids)), NOW, **options)


async def listed(site: Site, wanted: Pick | None = None) -> list[str]:
    async with site.open() as shelf:
        return sorted([p.event.id async for p in look(shelf, wanted or pick())])


FIVE = [(event(n), Park("exhausted", "why", ("b@x.test",), SEEN.headers())) for n in range(5)]


async def test_looking_changes_nothing_however_often(site: Site) -> None:
    await site.park(FIVE)
    for _ in range(3):
        assert await listed(site) == ["e0", "e1", "e2", "e3", "e4"]
    assert await listed(site, pick("e3", "nobody")) == ["e3"]
    assert len(await listed(site, pick(limit=2))) == 2
    assert await site.waiting() == []


async def test_what_is_known_of_a_parked_event_is_what_was_parked(site: Site) -> None:
    await site.park(FIVE[:1])
    async with site.open() as shelf:
        [found] = [p async for p in look(shelf, pick())]
    told = found.event
    assert (told.id, told.source, told.type, str(told.scope)) == ("e0", "/tests", "email.requested.v1", "controller")
    assert (told.reason, told.detail, told.lane, told.attempts) == ("exhausted", "why", Lane.BULK, 3)
    assert (told.pending, told.doubtful, told.first_seen) == (("b@x.test",), ("b@x.test",), NOW)


async def test_a_replay_keeps_the_body_and_the_progress_and_removes_the_parked_copy(site: Site) -> None:
    await site.park(FIVE)
    async with site.open() as shelf:
        reported: list[Any] = []
        tally = await carry_out(shelf, pick("e1"), replaying(shelf, NOW, Lane.TRANSACTIONAL), reported.append)
    assert (tally.done, tally.failure, [e.id for e in reported]) == (1, None, ["e1"])
    expected = Progress(attempt=3, pending=("b@x.test",), doubtful=("b@x.test",), first_seen=NOW).headers()
    assert await site.waiting() == [(FIVE[1][0], STRUCTURED, {"traceparent": "t", **expected})]
    assert await listed(site) == ["e0", "e2", "e3", "e4"]


async def test_a_drop_removes_what_is_picked_and_nothing_else(site: Site) -> None:
    await site.park(FIVE)
    async with site.open() as shelf:
        tally = await carry_out(shelf, pick("e0", "e4"), dropping(shelf), lambda _: None)
    assert (tally.done, await listed(site), await site.waiting()) == (2, ["e1", "e2", "e3"], [])


async def test_what_is_held_when_the_work_breaks_off_is_parked_as_before(site: Site) -> None:
    await site.park(FIVE)

    async def break_off() -> None:
        async with site.open() as shelf:
            async for _ in look(shelf, pick()):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await break_off()
    assert await listed(site) == ["e0", "e1", "e2", "e3", "e4"]


async def test_two_operators_at_once_replay_every_event_exactly_once(site: Site) -> None:
    await site.park([(event(n), Park("exhausted", "")) for n in range(60)])

    async def operator() -> int:
        async with site.open() as shelf:
            return (await carry_out(shelf, pick(), replaying(shelf, NOW, Lane.BULK), lambda _: None)).done

    done = await asyncio.gather(operator(), operator())
    bodies = [json.loads(body)["id"] for body, _, _ in await site.waiting()]
    assert sorted(bodies) == sorted(f"e{n}" for n in range(60))
    assert (sum(done), await listed(site)) == (60, [])


async def test_an_event_that_is_parked_again_at_once_is_not_met_twice_in_one_replay(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.delivery.replaying.MAX_AT_ONCE", 1)  # so that it is parked before the next look
    await site.park(FIVE[:2])
    async with site.open() as shelf:
        act = replaying(shelf, NOW, Lane.BULK)

        async def replay_and_fail_again(picked: Any) -> bool:
            done = await act(picked)
            await site.park([(picked.held.message.body, Park("exhausted", ""))])
            return done

        tally = await carry_out(shelf, pick(), replay_and_fail_again, lambda _: None)
    assert tally.done == 2


async def test_an_unrouted_event_is_parked_with_its_key_and_goes_to_the_lane_that_the_operator_names(
    rabbit_site: Site, amqp_url: str
) -> None:
    async with open_publisher(amqp_url) as publisher:
        await publisher.publish(topology.EVENTS_EXCHANGE, "odd.key", event(1), content_type=STRUCTURED, headers={})
    async with rabbit_site.open() as shelf:
        [found] = [p.event async for p in look(shelf, pick())]
        assert (found.reason, found.lane, found.pending) == ("unrouted", None, ())
        assert "'odd.key'" in found.detail
        await shelf.give_back()
        await carry_out(shelf, pick(), replaying(shelf, NOW, Lane.BULK), lambda _: None)
    [(body, _, _)] = await taken_from(amqp_url, topology.lane_queue(Lane.BULK))
    assert body == event_of(found.id, body)


def event_of(event_id: str, body: bytes) -> bytes:
    assert json.loads(body)["id"] == event_id
    return body


async def test_an_event_that_a_lane_gave_up_says_which_and_why(rabbit_site: Site, amqp_url: str) -> None:
    async with open_publisher(amqp_url) as publisher:
        queue = topology.lane_queue(Lane.TRANSACTIONAL)
        await publisher.publish("", queue, event(1), content_type=STRUCTURED, headers={"traceparent": "t"})
    link = await open_link(amqp_url, "a worker that dies of it")
    tired = asyncio.Event()
    deliveries = 0

    def refuse(_channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        nonlocal deliveries
        deliveries += 1
        link.channel.basic_reject(method.delivery_tag, requeue=True)  # since RabbitMQ 4.3 a nack does not count
        if deliveries > topology.DELIVERY_LIMIT:
            tired.set()

    await link.call(link.channel.basic_consume, queue, refuse)
    async with asyncio.timeout(20), rabbit_site.open() as shelf:
        await tired.wait()
        while not await shelf.count():  # a broker announces no arrival to one who only looks
            await asyncio.sleep(0.02)
        [found] = [p.event async for p in look(shelf, pick())]
    await link.close()
    assert (found.reason, found.lane) == ("delivery_limit", Lane.TRANSACTIONAL)
    assert "postbote.lane.transactional" in found.detail


async def test_a_replay_that_the_lane_refuses_stays_parked_and_says_so(rabbit_site: Site, amqp_url: str) -> None:
    await rabbit_site.park(FIVE)
    link = await open_link(amqp_url, "delete")
    await link.call(link.channel.queue_delete, topology.lane_queue(Lane.BULK))
    await link.close()
    async with rabbit_site.open() as shelf:
        tally = await carry_out(shelf, pick(), replaying(shelf, NOW, Lane.BULK), lambda _: None)
    assert (tally.done, tally.failure) == (0, "no queue took it")
    assert await listed(rabbit_site) == ["e0", "e1", "e2", "e3", "e4"]


async def test_a_broker_that_no_worker_has_seen_is_told_apart_from_an_empty_one(amqp_url: str) -> None:
    with pytest.raises(TopologyMismatch, match="no queue"):
        async with open_parked_queue(amqp_url) as shelf:
            await shelf.count()


KILLED = """
import asyncio, os, sys
from datetime import UTC, datetime
from worker.delivery.parked import EVERYTHING
from worker.delivery.ports import Lane
from worker.delivery.replaying import Pick, carry_out, replaying
from worker.rabbit.parked import RabbitParked, open_parked_queue
RabbitParked._settle = lambda self, tag: os.kill(os.getpid(), 9)  # the confirm has come, the ack has not gone
async def main():
    async with open_parked_queue(sys.argv[1]) as shelf:
        await carry_out(shelf, Pick(EVERYTHING, datetime.now(UTC), 1), replaying(shelf, datetime.now(UTC), Lane.BULK), print)
asyncio.run(main())
"""


async def test_killed_between_publish_and_ack_an_event_is_in_its_lane_and_parked_and_nothing_is_lost(
    rabbit_site: Site, amqp_url: str
) -> None:
    await rabbit_site.park(FIVE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, amqp_url], env=environment, check=False
    )
    assert killed.returncode == -9
    deadline = time.monotonic() + 20
    while len(ids := await listed(rabbit_site)) < 5:  # the broker notices by and by that the connection has ended
        assert time.monotonic() < deadline
    assert ids == ["e0", "e1", "e2", "e3", "e4"]
    [(in_lane, _, _)] = await taken_from(amqp_url, topology.lane_queue(Lane.BULK))
    assert in_lane in [body for body, _ in FIVE]


# VmHWM and not the rusage of the child: that begins with what its parent, these tests, had in memory.
MEASURED = """
import atexit, sys
from worker.cli import main
def tell():
    sys.stderr.write([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
atexit.register(tell)
main()
"""


def measured(*arguments: str, url: str) -> tuple[int, float, list[str]]:
    """Run a command: its peak of memory in KiB, its seconds, what it printed."""
    environment = {**os.environ, "POSTBOTE_AMQP_URL": url, "POSTBOTE_LOG_LEVEL": "warning"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stderr.splitlines()[-1].split()[1]), time.monotonic() - began, done.stdout.splitlines()


@pytest.mark.alone
async def test_a_thousand_parked_events_are_listed_and_replayed_in_bounded_memory_and_time(
    rabbit_site: Site, amqp_url: str
) -> None:
    text = "x" * 100_000
    await rabbit_site.park([(event(0), Park("invalid", ""))])
    few, _, _ = await asyncio.to_thread(measured, "parked", "list", "--json", url=amqp_url)
    for start in range(1, 1000, 111):
        batch = [(event(n, text=text), Park("exhausted", "")) for n in range(start, start + 111)]
        await rabbit_site.park(batch)
    command = ("parked", "list", "--json", "--limit", "2000")
    many, list_s, lines = await asyncio.to_thread(measured, *command, url=amqp_url)
    assert len({json.loads(line)["id"] for line in lines}) == 1000
    replaying_kib, replay_s, lines = await asyncio.to_thread(
        measured, "parked", "replay", "--all", "--yes", url=amqp_url
    )
    print(f"list {many - few} KiB more, {list_s:.1f} s; replay {replaying_kib - few} KiB more, {replay_s:.1f} s")
    assert len(lines) == 1000
    assert (many - few) < 20_000  # the bodies are 100 MB
    assert (replaying_kib - few) < 40_000
    assert (list_s, replay_s) < (60, 60)


async def test_the_command_lists_shows_replays_and_drops_on_the_broker(rabbit_site: Site, amqp_url: str) -> None:
    await rabbit_site.park([*FIVE[:3], (b"{broken", Park("invalid", "body: is not valid JSON"))])

    def run(*arguments: str) -> tuple[int, str, str]:
        env = {"POSTBOTE_AMQP_URL": amqp_url, "POSTBOTE_LOG_FORMAT": "json", "POSTBOTE_LOG_LEVEL": "warning"}
        done = run_postbote("parked", *arguments, env=env)
        return done.returncode, done.stdout, done.stderr

    code, out, err = await asyncio.to_thread(run, "list", "--json")
    ids = [json.loads(line)["id"] for line in out.splitlines()]
    assert (code, sorted(ids)[:3], len(ids)) == (0, ["e0", "e1", "e2"], 4), err
    broken = next(i for i in ids if i.startswith("sha256:"))
    code, out, err = await asyncio.to_thread(run, "show", broken)
    assert (code, "{broken" in out) == (0, True), err
    assert await asyncio.to_thread(run, "replay", "e1") == (
        0,
        "replayed: e1 of /tests for controller (exhausted)\n",
        "replayed 1 parked event\n",
    )
    code, _, err = await asyncio.to_thread(run, "drop", "--reason", "exhausted", broken, "--yes")
    assert (code, "nothing matches" in err) == (1, True)
    assert (await asyncio.to_thread(run, "drop", "--reason", "exhausted", "--yes"))[0] == 0
    assert await listed(rabbit_site) == [broken]
    assert len(await rabbit_site.waiting()) == 1
