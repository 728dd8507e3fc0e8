"""A cluster of three nodes, of which the leader of the lane queue is killed under load.

Quorum queues elect another leader, and what was confirmed is there; whoever was connected to the dead
node connects to another one. The nodes start once for all tests here.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from schemas.smtp_config import SmtpConfig
from tests.integration.conftest import Site
from tests.services.rabbit_cluster import Cluster, cluster
from tests.services.smtp_sink import SmtpSink
from tests.support.local_worker import LocalWorker, local_worker, mail, submit_surely, until
from worker.delivery.ports import Heard, Lane, MailEnvelope, RenderedMessage, Tier, TransactionResult
from worker.rabbit import topology
from worker.rabbit.publisher import Publisher
from worker.testing import FakeMailer, MemoryAudit

pytestmark = pytest.mark.alone

LANE = topology.lane_queue(Lane.TRANSACTIONAL)
ONE_MINUTE = topology.retry_queue(Lane.TRANSACTIONAL, Tier.ONE_MINUTE)
EVENTS, RESTING = 1000, 50
AT_ONCE = 10
LONGEST_SILENCE_S = 20.0
COUNTED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def whole(nodes: Cluster) -> Cluster:
    """All three nodes, and a virtual host of the test's own."""
    nodes.fresh_vhost()
    return nodes


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes are tried as the URL names them, so that a test knows who is connected where."""
    monkeypatch.setattr("worker.rabbit.connection._in_turn", lambda nodes: nodes)


class SlowMailer(FakeMailer):
    """Takes its time, so that much is in hand at any moment."""

    async def send(
        self, config: SmtpConfig, envelope: MailEnvelope, message: RenderedMessage, heard: Heard | None = None
    ) -> TransactionResult:
        await asyncio.sleep(0.1)
        return await super().send(config, envelope, message, heard)


async def submit_all(publisher: Publisher, recipients: list[str]) -> None:
    """Publish an event for each, some at a time, until all are confirmed."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(recipient: str) -> None:
        async with places:
            await submit_surely(publisher, mail(recipient))

    async with asyncio.TaskGroup() as group:
        for recipient in recipients:
            group.create_task(one(recipient))


async def let_rest(publisher: Publisher, recipients: list[str]) -> None:
    """Lay an event for each into the tier of a minute, for half of one, which no election lasts.

    What is due while no leader is known comes when the node is back.
    """
    content_type = "application/cloudevents+json"
    for recipient in recipients:
        await publisher.publish(
            "", ONE_MINUTE, mail(recipient), content_type=content_type, headers={}, expiration_ms=30_000
        )


def longest_silence(worker: LocalWorker, begin: float, end: float) -> float:
    """Seconds for which nothing was delivered, at most, from `begin` to `end`."""
    moments = [begin, *(at for at in worker.delivered_at if begin < at < end), end]
    return max(after - before for before, after in pairwise(moments))


def left_in(nodes: Cluster) -> dict[str, int]:
    """The queues that still hold messages; a stream keeps what was read.

    A quorum queue counts what it was answered a moment later: what seems to be left is looked at again for a while.
    """
    streams = {stream.name for stream in topology.STREAMS}
    deadline, left = time.monotonic() + COUNTED_WITHIN_S, {"not looked at": 1}
    while left and time.monotonic() < deadline:
        left = {queue: count for queue, count in nodes.counts().items() if queue not in streams}
    return left


@pytest.mark.usefixtures("in_order")
async def test_the_leader_is_killed_under_load_and_two_workers_lose_nothing_and_mail_nothing_twice(
    whole: Cluster,
) -> None:
    recipients, resting = [f"{n}@x.test" for n in range(EVENTS)], [f"r{n}@x.test" for n in range(RESTING)]
    shared: dict[str, Any] = {"prefetch": 50, "mailer": SlowMailer(), "audit": MemoryAudit()}
    async with contextlib.AsyncExitStack() as stack:
        upstream = await Publisher(whole.url(first=0)).start(declare=True)  # who declares a queue hosts its leader
        stack.push_async_callback(upstream.close)
        at_leader = await stack.enter_async_context(local_worker(whole.url(first=0), **shared))
        at_follower = await stack.enter_async_context(local_worker(whole.url(first=1), **shared))
        assert await asyncio.to_thread(whole.leader_of, LANE) is whole.members[0]
        await let_rest(upstream, resting)
        publishing = asyncio.ensure_future(submit_all(upstream, recipients))
        await until(lambda: len(at_leader.accepted()) > EVENTS // 20)
        assert not publishing.done(), "the leader is to be killed under load"
        await asyncio.to_thread(whole.members[0].kill)
        killed = time.monotonic()
        await publishing
        published = time.monotonic()
        accepted = at_leader.accepted
        await until(lambda: len(accepted()) == EVENTS + RESTING, 120)
        await until(lambda: not at_leader.consumer._tasks and not at_follower.consumer._tasks)
        drained = time.monotonic()
    silences = {
        name: longest_silence(w, killed, published) for name, w in (("leader", at_leader), ("follower", at_follower))
    }
    print(
        f"nothing delivered for {silences} s; all published {published - killed:.1f} s, all mailed {drained - killed:.1f} s after the kill"
    )
    assert max(silences.values()) < LONGEST_SILENCE_S
    assert set(accepted()) == {*recipients, *resting}
    twice = {recipient for recipient, count in at_leader.mails().items() if count > 1}
    assert twice <= {recipient for recipient, record in accepted().items() if record.possible_duplicate}
    assert await asyncio.to_thread(left_in, whole) == {}


PROCESS_EVENTS = 300


def test_a_worker_process_survives_the_death_of_the_leader(
    whole: Cluster, opensearch: Any, index_prefix: str, tmp_path: Path
) -> None:
    recipients: list[str] = []
    killed = threading.Event()
    with SmtpSink(dump=True) as sink:
        site = Site(whole.url(), opensearch.url, index_prefix, tmp_path)
        site.env_extra |= {
            "FW_EVENT_SMTP_SERVER_ADDR": "localhost",
            "FW_EVENT_SMTP_SERVER_PORT": str(sink.port),
            "FW_EVENT_SMTP_SERVER_USE_TLS": "false",
            "POSTBOTE_CONTROLLER_FROM_ADDRESS": "noreply@example.com",
        }
        with site.worker() as running:
            running.wait_for("consuming", count=2)
            reader, leader = site.reader(running), whole.leader_of(LANE)
            publishing = threading.Thread(target=publish_slowly, args=(whole.url(), recipients, killed), daemon=True)
            publishing.start()
            try:
                reader.wait_for(PROCESS_EVENTS // 5, outcome="accepted")
                assert publishing.is_alive(), "the leader is to be killed under load"
                leader.kill()
            finally:
                killed.set()
            publishing.join()
            records = reader.wait_for(len(recipients), outcome="accepted", timeout=120)
            assert running.terminate() == 0
        mails = Counter(str(message_from_bytes(dumped)["X-Rcpt-Args"]).strip("<>") for dumped in sink.dumped())
    flagged = {record["recipient"] for record in records if record["possible_duplicate"]}
    assert set(mails) == {record["recipient"] for record in records} == set(recipients)
    assert {recipient for recipient, count in mails.items() if count > 1} <= flagged
    assert left_in(whole) == {}


def publish_slowly(url: str, recipients: list[str], killed: threading.Event) -> None:
    """Publish in small groups, each until it is confirmed and then noted, until enough are out and the leader is killed."""

    async def publish() -> None:
        publisher = await Publisher(url).start()
        while len(recipients) < PROCESS_EVENTS or not killed.is_set():
            # Beyond that slowly: the audit is read in one page of a thousand.
            size = 10 if len(recipients) < PROCESS_EVENTS else 1
            group = [f"{n}@x.test" for n in range(len(recipients), len(recipients) + size)]
            await submit_all(publisher, group)
            recipients.extend(group)
            await asyncio.sleep(0.15)
        await publisher.close()

    asyncio.run(publish())
