"""A 409 on an `accepted` record: ours, written before, or another worker's, whose mail went out as well."""

import asyncio

import orjson
import pytest

from schemas.audit import Outcome, duplicate_id
from tests.support.chains import faults_of, lengths_of
from tests.unit.audit.audit_samples import (
    AWAY,
    NOON,
    SILENT,
    ScriptedTransport,
    audit_record,
    document_of,
    statuses,
)
from tests.unit.audit.test_audit_bulk import ACCESS, writer_over
from worker.audit.bulk import BulkLimits, BulkWriter
from worker.audit.entries import restore
from worker.audit.link import OpenSearchLink
from worker.proof.chain import Chain

INDEX = "test-2025.11"
MINE = audit_record(1, worker_id="worker-1")
THEIRS = audit_record(1, worker_id="worker-2", seconds=0.5)
AGAIN_MINE = audit_record(1, worker_id="worker-1", seconds=30)


def as_document(record, **changes):
    return record.model_dump(mode="json", by_alias=True, exclude_none=True) | changes


def holding(*records, steps=()):
    transport = ScriptedTransport(*steps)
    transport.documents = {(INDEX, record.document_id): as_document(record) for record in records}
    return transport


def own_id(record):
    return duplicate_id(record.document_id, record.worker_id, as_document(record)["@timestamp"])


@pytest.mark.parametrize("other", [THEIRS, AGAIN_MINE], ids=["another worker's", "this worker's, at another time"])
async def test_a_second_acceptance_is_recorded_beside_the_first_as_a_possible_duplicate(other):
    transport = holding(other)
    async with writer_over(transport) as writer:
        await writer.write([MINE])
        assert writer.waiting == 0
    assert transport.documents == {
        (INDEX, other.document_id): as_document(other),
        (INDEX, own_id(MINE)): as_document(MINE, possible_duplicate=True),
    }


async def test_the_further_record_is_written_once_however_often_it_comes():
    transport = holding(THEIRS)
    async with writer_over(transport) as writer:
        for _ in range(3):
            await writer.write([MINE])
        await writer.write([AGAIN_MINE])
    assert len(transport.documents) == 3


@pytest.mark.parametrize("steps", [(), (SILENT,)], ids=["a journal shipped again", "a bulk sent again"])
async def test_what_is_there_and_ours_is_durable_and_nothing_is_added(steps):
    transport = holding(MINE, steps=steps)
    async with writer_over(transport) as writer:
        await writer.write_documents([(MINE.document_id, MINE.index_month, MINE.to_json())])
    assert list(transport.documents) == [(INDEX, MINE.document_id)]


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.DEFERRED, Outcome.IN_DOUBT])
async def test_only_acceptances_are_compared(outcome):
    transport = holding(audit_record(1, outcome=outcome, worker_id="worker-2"))
    async with writer_over(transport) as writer:
        await writer.write([audit_record(1, outcome=outcome)])
    assert len(transport.documents) == 1
    assert ("POST", "/_mget") not in transport.requests


async def test_of_many_only_the_contested_ones_get_a_further_record():
    records = [audit_record(n) for n in range(6)]
    transport = holding(records[0], audit_record(3, worker_id="worker-2"))
    async with writer_over(transport) as writer:
        await writer.write(records)
    assert len(transport.documents) == 7
    assert (INDEX, own_id(records[3])) in transport.documents


@pytest.mark.parametrize(
    "failure",
    [AWAY, SILENT, {"took": 1}, {"docs": []}, lambda _doc: {"error": {"type": "no_shard_available"}}],
    ids=["refused", "silent", "without documents", "too few documents", "no shard"],
)
async def test_a_comparison_without_an_answer_is_made_again(failure):
    transport = holding(THEIRS, steps=[None, failure])
    async with writer_over(transport) as writer:
        await writer.write([MINE])
    assert (INDEX, own_id(MINE)) in transport.documents


async def test_what_was_there_and_is_gone_is_written_again():
    transport = ScriptedTransport(statuses(409))
    async with writer_over(transport) as writer:
        await writer.write([MINE])
    assert list(transport.documents) == [(INDEX, MINE.document_id)]


async def test_a_dead_letter_that_is_there_is_durable():
    transport = holding(steps=[statuses(400), statuses(409)])
    async with writer_over(transport) as writer:
        await writer.write([MINE])
    assert ("POST", "/_mget") not in transport.requests


def chained(record, writer="worker-1/0"):
    return Chain(writer).seal([document_of(record)])


def stored_under(transport, document):
    transport.documents[f"test-{document.index_month}", document.document_id] = orjson.loads(document.document)


def parted(transport):
    """The stored records and proofs."""
    proofs = [each for (index, _), each in transport.documents.items() if index == "test-proof"]
    return [restore(each) for (index, _), each in transport.documents.items() if index != "test-proof"], proofs


class TestChained:
    async def test_the_same_record_again_is_durable_whatever_its_outcome(self):
        for outcome in (Outcome.ACCEPTED, Outcome.REFUSED):
            transport, (document,) = ScriptedTransport(), chained(audit_record(outcome=outcome))
            async with writer_over(transport) as writer:
                await writer.write_documents([document])
                await writer.write_documents([document])
            assert len(transport.documents) == 1

    @pytest.mark.parametrize(
        "theirs",
        [document_of(THEIRS), *chained(THEIRS, "worker-2/0"), *chained(AGAIN_MINE, "worker-1/1")],
        ids=["unchained", "chained", "of another start"],
    )
    async def test_a_second_acceptance_keeps_its_place_in_the_chain(self, theirs):
        transport = ScriptedTransport()
        stored_under(transport, theirs)
        async with writer_over(transport) as writer:
            await writer.write_documents(chained(MINE))
            await writer.write_documents(chained(MINE))
        records, proofs = parted(transport)
        assert (len(records), proofs, faults_of(records)) == (2, [], [])
        assert transport.documents[INDEX, own_id(MINE)]["chain"]["marked"] is True

    @pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.DEFERRED, Outcome.IN_DOUBT])
    async def test_of_anything_else_the_first_stays_and_the_second_leaves_a_void(self, outcome):
        transport, chain = ScriptedTransport(), Chain("worker-1/0")
        first = audit_record(1, outcome=outcome, worker_id="worker-2")
        stored_under(transport, *chained(first, "worker-2/0"))
        mine = chain.seal([document_of(audit_record(n, outcome=outcome)) for n in range(3)])
        async with writer_over(transport) as writer:
            await writer.write_documents(mine)
            await writer.write_documents(mine)
            assert writer.waiting == 0
        records, (void,) = parted(transport)
        assert (void["seq"], void["document_id"]) == (2, first.document_id)
        assert faults_of(records, [void]) == []
        assert lengths_of(records, [void]) == {"worker-1/0": 3, "worker-2/0": 1}

    async def test_a_dead_letter_keeps_its_link_and_a_second_one_leaves_a_void(self):
        transport = ScriptedTransport(statuses(400), None, statuses(400))
        async with writer_over(transport) as writer:
            await writer.write_documents(chained(audit_record(outcome=Outcome.REFUSED)))
            await writer.write_documents(chained(audit_record(outcome=Outcome.REFUSED), "worker-2/0"))
        (letter,) = (each for (index, _), each in transport.documents.items() if index == "test-deadletter")
        assert letter["chain"]["writer"] == "worker-1/0"
        records, proofs = parted(transport)
        assert faults_of(records, proofs) == []
        assert lengths_of(records, proofs) == {"worker-1/0": 1, "worker-2/0": 1}

    async def test_a_head_that_is_there_is_not_looked_at(self):
        transport, chain = ScriptedTransport(), Chain("worker-1/0")
        chain.seal([document_of(MINE)])
        head = chain.head(NOON)
        async with writer_over(transport) as writer:
            await writer.write_documents([head])
            await writer.write_documents([head])
        assert ("POST", "/_mget") not in transport.requests

    async def test_what_is_there_is_read_by_a_link_of_its_own(self):
        transport, reading = holding(THEIRS), holding(THEIRS)
        link = OpenSearchLink(ACCESS, transport)
        writer = BulkWriter(link, "test", BulkLimits(flush_ms=1.0), OpenSearchLink(ACCESS, reading))
        async with asyncio.timeout(10):
            await writer.write_documents(chained(MINE))
            await writer.close(1.0)
        assert ("POST", "/_mget") not in transport.requests
        assert reading.requests == [("POST", "/_mget")]
