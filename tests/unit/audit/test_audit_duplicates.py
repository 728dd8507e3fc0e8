"""A 409 on an `accepted` record: ours, written before, or another worker's, whose mail went out as well."""

import pytest

from schemas.audit import Outcome, duplicate_id
from tests.unit.audit.audit_samples import AWAY, SILENT, ScriptedTransport, audit_record, statuses
from tests.unit.audit.test_audit_bulk import writer_over

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
