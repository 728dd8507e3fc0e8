"""Sealing without a journal: one call after the other, so that whatever ends it costs the end of a chain alone."""

import asyncio

import pytest

from tests.support.chains import faults_of, lengths_of
from tests.unit.proof.proof_samples import AWAY, NOON, MemoryAudit, document, record
from worker.delivery.privacy import Privacy, RecipientMode
from worker.errors import AuditUnavailable
from worker.proof.chain import Chain
from worker.proof.sealed import SealedAudit


@pytest.fixture
def audit():
    return MemoryAudit()


@pytest.fixture
def sealed(audit):
    return SealedAudit(audit, Chain("w"))


async def begun(work):
    task = asyncio.ensure_future(work)
    for _ in range(4):
        await asyncio.sleep(0)
    return task


async def test_what_is_written_is_chained_and_ends_with_a_head(audit, sealed):
    await sealed.write([record(1), record(2)])
    await sealed.write_documents([document(3)])
    await sealed.close()
    assert lengths_of(audit.records) == {"w": 3}
    assert faults_of(audit.records, audit.proofs) == []
    assert [head["seq"] for head in audit.proofs] == [3]


async def test_a_second_call_waits_for_the_first_and_goes_together_with_a_third(audit, sealed):
    audit.gate.clear()
    tasks = [await begun(sealed.write([record(n)])) for n in range(3)]
    audit.gate.set()
    await asyncio.gather(*tasks)
    assert [len(call) for call in audit.calls] == [1, 2]


async def test_what_nobody_waits_for_any_more_gets_no_number(audit, sealed):
    audit.gate.clear()
    first, second, third = [await begun(sealed.write([record(n)])) for n in range(3)]
    second.cancel()
    audit.gate.set()
    await asyncio.gather(first, third)
    assert (lengths_of(audit.records), faults_of(audit.records)) == ({"w": 2}, [])


async def test_a_caller_that_leaves_during_the_writing_makes_no_hole(audit, sealed):
    audit.gate.clear()
    first = await begun(sealed.write([record(1)]))
    first.cancel()
    second = await begun(sealed.write([record(2)]))
    audit.gate.set()
    await second
    assert (lengths_of(audit.records), faults_of(audit.records)) == ({"w": 2}, [])


@pytest.mark.parametrize("failure", [AWAY, RuntimeError("a mistake of ours")], ids=["away", "a mistake"])
async def test_what_a_failed_call_sealed_goes_first_with_the_next_one(audit, sealed, failure):
    audit.fails = failure
    with pytest.raises(type(failure)):
        await sealed.write([record(1)])
    await sealed.write_head(NOON)
    assert audit.proofs == [], "a head would say that it was written"
    audit.fails = None
    await sealed.write([record(2)])
    assert [each["event_id"] for each in audit.records] == ["event-1", "event-2"]
    assert faults_of(audit.records) == []
    await sealed.write_head(NOON)
    assert [head["seq"] for head in audit.proofs] == [2]


async def test_a_head_waits_for_what_is_on_its_way(audit, sealed):
    audit.gate.clear()
    writing = await begun(sealed.write([record(1)]))
    heading = await begun(sealed.write_head(NOON))
    assert audit.proofs == []
    audit.gate.set()
    await asyncio.gather(writing, heading)
    assert faults_of(audit.records, audit.proofs) == []
    assert len(audit.proofs) == 1


async def test_an_audit_that_is_away_holds_up_the_end_no_longer_than_the_grace(audit, sealed):
    audit.gate.clear()
    writing = await begun(sealed.write([record(1)]))
    async with asyncio.timeout(5):
        await sealed.close(0.05)
    with pytest.raises(AuditUnavailable):
        await writing
    with pytest.raises(AuditUnavailable):
        await sealed.write([record(2)])
    assert audit.calls == []


async def test_nothing_written_leaves_nothing(audit, sealed):
    await sealed.write([])
    await sealed.close()
    assert audit.calls == []


async def test_an_audit_that_keeps_the_order_takes_calls_side_by_side(audit):
    sealed = SealedAudit(audit, Chain("w"), in_order=True)
    await asyncio.gather(*(sealed.write([record(n)]) for n in range(3)))
    await sealed.close()
    assert [len(call) for call in audit.calls] == [1, 1, 1, 1]
    assert faults_of(audit.records, audit.proofs) == []


async def test_recipients_are_kept_as_the_privacy_says(audit):
    privacy = Privacy(RecipientMode.MASKED, b"k" * 32)
    sealed = SealedAudit(audit, Chain("w"), privacy=privacy)
    await sealed.write([record(1)])
    (found,) = audit.records
    assert found["recipient"] == "u***@example.org"
    assert audit.calls[0][0].document_id == privacy.known_as(record(1).document_id)
    assert faults_of([found]) == []
