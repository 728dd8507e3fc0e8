"""The embedded queue keeps the broker's contract: durable, settled once, two lanes, one consumer."""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.delivery.ports import Ack, Lane, Later, Park, Return, Tier
from worker.delivery.progress import Progress
from worker.embedded.queue import MAX_FAILURES, LaneOrder, SqliteQueue
from worker.embedded.queue_file import DELIVERY_LIMIT, QueueFile
from worker.errors import BrokerUnavailable, PublishRefused

NOTHING = {"transactional": 0, "bulk": 0, "taken": 0, "resting": 0, "parked": 0}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "queue.db"


@pytest.fixture
async def queue(path):
    queue = SqliteQueue(path, failure_pause_s=0.0)
    yield queue
    await queue.close()


async def publish(queue, *bodies, lane=Lane.TRANSACTIONAL, headers=None):
    for body in bodies:
        await queue.publish(body, content_type="application/json", headers=headers or {}, lane=lane)


@contextlib.asynccontextmanager
async def consuming(queue, handler, prefetch=10):
    stop = asyncio.Event()
    task = asyncio.create_task(queue.run(handler, prefetch=prefetch, stop=stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 30)


async def settle_all(queue, handler, prefetch=10):
    async with asyncio.timeout(30), consuming(queue, handler, prefetch) as task:
        idle = asyncio.create_task(queue.idle())
        await asyncio.wait({idle, task}, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
    await task


def answering(*settlements):
    """A handler that answers in turn and remembers what it was given."""
    left, seen = list(settlements), []

    async def handler(incoming):
        seen.append(incoming)
        settlement = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(settlement, Exception):
            raise settlement
        return settlement

    handler.seen = seen
    return handler


async def test_a_published_message_arrives_as_it_was_and_is_gone_once_acked(queue):
    await publish(queue, b"\x00body", headers={"traceparent": "x", "n": 1})
    assert await queue.counts() == {**NOTHING, "transactional": 1}
    handler = answering(Ack())
    await settle_all(queue, handler)
    (got,) = handler.seen
    assert (got.body, got.content_type, got.headers) == (b"\x00body", "application/json", {"traceparent": "x", "n": 1})
    assert (got.lane, got.redelivered) == (Lane.TRANSACTIONAL, False)
    assert await queue.counts() == NOTHING


async def test_a_message_is_on_the_disk_when_publish_returns(queue, path):
    await publish(queue, b"kept")
    other = await SqliteQueue(path).open()
    assert await other.counts() == {**NOTHING, "transactional": 1}
    await other.close()
    assert oct(path.stat().st_mode)[-3:] == "600"


async def test_a_parked_message_keeps_its_words_and_its_reason(queue):
    before = datetime.now(UTC)
    await publish(queue, b"odd", lane=Lane.BULK, headers={"a": "b"})
    await settle_all(queue, answering(Park("invalid", "no recipients", ("a@x.test",))))
    (row,) = await queue.parked(10)
    parked = row.message
    assert (parked.body, parked.lane, parked.headers) == (b"odd", Lane.BULK, {"a": "b"})
    assert (parked.reason, parked.detail, parked.pending) == ("invalid", "no recipients", ("a@x.test",))
    assert before <= parked.first_seen <= row.parked_at <= before + timedelta(seconds=5)
    assert await queue.counts() == {**NOTHING, "parked": 1}


async def test_parked_messages_are_listed_newest_first_up_to_the_limit(queue):
    await publish(queue, b"1", b"2", b"3")
    await settle_all(queue, answering(Park("invalid", "")), prefetch=1)
    assert [row.message.body for row in await queue.parked(2)] == [b"3", b"2"]


OLD = {"x-postbote-attempt": 1, "x-postbote-pending": ["a@x.test"], "x-death": [{"count": 1}], "traceparent": "t"}
NEW = Progress(attempt=3, pending=("b@x.test",)).headers()


@pytest.mark.parametrize("settlement", [Return(NEW), Later(Tier.TEN_SECONDS, 0.05, NEW)], ids=["returned", "rested"])
async def test_what_comes_again_carries_its_new_progress_and_counts_as_delivered_for_the_first_time(queue, settlement):
    await publish(queue, b"x", lane=Lane.BULK, headers=OLD)
    handler = answering(settlement, Ack())
    await settle_all(queue, handler)
    again = handler.seen[1]
    assert again.headers == {"traceparent": "t", **NEW}
    assert (again.body, again.content_type, again.lane, again.redelivered) == (
        b"x",
        "application/json",
        Lane.BULK,
        False,
    )
    assert await queue.counts() == NOTHING


async def test_a_parked_message_carries_the_progress_that_it_was_parked_with(queue):
    await publish(queue, b"x", headers=OLD)
    await settle_all(queue, answering(Park("in_doubt", "", ("b@x.test",), NEW)))
    assert (await queue.parked(1))[0].message.headers == {"traceparent": "t", **NEW}


async def test_a_message_that_is_parked_without_progress_keeps_what_it_has(queue):
    await publish(queue, b"x", headers={"traceparent": "t", **NEW})
    await settle_all(queue, answering(Park("invalid", "")))
    assert (await queue.parked(1))[0].message.headers == {"traceparent": "t", **NEW}


async def test_a_returned_message_stands_behind_those_that_wait(queue):
    await publish(queue, b"1", b"2")
    handler = answering(Return(), Ack())
    await settle_all(queue, handler, prefetch=1)
    assert [i.body for i in handler.seen] == [b"1", b"2", b"1"]


async def test_a_message_rests_as_long_as_it_is_told_to_and_one_timer_ends_the_rest(queue, monkeypatch):
    monkeypatch.setattr("worker.embedded.queue._POLL_S", 60.0)  # so that only the timer can end it
    await publish(queue, b"long", b"short")
    waits, came, over = {b"long": [7000.0], b"short": [0.1, 0.3]}, [], asyncio.Event()

    async def handler(incoming):
        came.append((incoming.body, asyncio.get_running_loop().time() - began))
        if waits[incoming.body]:
            return Later(Tier.TWO_HOURS, waits[incoming.body].pop(0))  # the tier is the broker's: nobody waits by it
        over.set()
        return Ack()

    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(30), consuming(queue, handler):
        await over.wait()
    assert [body for body, _ in came[2:]] == [b"short", b"short"]
    assert (came[2][1] >= 0.1, came[3][1] >= 0.4) == (True, True), came
    assert await queue.counts() == {**NOTHING, "resting": 1}


async def test_a_queue_with_a_resting_message_is_not_idle(queue, path):
    await publish(queue, b"x")
    async with asyncio.timeout(30), consuming(queue, answering(Later(Tier.TWO_HOURS, 7000.0), Ack())):
        idle = asyncio.create_task(queue.idle())
        async with contextlib.aclosing(queue.watch()) as changes:
            async for counts in changes:
                if counts["resting"]:
                    break
        await queue.counts()  # behind the look of `idle` at the same change
        assert not idle.done()
        with sqlite3.connect(path) as another:
            another.execute("UPDATE messages SET due_at = 0")
        await idle
    assert await queue.counts() == NOTHING


async def test_a_resting_message_goes_on_resting_when_its_consumer_has_gone(queue):
    await publish(queue, b"x")
    handler, stop = answering(Later(Tier.TWO_HOURS, 7000.0)), asyncio.Event()
    run = asyncio.create_task(queue.run(handler, prefetch=1, stop=stop))
    async with contextlib.aclosing(queue.watch()) as changes:
        async for counts in changes:
            if counts["resting"]:
                break
    stop.set()
    await run
    async with consuming(queue, answering(Ack())):
        assert await queue.counts() == {**NOTHING, "resting": 1}


async def test_a_message_whose_consumers_die_without_end_is_parked_with_its_progress(path):
    path.parent.mkdir()
    file = QueueFile(path)
    file.add(Lane.BULK, b"x", None, json.dumps({"x-postbote-pending": ["a@x.test"], "x-postbote-attempt": 7}))
    for _ in range(DELIVERY_LIMIT):
        assert file.take(1, lambda _, bulk: bulk)
        file.release_all()
    (row,) = file.parked(1)
    assert (row.message.reason, row.message.pending) == ("delivery_limit", ("a@x.test",))
    assert row.message.headers["x-postbote-attempt"] == 7
    file.close()


OLD_SCHEMA = """
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL, body BLOB NOT NULL, content_type TEXT, headers TEXT NOT NULL, published_at TEXT NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0, deliveries INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0);
CREATE INDEX messages_waiting ON messages (taken, lane, id);
CREATE TABLE parked (id INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL, body BLOB NOT NULL, content_type TEXT, headers TEXT NOT NULL, first_seen TEXT NOT NULL,
    parked_at TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, pending TEXT NOT NULL);
INSERT INTO messages (lane, body, headers, published_at) VALUES ('bulk', 'waits', '{}', '2026-01-01T00:00:00+00:00');
INSERT INTO messages (lane, body, headers, published_at, taken, deliveries)
    VALUES ('bulk', 'was taken', '{}', '2026-01-01T00:00:00+00:00', 1, 1);
INSERT INTO parked (lane, body, headers, first_seen, parked_at, reason, detail, pending)
    VALUES ('bulk', 'p', '{}', '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00', 'invalid', '', '[]');
"""


async def test_a_file_of_the_version_before_resting_messages_opens_and_goes_on(queue, path):
    path.parent.mkdir()
    with sqlite3.connect(path) as old:
        old.executescript(OLD_SCHEMA)
    assert await queue.counts() == {**NOTHING, "bulk": 1, "taken": 1, "parked": 1}
    handler = answering(Later(Tier.TEN_SECONDS, 0.01), Ack())
    await settle_all(queue, handler, prefetch=1)
    assert [(i.body, i.redelivered) for i in handler.seen] == [("waits", False), ("was taken", True), ("waits", False)]
    assert (await queue.parked(1))[0].message.reason == "invalid"


async def test_a_file_of_a_newer_version_is_left_alone(queue, path):
    path.parent.mkdir()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(BrokerUnavailable, match="newer version"):
        await queue.open()


async def test_a_handler_that_raises_is_asked_five_times_and_then_the_message_is_parked(queue):
    await publish(queue, b"bad", headers={"traceparent": "t", **NEW})
    handler = answering(RuntimeError("secret"))
    await settle_all(queue, handler)
    (row,) = await queue.parked(10)
    assert len(handler.seen) == MAX_FAILURES == 5
    assert [i.redelivered for i in handler.seen] == [False, True, True, True, True]
    assert row.message.reason == "handler_error"
    assert "secret" not in row.message.detail
    assert (row.message.headers, row.message.pending) == ({"traceparent": "t", **NEW}, ("b@x.test",))


async def test_a_handler_that_raises_ends_neither_the_consumer_nor_other_messages(queue):
    await publish(queue, b"bad", b"good")
    handler = answering(RuntimeError(), Ack())
    await settle_all(queue, handler)
    assert await queue.counts() == NOTHING
    assert sorted(i.body for i in handler.seen) == [b"bad", b"bad", b"good"]


async def test_no_more_than_prefetch_are_handled_at_once_and_slots_are_used_again(queue):
    running, most, done = 0, 0, 0
    everything = asyncio.Event()

    async def handler(incoming):
        nonlocal running, most, done
        running, most = running + 1, max(most, running + 1)
        if running == 3:
            everything.set()
        await everything.wait()
        running, done = running - 1, done + 1
        return Ack()

    await publish(queue, *(b"%d" % n for n in range(9)))
    await settle_all(queue, handler, prefetch=3)
    assert (most, done) == (3, 9)


async def test_transactional_comes_first_and_bulk_gets_every_fifth_turn(queue):
    await publish(queue, *[b"b"] * 3, lane=Lane.BULK)
    await publish(queue, *[b"t"] * 12)
    handler = answering(Ack())
    await settle_all(queue, handler, prefetch=1)
    assert b"".join(i.body for i in handler.seen) == b"ttttbttttbttttb"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=8))
def test_whatever_waits_every_slot_is_used_and_each_lane_keeps_its_order(rounds):
    lanes = LaneOrder()
    for first, second, slots in rounds:
        transactional, bulk = list(range(first)), list(range(100, 100 + second))
        chosen = lanes.choose(transactional, bulk, slots)
        assert len(chosen) == min(slots, first + second)
        assert [c for c in chosen if c < 100] == transactional[: sum(c < 100 for c in chosen)]
        assert [c for c in chosen if c >= 100] == bulk[: sum(c >= 100 for c in chosen)]


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 7])
def test_while_both_lanes_wait_every_fifth_turn_is_bulk_however_the_turns_are_cut_into_rounds(slots):
    lanes = LaneOrder()
    turns = [c >= 100 for _ in range(35) for c in lanes.choose(range(10), range(100, 110), slots)]
    assert [n for n, is_bulk in enumerate(turns) if is_bulk] == list(range(4, len(turns), 5))


async def test_after_stop_nothing_is_taken_and_running_handlers_settle(queue):
    started, finish, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(incoming):
        started.set()
        await finish.wait()
        return Ack()

    await publish(queue, b"1", b"2")
    run = asyncio.create_task(queue.run(handler, prefetch=1, stop=stop))
    await started.wait()
    stop.set()
    await publish(queue, b"3")
    assert not run.done()
    finish.set()
    await asyncio.wait_for(run, 5)
    assert await queue.counts() == {**NOTHING, "transactional": 2}


async def test_stop_ends_an_idle_consumer_at_once(queue):
    async with consuming(queue, answering(Ack())):
        await queue.idle()


async def test_cancelling_the_consumer_cancels_its_handlers_and_their_messages_come_again(queue):
    started = asyncio.Event()

    async def hang(incoming):
        started.set()
        await asyncio.Event().wait()

    await publish(queue, b"x")
    run = asyncio.create_task(queue.run(hang, prefetch=1, stop=asyncio.Event()))
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert await queue.counts() == {**NOTHING, "transactional": 1}
    handler = answering(Ack())
    await settle_all(queue, handler)
    assert handler.seen[0].redelivered


async def test_a_second_consumer_of_the_same_file_is_refused(queue, path):
    second = SqliteQueue(path)
    async with consuming(queue, answering(Ack())):
        await queue.idle()
        with pytest.raises(BrokerUnavailable, match="another process consumes"):
            await second.run(answering(Ack()), prefetch=1, stop=asyncio.Event())
    await second.close()


async def test_what_a_consumer_was_handling_when_it_was_killed_is_delivered_again(queue, path):
    await publish(queue, b"first", b"second")
    killed = run_python(
        """
        async def die(incoming):
            os.kill(os.getpid(), 9)
        await queue.run(die, prefetch=1, stop=asyncio.Event())
        """,
        path,
    )
    assert killed == -9
    assert await queue.counts() == {**NOTHING, "transactional": 1, "taken": 1}
    handler = answering(Ack())
    await settle_all(queue, handler)
    assert {i.body: i.redelivered for i in handler.seen} == {b"first": True, b"second": False}


async def test_a_message_of_another_process_wakes_an_idle_consumer(queue, path):
    arrived = asyncio.Event()

    async def handler(incoming):
        arrived.set()
        return Ack()

    async with asyncio.timeout(10), consuming(queue, handler):
        await queue.idle()
        await asyncio.to_thread(
            run_python, "await queue.publish(b'x', content_type='a/b', headers={}, lane=Lane.BULK)", path
        )
        await arrived.wait()


def run_python(body, path):
    code = "import asyncio, os, sys, pathlib\nfrom worker.embedded.queue import *\nasync def main():\n"
    code += "    queue = SqliteQueue(pathlib.Path(sys.argv[1]))\n" + textwrap.indent(textwrap.dedent(body), "    ")
    code += "\n    await queue.close()\nasyncio.run(main())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code, path], env=environment, check=False).returncode


async def test_a_settlement_that_cannot_be_stored_ends_the_consumer_with_the_error_itself(queue, monkeypatch):
    def fail(self, message_id):
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(QueueFile, "delete", fail)
    await publish(queue, b"x")
    with pytest.raises(BrokerUnavailable, match="disk full"):
        await asyncio.wait_for(queue.run(answering(Ack()), prefetch=1, stop=asyncio.Event()), 5)
    assert await queue.counts() == {**NOTHING, "transactional": 1}


async def test_headers_that_are_not_json_are_refused_at_publish(queue):
    with pytest.raises(PublishRefused, match="headers"):
        await publish(queue, b"x", headers={"a": object()})


@pytest.mark.parametrize("broken", ["a folder", "not a database"])
async def test_a_file_that_cannot_be_used_is_one_readable_error(path, broken):
    path.parent.mkdir()
    path.mkdir() if broken == "a folder" else path.write_bytes(b"x" * 5000)
    queue = SqliteQueue(path)
    with pytest.raises(BrokerUnavailable, match=r"queue\.db"):
        await queue.open()
    with pytest.raises(BrokerUnavailable, match=r"queue\.db"):
        await queue.run(answering(Ack()), prefetch=1, stop=asyncio.Event())
    await queue.close()
