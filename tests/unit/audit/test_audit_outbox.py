"""Records that OpenSearch leaves waiting: into the outbox, out of it, and never lost between the two."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest

from tests.unit.audit.audit_samples import (
    AWAY,
    MemoryQueue,
    ScriptedTransport,
    audit_record,
    document_of,
    ids_of,
    status_error,
    statuses,
)
from worker.audit.bulk import BulkLimits
from worker.audit.entries import Entry, Ticket, entry_of, restore
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.outbox import DurableAudit, OutboxTimes
from worker.audit.outbox_messages import UnreadableMessage, pack, poison_letter, unpack
from worker.errors import AuditUnavailable, BrokerUnavailable, PublishRefused
from worker.proof.chain import Chain

TIMES = OutboxTimes(after_s=0.1, relieve_s=0.005, probe_s=0.01, measure_s=0.01, retry_s=0.005, empty_s=0.02)
INDEX = "test-2025.11"


class Server(ScriptedTransport):
    """`away` fails every request, `frozen` answers none; `bulk` answers every bulk while it is set."""

    def __init__(self):
        super().__init__()
        self.away = False
        self.frozen = asyncio.Event()
        self.frozen.set()
        self.bulk = None

    async def perform_request(self, method, url, *args, **kwargs):
        await self.frozen.wait()
        if self.away:
            raise AWAY
        if url == "/":
            return {"version": {}}
        if url == "/_bulk" and self.bulk:
            self.steps.append(self.bulk)
        return await super().perform_request(method, url, *args, **kwargs)


@asynccontextmanager
async def durable(server, queue, *, times=TIMES, **limits):
    audit = OpenSearchAudit("http://127.0.0.1:1", index_prefix="test", limits=BulkLimits(**{"flush_ms": 1.0, **limits}))
    audit._link._transport = server
    opened = DurableAudit(audit, queue, times)
    opened.start()
    try:
        async with asyncio.timeout(60):
            yield opened
    finally:
        server.frozen.set()
        await opened.close(0.5)


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


def numbers(server):
    return sorted(int(d["event_id"].removeprefix("event-")) for d in server.documents.values())


def entry(number=0, **changes):
    return entry_of(audit_record(number, **changes), "test", Ticket(1, asyncio.get_running_loop().create_future()))


class TestMessages:
    @pytest.mark.parametrize(
        ("count", "reason_chars", "messages"),
        [(1, 0, [1]), (100, 0, [100]), (101, 0, [100, 1]), (250, 0, [100, 100, 50]), (7, 100_000, [2, 2, 2, 1])],
    )
    async def test_records_travel_in_bounded_batches_and_arrive_octet_for_octet(self, count, reason_chars, messages):
        entries = [entry(n, reason="x" * reason_chars) for n in range(count)]
        bodies = list(pack(entries))
        assert [len(unpack(body)) for body in bodies] == messages
        arrived = [document for body in bodies for document in unpack(body)]
        assert arrived == [(e.document_id, e.month, e.document) for e in entries]

    def test_heads_and_voids_travel_with_the_records_in_their_order(self):
        chain = Chain("w1/0")
        sealed = chain.seal([document_of(audit_record(n)) for n in range(2)])
        head = chain.head(datetime.now(UTC))
        entries = [Entry("any", month, id_, body, Ticket(1, None)) for id_, month, body in (*sealed, head)]
        (body,) = pack(entries)
        assert unpack(body) == [tuple(each) for each in (*sealed, head)]

    async def test_a_record_that_is_larger_than_a_message_goes_alone(self):
        entries = [entry(0), entry(1, reason="x" * 500_000), entry(2)]
        assert [len(unpack(body)) for body in pack(entries)] == [1, 1, 1]

    async def test_nothing_makes_no_message(self):
        assert list(pack([])) == []

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"not json\nat all\n",
            b'{"id":"a","month":"2025.11"}\n{"@timestamp":"x"}',
            b'{"id":"a","month":"2025.11"}\n',
            b'{"id":"a","month":"2025.11"}\n[]\n',
            b'{"id":"a","month":"2025.11"}\n{}\n',
            b'[]\n{"@timestamp":"x"}\n',
            b'{"id":"a\\"}}","month":"2025.11"}\n{"@timestamp":"x"}\n',
            b'{"id":"","month":"2025.11"}\n{"@timestamp":"x"}\n',
            b'{"id":"a","month":"*"}\n{"@timestamp":"x"}\n',
            b'{"id":"a"}\n{"@timestamp":"x"}\n',
            b"\xff\xfe\n\xff\n",
        ],
        ids=str,
    )
    def test_what_is_no_message_of_ours_is_told_from_one(self, body):
        with pytest.raises(UnreadableMessage):
            unpack(body)
        document_id, month, document = poison_letter(body, "why", datetime.now(UTC))
        letter = orjson.loads(document)
        assert (len(document_id), month) == (40, "deadletter")
        assert letter["dead_letter"]["raw"] == body.decode("utf-8", "backslashreplace")
        assert restore(letter) == letter


class TestRelieving:
    async def test_while_opensearch_answers_nothing_goes_into_the_outbox(self):
        server, queue = Server(), MemoryQueue()
        async with durable(server, queue, times=replace(TIMES, after_s=60), flush_ms=600_000, flush_docs=26) as audit:
            for start in (0, 26):
                writing = [asyncio.create_task(audit.write([audit_record(n)])) for n in range(start, start + 25)]
                await until(lambda: audit._audit.writer.waiting == 25)
                await self.looked_at(audit, aged_s=36)
                assert queue.puts == 0
                await asyncio.gather(audit.write([audit_record(start + 25)]), *writing)  # the one that fills a bulk
        assert numbers(server) == list(range(52))

    async def looked_at(self, audit, aged_s):
        """Let what waits be as old as that, and be looked at once."""
        for each in audit._audit.writer._unsettled:
            each.ticket.since -= aged_s
        audit._hurry.set()
        await until(lambda: not audit._hurry.is_set())

    @pytest.mark.parametrize("way", ["away", "frozen", "status 429", "status 503", "items 429", "items 503"])
    async def test_writers_go_on_through_the_outbox_and_all_arrives_once_opensearch_takes_records(self, way):
        server, queue = Server(), MemoryQueue()
        self.break_down(server, way)
        async with durable(server, queue) as audit:
            for start in range(0, 60, 20):
                await asyncio.gather(*(audit.write([audit_record(n)]) for n in range(start, start + 20)))
            assert server.documents == {}
            assert audit._audit.writer.waiting <= 500  # what is being shipped, and no more
            self.mend(server)
            await until(lambda: len(server.documents) == 60 and not queue.messages and audit.missing() is None)
        assert numbers(server) == list(range(60))
        assert not any(d.get("possible_duplicate") for d in server.documents.values())

    def break_down(self, server, way):
        kind, _, status = way.partition(" ")
        match kind:
            case "away":
                server.away = True
            case "frozen":
                server.frozen.clear()
            case "status":
                server.bulk = lambda *_: (_ for _ in ()).throw(status_error(int(status)))
            case "items":
                server.bulk = statuses(*[int(status)] * 500)

    def mend(self, server):
        server.away, server.bulk = False, None
        server.frozen.set()
        server.steps.clear()

    async def test_only_the_item_that_stays_busy_goes_into_the_outbox(self):
        server, queue = Server(), MemoryQueue()
        busy = audit_record(1)
        server.bulk = lambda _position, key: 429 if key[1] == busy.document_id else 201
        async with durable(server, queue) as audit:
            await audit.write([audit_record(0), busy, audit_record(2)])
            assert numbers(server) == [0, 2]
            server.bulk = None
            await until(lambda: numbers(server) == [0, 1, 2])

    async def test_documents_of_a_journal_go_the_same_way(self):
        server, queue = Server(), MemoryQueue()
        server.away = True
        record = audit_record()
        async with durable(server, queue) as audit:
            await audit.write_documents([(record.document_id, record.index_month, record.to_json())])
            server.away = False
            await until(lambda: numbers(server) == [0])

    async def test_what_is_kept_nowhere_else_does_not_wait_for_an_opensearch_that_takes_its_time(self):
        server, queue = Server(), MemoryQueue()
        server.frozen.clear()
        record = audit_record()
        async with durable(server, queue, times=replace(TIMES, after_s=3600)) as audit:
            async with asyncio.timeout(5):
                await audit.write_documents([(record.document_id, record.index_month, record.to_json())], urgent=True)
            assert queue.puts == 1
            server.frozen.set()
            await until(lambda: numbers(server) == [0])

    @pytest.mark.parametrize("error", [BrokerUnavailable("down"), PublishRefused("nack")], ids=str)
    async def test_where_neither_takes_records_writers_wait_and_the_bound_holds(self, error):
        server, queue = Server(), MemoryQueue()
        server.away, queue.refusing = True, error
        async with durable(server, queue, max_waiting=5) as audit:
            writing = [asyncio.create_task(audit.write([audit_record(n)])) for n in range(20)]
            await until(lambda: audit._outbox_refuses)
            assert not any(task.done() for task in writing)
            assert audit._audit.writer.waiting == 5
            assert str(error) in audit.missing()
            queue.refusing = None
            await asyncio.gather(*writing)
            server.away = False
            await until(lambda: len(server.documents) == 20)

    async def test_where_opensearch_comes_first_the_outbox_is_not_needed(self):
        server, queue = Server(), MemoryQueue()
        server.away, queue.refusing = True, BrokerUnavailable("down")
        async with durable(server, queue) as audit:
            writing = asyncio.create_task(audit.write([audit_record(n) for n in range(3)]))
            await until(lambda: audit._outbox_refuses)
            server.away = False
            await writing
        assert numbers(server) == [0, 1, 2]
        assert not queue.messages

    async def test_closing_puts_what_waits_into_the_outbox(self):
        server, queue = Server(), MemoryQueue()
        server.frozen.clear()
        async with durable(server, queue) as audit:
            writing = asyncio.create_task(audit.write([audit_record()]))
            await asyncio.sleep(0)
            await audit.close(20)  # returns as soon as the outbox has it
            await writing
        assert len(queue.messages) == 1

    async def test_a_dead_letter_travels_as_one(self):
        server, queue = Server(), MemoryQueue()
        letter = Entry("test", "deadletter", "a" * 40, b'{"@timestamp":"x"}', Ticket(1, asyncio.Future()))
        queue.messages.extend(pack([letter]))
        async with durable(server, queue):
            await until(lambda: list(server.documents) == [("test-deadletter", "a" * 40)])


class TestShipping:
    async def test_what_the_outbox_holds_at_the_start_is_shipped(self):
        server, queue = Server(), MemoryQueue(*pack([entry(n) for n in range(250)]))
        async with durable(server, queue) as audit:
            await until(lambda: len(server.documents) == 250 and audit.complete)

    async def test_while_opensearch_is_away_nobody_consumes_and_messages_go_back(self):
        server, queue = Server(), MemoryQueue()
        async with durable(server, queue) as audit:
            await until(lambda: queue.shipping)
            server.away = True
            writing = asyncio.create_task(audit.write([audit_record()]))
            await until(lambda: not queue.shipping)
            await writing
            assert len(queue.messages) == 1
            assert audit._audit.writer.waiting == 0
            server.away = False
            await until(lambda: numbers(server) == [0])

    async def test_what_is_shipped_is_never_put_back_by_another_way(self):
        server = Server()
        server.bulk = statuses(*[429] * 500)
        queue = MemoryQueue(*pack([entry()]))
        put = []
        queue.put = put.append
        async with durable(server, queue) as audit:
            await until(lambda: audit._audit.writer.waiting == 1)
            await asyncio.sleep(TIMES.after_s * 2)
            assert put == []
            server.bulk = None
            server.steps.clear()
            await until(lambda: numbers(server) == [0])

    async def test_what_opensearch_does_not_take_in_time_goes_back_where_it_is_counted(self):
        server = Server()
        server.bulk = statuses(*[429] * 500)
        queue = MemoryQueue(*pack([entry()]))
        async with durable(server, queue, times=replace(TIMES, ship_s=0.05)) as audit:
            await until(lambda: audit._in_hand == 1)
            await until(lambda: audit.depth == 1 and not queue.shipping)
            server.bulk = None
            server.steps.clear()
            await until(lambda: audit.complete)
        assert numbers(server) == [0]

    async def test_it_is_not_complete_while_something_is_in_hand_or_was_a_moment_ago(self):
        server, queue = Server(), MemoryQueue()
        async with durable(server, queue) as audit:
            await until(lambda: audit.complete)
            audit._in_hand += 1
            assert not audit.complete
            await asyncio.sleep(TIMES.measure_s * 5)
            audit._in_hand -= 1
            assert not audit.complete
            await until(lambda: audit.complete)

    async def test_a_message_that_cannot_be_read_becomes_a_dead_letter_and_holds_up_nothing(self):
        server, queue = Server(), MemoryQueue(b"\xffpoison", *pack([entry(1)]))
        async with durable(server, queue):
            await until(lambda: len(server.documents) == 2 and not queue.messages)
        letter = next(d for (index, _), d in server.documents.items() if index == "test-deadletter")
        assert letter["dead_letter"]["raw"] == "\\xffpoison"

    async def test_a_mistake_of_ours_does_not_end_the_looking_after(self, monkeypatch):
        monkeypatch.setattr("worker.audit.outbox._SURPRISE_PAUSE_S", 0.001)
        server, queue = Server(), MemoryQueue(*pack([entry()]))
        depth, asked = queue.depth, []

        async def surprising():
            asked.append(None)
            if len(asked) == 1:
                raise ZeroDivisionError
            return await depth()

        queue.depth = surprising
        async with durable(server, queue) as audit:
            await until(lambda: audit.complete)


class TestWhatItSays:
    async def test_it_is_complete_only_where_the_outbox_was_seen_empty_and_opensearch_works(self):
        server, queue = Server(), MemoryQueue()
        async with durable(server, queue) as audit:
            assert not audit.complete
            await until(lambda: audit.complete)
            server.away = True
            await audit.write([audit_record()])
            assert not audit.complete
            server.away = False
            await until(lambda: audit.complete)
            assert numbers(server) == [0]

    async def test_readiness_names_the_outage_and_how_far_behind(self):
        server, queue = Server(), MemoryQueue()
        server.away = True
        async with durable(server, queue) as audit:
            assert audit.missing() is None
            await audit.write([audit_record()])
            await until(lambda: audit.depth == 1)
            assert "OpenSearch failing since" in audit.missing()
            assert "outbox holds 1 messages, 0 records wait" in audit.missing()
            gauges = {name: read() for name, (_, read) in audit.gauges().items()}
            assert gauges == {
                "postbote_audit_outbox_messages": 1,
                "postbote_audit_waiting_records": 0,
                "postbote_audit_failing": True,
            }
            queue.refusing = BrokerUnavailable("down")
            await until(lambda: audit.depth is None)
            assert "an unknown number of messages" in audit.missing()

    async def test_starting_waits_for_nobody_and_lookups_say_that_they_cannot(self):
        server, queue = Server(), MemoryQueue()
        server.away, queue.refusing = True, BrokerUnavailable("down")
        async with durable(server, queue) as audit:
            await until(audit.missing)
            with pytest.raises(AuditUnavailable):
                await audit.recorded(ids_of(audit_record()))
