"""The outbox over a real RabbitMQ and a real OpenSearch, each stopped, killed and brought back."""

import asyncio
import json
import sys
import time
import urllib.request
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.audit import Outcome
from schemas.audit_query import AuditQuery
from tests.integration.audit.conftest import refresh
from tests.integration.audit.shipping import WRITTEN
from tests.support.chains import faults_of, lengths_of
from tests.unit.audit.audit_samples import audit_record
from worker.audit.entries import Ticket, entry_of
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.outbox import DurableAudit, OutboxTimes
from worker.audit.outbox_messages import pack
from worker.audit.search import OpenSearchSearch
from worker.delivery.trail import Trail
from worker.errors import AuditUnavailable, BrokerUnavailable
from worker.journal.journal import Journal
from worker.proof.chain import Chain
from worker.proof.sealed import SealedAudit
from worker.rabbit import topology
from worker.rabbit.connection import open_link
from worker.rabbit.outbox_queue import PREFETCH, RabbitOutbox
from worker.rabbit.publisher import Publisher

ROOT = Path(__file__).resolve().parents[2]
TIMES = OutboxTimes(measure_s=0.2, empty_s=0.5)


@pytest.fixture
async def outbox(amqp_url):
    """The queue, declared, and a connected way to it."""
    link = await open_link(amqp_url, "test")
    declared = next(queue for queue in topology.QUEUES if queue.name == topology.AUDIT_OUTBOX_QUEUE)
    await link.call(link.channel.queue_declare, declared.name, durable=True, arguments=declared.arguments)
    await link.close()
    publisher = await Publisher(amqp_url).start()
    queue = RabbitOutbox(amqp_url, publisher, name="test outbox")
    yield queue
    await queue.close()
    await publisher.close()


@pytest.fixture
async def audit(outbox, opensearch, index_prefix):
    async with running(opensearch.url, index_prefix, outbox) as opened:
        yield opened


@asynccontextmanager
async def running(url, index_prefix, queue):
    audit = DurableAudit(OpenSearchAudit(url, index_prefix=index_prefix), queue, TIMES)
    audit.start()
    try:
        yield audit
    finally:
        await audit.close(1.0)


@pytest.fixture
async def numbers(opensearch, index_prefix):
    """Reads which records there are; fails where one is there twice or suspected."""
    search = OpenSearchSearch(opensearch.url, index_prefix=index_prefix)

    async def read():
        refresh(opensearch, index_prefix)
        found = []
        for offset in range(0, 10_000, 1000):
            page = await search.search(AuditQuery(limit=1000, offset=offset))
            found += page.records
            if len(found) >= page.total:
                break
        assert not [record for record in found if record["possible_duplicate"]]
        counted = [int(record["event_id"].removeprefix("event-")) for record in found]
        assert len(counted) == len(set(counted))
        return set(counted)

    yield read
    await search.close()


async def until(condition, seconds=60.0):
    """Wait for what only asking tells."""
    deadline = time.monotonic() + seconds
    while True:
        met = condition()
        if asyncio.iscoroutine(met):
            met = await met
        if met:
            return
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.05)


async def holds(outbox, count):
    """A quorum queue counts what it was answered a moment later."""
    return await outbox.depth() == count


def writing(audit, numbers):
    return {asyncio.create_task(audit.write([audit_record(n)])) for n in numbers}


def messages(numbers):
    loop = asyncio.get_running_loop()
    return list(pack([entry_of(audit_record(n), "any", Ticket(1, loop.create_future())) for n in numbers]))


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_writers_go_on_while_opensearch_is_away_and_each_record_arrives_once(
    audit, outbox, opensearch, numbers, how
):
    await audit.write([audit_record(0)])
    tasks = writing(audit, range(1, 50))
    await asyncio.to_thread(opensearch.stop if how == "stopped" else opensearch.pause)
    async with asyncio.timeout(60):  # OpenSearch is away for longer: who waited for it would wait for ever
        await asyncio.gather(*tasks, *writing(audit, range(50, 500)))
    for start in range(500, 800, 100):
        await asyncio.gather(*writing(audit, range(start, start + 100)))
    await until(lambda: audit.missing() is not None and audit.depth)
    assert not audit.complete
    await asyncio.to_thread(opensearch.start if how == "stopped" else opensearch.resume)
    back = time.monotonic()
    await until(lambda: audit.complete and audit.missing() is None)
    assert time.monotonic() - back < 30.0
    await until(lambda: holds(outbox, 0))
    assert await numbers() == set(range(800))


async def test_a_chain_goes_through_the_outbox_and_another_worker_ships_it_whole(
    outbox, opensearch, index_prefix, tmp_path
):
    journal = Journal(tmp_path, worker_id="w1")
    await journal.open()
    refused = [audit_record(n, outcome=Outcome.REFUSED) for n in range(100)]
    accepted = [audit_record(n) for n in range(100, 300)]
    async with running("http://127.0.0.1:1", index_prefix, outbox) as away:
        trail = Trail(journal, away, Chain("w1/0"))
        await asyncio.gather(*(trail.write([each]) for each in (*refused, *accepted)))
        await trail.write_head(datetime.now(UTC))
    await journal.close()
    other = OpenSearchAudit(opensearch.url, index_prefix=index_prefix)
    theirs = [audit_record(n, outcome=Outcome.REFUSED, worker_id="w2") for n in range(0, 100, 10)]
    sealed = SealedAudit(other, Chain("w2/0"))
    await sealed.write([*theirs, *(audit_record(n, worker_id="w2") for n in range(100, 110))])
    await sealed.close()
    await other.close()
    async with running(opensearch.url, index_prefix, outbox) as audit:
        await until(lambda: audit.complete)
    refresh(opensearch, index_prefix)
    records, proofs = (documents_in(opensearch, f"{index_prefix}-{part}") for part in ("2025.11", "proof"))
    assert faults_of(records, proofs) == []
    assert lengths_of(records, proofs) == {"w1/0": 300, "w2/0": 20}
    assert len([each for each in proofs if each["kind"] == "void"]) == 10
    assert len([each for each in records if each["possible_duplicate"]]) == 10
    assert len(list(tmp_path.iterdir())) == 0, "the journal had nothing left"


def documents_in(opensearch, index):
    url = f"{opensearch.url}/{index}/_refresh", f"{opensearch.url}/{index}/_search?size=5000"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(url[0], method="POST"), timeout=30).close()
    with opener.open(url[1], timeout=30) as answer:
        return [hit["_source"] for hit in json.load(answer)["hits"]["hits"]]


async def test_writers_go_on_where_opensearch_is_away_from_the_beginning(outbox, opensearch, index_prefix, numbers):
    await asyncio.to_thread(opensearch.stop)
    async with running(opensearch.url, index_prefix, outbox) as audit:
        async with asyncio.timeout(60):
            await asyncio.gather(*writing(audit, range(100)))
        await asyncio.to_thread(opensearch.start)
        await until(lambda: audit.complete)
        assert await numbers() == set(range(100))


async def test_where_both_are_away_writers_wait_and_go_on_with_the_first_that_returns(
    audit, outbox, opensearch, rabbitmq, numbers
):
    await audit.write([audit_record(0)])
    await asyncio.gather(asyncio.to_thread(opensearch.stop), asyncio.to_thread(rabbitmq.stop))
    tasks = writing(audit, range(1, 100))
    done, _ = await asyncio.wait(tasks, timeout=2.0)
    assert not done
    await asyncio.to_thread(rabbitmq.start)
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks)
    await asyncio.to_thread(opensearch.start)
    await until(lambda: audit.complete)
    assert await numbers() == set(range(100))


async def test_a_restart_of_the_broker_in_the_middle_of_shipping_loses_and_doubles_nothing(
    outbox, opensearch, index_prefix, rabbitmq, numbers
):
    await outbox.put(messages(range(6000)))
    async with running(opensearch.url, index_prefix, outbox) as audit:
        await until(lambda: fell_below(outbox, 50))
        await asyncio.to_thread(rabbitmq.restart)
        await until(lambda: audit.complete)
    assert await numbers() == set(range(6000))


async def test_killing_who_ships_in_the_middle_loses_and_doubles_nothing(
    outbox, amqp_url, opensearch, index_prefix, numbers
):
    count = 8000
    packed = messages(range(count))
    assert len(packed) > 3 * (WRITTEN + PREFETCH), "the processes that are killed cannot ship everything"
    await outbox.put(packed)
    command = [sys.executable, "-m", "tests.integration.audit.shipping", amqp_url, opensearch.url, index_prefix]
    shipped = [0]
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(120):
            assert await process.stdout.readline() == b"middle\n"
        process.kill()
        await process.wait()
        shipped.append(await found(opensearch, index_prefix))
        assert shipped[-2] < shipped[-1] < count, "killed in the middle"
    async with running(opensearch.url, index_prefix, outbox) as audit:
        await until(lambda: audit.complete)
    assert await numbers() == set(range(count))


async def fell_below(outbox, before):
    depth = await outbox.depth()
    return depth < before or depth == 0


async def test_several_workers_share_the_shipping(outbox, amqp_url, opensearch, index_prefix, numbers):
    await outbox.put(messages(range(3000)))
    publisher = await Publisher(amqp_url).start()
    second = RabbitOutbox(amqp_url, publisher, name="second")
    async with running(opensearch.url, index_prefix, outbox), running(opensearch.url, index_prefix, second):
        await until(lambda: there(opensearch, index_prefix, 3000))
    assert await numbers() == set(range(3000))
    await second.close()
    await publisher.close()


async def there(opensearch, index_prefix, count):
    return await found(opensearch, index_prefix) == count


async def found(opensearch, index_prefix):
    refresh(opensearch, index_prefix)
    search = OpenSearchSearch(opensearch.url, index_prefix=index_prefix)
    try:
        return (await search.search(AuditQuery(limit=1))).total
    except AuditUnavailable:  # an index that is a moment old has no shard to ask yet
        return 0
    finally:
        await search.close()


class TestTheQueue:
    async def test_what_is_in_hand_goes_back_when_told_to_stop_and_comes_again(self, outbox):
        await outbox.put([b"%d" % n for n in range(20)])
        stop, taken = asyncio.Event(), []

        async def hold(body):
            taken.append(body)
            await asyncio.Event().wait()

        shipping = asyncio.create_task(outbox.ship(hold, stop))
        await until(lambda: len(taken) == 5)
        await until(lambda: holds(outbox, 15))
        stop.set()
        await shipping
        await until(lambda: holds(outbox, 20))
        assert sorted(await self._drain(outbox, 20)) == sorted(b"%d" % n for n in range(20))

    async def test_what_is_in_hand_goes_back_when_the_shipping_is_cancelled(self, outbox):
        await outbox.put([b"a", b"b"])
        taken = asyncio.Event()

        async def hold(_body):
            taken.set()
            await asyncio.Event().wait()

        shipping = asyncio.create_task(outbox.ship(hold, asyncio.Event()))
        await taken.wait()
        shipping.cancel()
        await asyncio.gather(shipping, return_exceptions=True)
        await until(lambda: holds(outbox, 2))

    async def test_a_message_whose_writing_surprises_comes_again(self, outbox, monkeypatch):
        monkeypatch.setattr("worker.rabbit.outbox_queue._SURPRISE_PAUSE_S", 0.01)
        await outbox.put([b"once more"])
        stop, taken = asyncio.Event(), []

        async def surprise(body):
            taken.append(body)
            if len(taken) == 1:
                raise ZeroDivisionError
            stop.set()

        await outbox.ship(surprise, stop)
        assert taken == [b"once more"] * 2

    async def test_a_queue_that_is_deleted_ends_the_shipping_with_an_error(self, outbox, amqp_url):
        shipping = asyncio.create_task(outbox.ship(_write_nothing, asyncio.Event()))
        await until(lambda: outbox._link is not None)
        await outbox.depth()
        link = await open_link(amqp_url, "test")
        await link.call(link.channel.queue_delete, topology.AUDIT_OUTBOX_QUEUE)
        await link.close()
        with pytest.raises(BrokerUnavailable):
            async with asyncio.timeout(10):
                await shipping
        assert await outbox.depth() is None

    async def _drain(self, outbox, count):
        stop, taken = asyncio.Event(), []

        async def take(body):
            taken.append(body)
            if len(taken) == count:
                stop.set()

        await outbox.ship(take, stop)
        return taken


async def _write_nothing(_body):
    """Take what comes."""
