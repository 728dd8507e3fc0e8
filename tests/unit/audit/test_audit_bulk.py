"""Bulk writing against a transport that answers by script: each status, each failure, each limit."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from opensearchpy.exceptions import SerializationError

from tests.unit.audit.audit_samples import AWAY, SILENT, ScriptedTransport, audit_record, status_error, statuses
from worker.audit.bulk import BulkLimits, BulkWriter
from worker.audit.entries import Verdict, judge
from worker.audit.index_template import VERSION
from worker.audit.link import OpenSearchAccess, OpenSearchLink
from worker.audit.proof_index import proof_template_name
from worker.errors import AuditUnavailable

PROOF = proof_template_name("test")
ACCESS = OpenSearchAccess("http://127.0.0.1:1")


@asynccontextmanager
async def writer_over(transport, **limits):
    link = OpenSearchLink(ACCESS, transport)
    writer = BulkWriter(link, "test", BulkLimits(**{"flush_ms": 1.0, **limits}))
    writer.health = link.health
    try:
        async with asyncio.timeout(10):  # a mistake that leaves a writer waiting is red, not endless
            yield writer
    finally:
        transport.held.set()
        await writer.close(1.0)


@pytest.mark.parametrize(
    ("status", "dead", "verdict"),
    [
        (201, False, Verdict.DURABLE),
        (200, False, Verdict.DURABLE),
        (409, False, Verdict.THERE_ALREADY),
        (429, False, Verdict.AGAIN),
        (500, False, Verdict.AGAIN),
        (503, False, Verdict.AGAIN),
        (400, False, Verdict.DEAD_LETTER),
        (403, False, Verdict.DEAD_LETTER),
        (404, False, Verdict.DEAD_LETTER),
        (201, True, Verdict.DURABLE),
        (409, True, Verdict.THERE_ALREADY),
        (429, True, Verdict.AGAIN),
        (400, True, Verdict.AGAIN),
        (403, True, Verdict.AGAIN),
    ],
)
def test_an_item_is_judged_by_its_status(status, dead, verdict):
    assert judge(status, dead=dead) is verdict


@pytest.mark.parametrize(
    ("status", "reason", "verdict"),
    [
        (403, "cluster_block_exception: index [a] blocked by: [FORBIDDEN/8/index write]", Verdict.AGAIN),
        (403, "security_exception: no permissions for [indices:data/write/index]", Verdict.AGAIN),
        (404, "index_not_found_exception: no such index [a]", Verdict.AGAIN),
        (400, "illegal_argument_exception: pipeline with id [a] does not exist", Verdict.AGAIN),
        (403, "other_exception: no", Verdict.DEAD_LETTER),
        (400, "mapper_parsing_exception: failed to parse field [attempt]", Verdict.DEAD_LETTER),
    ],
)
def test_what_is_no_fault_of_the_record_is_waited_for(status, reason, verdict):
    assert judge(status, reason, dead=False) is verdict


async def test_few_writers_go_on_in_one_turn_of_the_loop():
    turn, went_on = 0, []
    async with writer_over(ScriptedTransport()) as writer:

        async def write(number):
            await writer.write([audit_record(number)])
            went_on.append(turn)

        writing = asyncio.gather(*map(write, range(200)))
        while not writing.done():
            turn += 1
            await asyncio.sleep(0)
    assert len(went_on) == 200
    assert max(Counter(went_on).values()) <= 50


async def test_records_of_many_writers_go_in_one_bulk_to_the_month_of_their_event():
    transport = ScriptedTransport()
    async with writer_over(transport) as writer:
        await asyncio.gather(*(writer.write([audit_record(n)]) for n in range(20)))
    assert [len(bulk) for bulk in transport.bulks] == [20]
    assert {index for index, _ in transport.bulks[0]} == {"test-2025.11"}


async def test_the_template_is_installed_before_the_first_record():
    transport = ScriptedTransport()
    async with writer_over(transport) as writer:
        await writer.write([audit_record()])
    asked = [request for request in transport.requests if not request[1].startswith("/_ingest")]
    assert asked == [
        ("GET", "/_index_template/test-v*"),
        ("PUT", f"/_index_template/test-v{VERSION}"),
        ("GET", f"/_index_template/{PROOF}"),
        ("PUT", f"/_index_template/{PROOF}"),
        ("POST", "/_bulk"),
    ]


async def test_a_template_that_is_there_is_left_alone():
    transport = ScriptedTransport()
    transport.templates = {f"test-v{VERSION}", PROOF}
    async with writer_over(transport) as writer:
        await writer.start()
    assert transport.requests == [("GET", "/_index_template/test-v*"), ("GET", f"/_index_template/{PROOF}")]


async def test_writing_nothing_asks_nothing():
    transport = ScriptedTransport()
    async with writer_over(transport) as writer:
        await writer.write([])
    assert transport.requests == []


@pytest.mark.parametrize(
    "failure",
    [
        AWAY,
        SILENT,
        SerializationError("<html>"),
        {"took": 1},
        {"errors": True, "items": []},
        *(status_error(status) for status in (401, 403, 429, 500, 502, 503, 504)),
    ],
    ids=str,
)
async def test_a_bulk_without_an_answer_is_sent_again_word_for_word(failure):
    transport = ScriptedTransport(failure, failure, failure)
    async with writer_over(transport) as writer:
        await writer.write([audit_record(1), audit_record(2)])
        assert writer.health.state().failing_since is None
    assert transport.bulks[-1] == [("test-2025.11", audit_record(n).document_id) for n in (1, 2)]
    assert len(transport.documents) == 2


async def test_a_writer_waits_while_opensearch_is_away_and_the_state_says_since_when():
    transport = ScriptedTransport(*[AWAY] * 3)
    async with writer_over(transport) as writer:
        writing = asyncio.create_task(writer.write([audit_record()]))
        transport.arrived.clear()
        await transport.arrived.wait()
        transport.arrived.clear()
        await transport.arrived.wait()  # the second try is on its way: the first one has failed
        state = writer.health.state(writer.waiting)
        assert not writing.done()
        assert state.failing_since is not None
        assert state.waiting == 1
        assert "cannot be reached" in state.reason
        await writing
        assert writer.waiting == 0


@pytest.mark.parametrize("status", [429, 503])
async def test_only_the_busy_item_is_tried_again(status):
    transport = ScriptedTransport(statuses(201, status, 201), statuses(status))
    records = [audit_record(n) for n in range(3)]
    async with writer_over(transport) as writer:
        await writer.write(records)
    assert [len(bulk) for bulk in transport.bulks] == [3, 1, 1]
    assert transport.bulks[2] == [("test-2025.11", records[1].document_id)]


async def test_a_writer_whose_records_are_in_is_not_held_up_by_another_ones_busy_item():
    transport = ScriptedTransport(*[statuses(201, 429), statuses(429), statuses(429)])
    async with writer_over(transport) as writer:
        slow = asyncio.create_task(writer.write([audit_record(1), audit_record(2)]))
        await asyncio.sleep(0)
        quick = asyncio.create_task(writer.write([audit_record(3)]))
        await quick
        assert not slow.done()
        await slow


async def test_a_writer_returns_only_with_its_last_record():
    transport = ScriptedTransport(statuses(201, 201, 429))
    async with writer_over(transport) as writer:
        await writer.write([audit_record(n) for n in range(3)])
    assert len(transport.documents) == 3


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_record_that_cannot_be_indexed_becomes_a_dead_letter_under_its_own_id(status):
    good, bad = audit_record(1), audit_record(2)
    transport = ScriptedTransport(statuses(201, status))
    async with writer_over(transport) as writer:
        await writer.write([good, bad])
    letter = transport.documents["test-deadletter", bad.document_id]
    assert letter["dead_letter"]["record"] == bad.to_json().decode()
    assert letter["dead_letter"]["error"] == f"{status} kind_{status}: why {status}"
    assert letter["recipient"] == bad.recipient
    assert letter["@timestamp"] == "2025-11-21T12:00:00Z"


async def test_a_dead_letter_that_is_refused_too_waits_and_blocks_nobody():
    transport = ScriptedTransport(statuses(400), *[statuses(403)] * 5)
    async with writer_over(transport) as writer:
        bad = asyncio.create_task(writer.write([audit_record(1)]))
        await transport.bulk_number(3)
        assert not bad.done()
        assert "takes no record now: 403" in writer.health.state().reason
        await bad
    assert ("test-deadletter", audit_record(1).document_id) in transport.documents


async def test_a_bulk_that_is_refused_whole_is_sent_in_halves():
    transport = ScriptedTransport(status_error(413))
    async with writer_over(transport) as writer:
        await writer.write([audit_record(n) for n in range(5)])
    assert [len(bulk) for bulk in transport.bulks] == [2, 3]


async def test_a_single_record_that_is_refused_whole_becomes_a_dead_letter():
    transport = ScriptedTransport(status_error(400), status_error(400))
    async with writer_over(transport) as writer:
        await writer.write([audit_record()])
    assert list(transport.documents) == [("test-deadletter", audit_record().document_id)]


async def test_a_bulk_is_sent_at_its_number_of_records_without_waiting_for_its_time():
    transport = ScriptedTransport()
    async with writer_over(transport, flush_ms=60_000, flush_docs=10) as writer, asyncio.timeout(5):
        await writer.write([audit_record(n) for n in range(20)])
    assert [len(bulk) for bulk in transport.bulks] == [10, 10]


async def test_a_bulk_is_sent_at_its_number_of_bytes_without_waiting_for_its_time():
    transport = ScriptedTransport()
    async with writer_over(transport, flush_ms=60_000, flush_bytes=1500) as writer, asyncio.timeout(5):
        await writer.write([audit_record(n) for n in range(4)])
    assert [len(bulk) for bulk in transport.bulks] == [2, 2]


async def test_writers_beyond_the_bound_wait_outside_and_come_in_by_turns():
    transport = ScriptedTransport()
    transport.held.clear()
    async with writer_over(transport, max_waiting=4) as writer:
        writing = [asyncio.create_task(writer.write([audit_record(n), audit_record(n + 100)])) for n in range(4)]
        await transport.arrived.wait()
        assert writer.waiting == 4
        transport.held.set()
        await asyncio.gather(*writing)
    assert len(transport.documents) == 8


async def test_a_call_larger_than_the_bound_goes_alone():
    transport = ScriptedTransport()
    async with writer_over(transport, max_waiting=3) as writer:
        await writer.write([audit_record(n) for n in range(10)])
    assert len(transport.documents) == 10


async def test_a_cancelled_writer_does_not_take_its_records_back():
    transport = ScriptedTransport()
    transport.held.clear()
    async with writer_over(transport) as writer:
        writing = asyncio.create_task(writer.write([audit_record(1)]))
        await transport.arrived.wait()
        writing.cancel()
        transport.held.set()
        await writer.write([audit_record(2)])
    assert len(transport.documents) == 2


async def test_a_cancelled_shipment_takes_its_records_back_since_the_outbox_has_them():
    transport = ScriptedTransport()
    transport.held.clear()
    async with writer_over(transport) as writer:
        record = audit_record()
        document = (record.document_id, record.index_month, record.to_json())
        shipping = asyncio.create_task(writer.write_documents([document], shipped=True))
        await transport.arrived.wait()
        assert writer.waiting == 1
        shipping.cancel()
        await asyncio.wait({shipping})
        assert writer.waiting == 0


async def test_a_bulk_that_is_sent_again_leaves_out_what_became_durable_elsewhere():
    transport = ScriptedTransport(AWAY)
    transport.held.clear()
    async with writer_over(transport) as writer:
        elsewhere, here = (asyncio.create_task(writer.write([audit_record(n)])) for n in range(2))
        await transport.arrived.wait()
        writer.settle(writer.overdue(0.0)[:1])
        await elsewhere
        transport.held.set()
        await here
    assert transport.bulks == [[("test-2025.11", audit_record(1).document_id)]]


async def test_records_are_overdue_oldest_first_and_not_before_their_time():
    transport = ScriptedTransport()
    transport.held.clear()
    async with writer_over(transport) as writer:
        writing = [asyncio.create_task(writer.write([audit_record(n)])) for n in range(3)]
        await transport.arrived.wait()
        assert writer.overdue(60.0) == []
        assert [entry.document_id for entry in writer.overdue(0.0)] == [audit_record(n).document_id for n in range(3)]
        transport.held.set()
        await asyncio.gather(*writing)
        assert writer.overdue(0.0) == []


async def test_closing_sends_what_waits():
    transport = ScriptedTransport()
    async with writer_over(transport, flush_ms=60_000) as writer:
        writing = asyncio.create_task(writer.write([audit_record()]))
        await asyncio.sleep(0)
        await writer.close(5.0)
        await writing
    assert len(transport.documents) == 1


async def test_closing_fails_the_writers_of_what_is_left_after_the_grace():
    transport = ScriptedTransport(*[AWAY] * 10_000)
    async with writer_over(transport) as writer:
        writing = asyncio.create_task(writer.write([audit_record()]))
        outside = asyncio.create_task(writer.write([]))
        await transport.arrived.wait()
        await writer.close(0.01)
        with pytest.raises(AuditUnavailable, match="this worker stops"):
            await writing
        with pytest.raises(AuditUnavailable, match="takes no more records"):
            await writer.write([audit_record(2)])
        await outside


async def test_closing_fails_the_writers_who_still_wait_for_room():
    transport = ScriptedTransport(*[AWAY] * 10_000)
    async with writer_over(transport, max_waiting=1) as writer:
        writing = [asyncio.create_task(writer.write([audit_record(n)])) for n in range(3)]
        await transport.arrived.wait()
        await writer.close(0.01)
        outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AuditUnavailable] * 3


async def test_a_mistake_in_the_flusher_leaves_nobody_waiting(monkeypatch):
    transport = ScriptedTransport()
    async with writer_over(transport) as writer:
        monkeypatch.setattr(writer, "_deliver", None)
        with pytest.raises(AuditUnavailable, match="flusher ended"):
            await writer.write([audit_record()])
