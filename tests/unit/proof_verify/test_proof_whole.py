"""Chains that are whole though they do not look it, and where a walk looks beyond its range."""

from datetime import timedelta

import orjson
import pytest

from schemas.audit import Outcome
from tests.control.shipping.shipping_samples import change_record
from tests.unit.audit.audit_samples import NOON, audit_record
from tests.unit.proof_verify.proof_samples import MemoryReader, W, Written, chain, named, resealed, verified
from tests.unit.proof_verify.proof_tampering import at, document, replaced, without
from worker.delivery.ports import Document
from worker.delivery.privacy import Privacy, RecipientMode
from worker.proof.contested import as_duplicate
from worker.proof.ports import Span, Stored

# What looks like tampering, and is none


def both_accepted():
    """Two workers had one mail accepted, and tried to record the same refusal."""
    one, other = Written(W), Written("worker-2/00000001")
    accepted, refused = audit_record("e"), audit_record("r", outcome=Outcome.REFUSED)
    one.add(accepted)
    one.add(refused)
    later = audit_record("e", seconds=0.5, worker_id="worker-2")
    other.add(later)
    sealed = other.records.pop()
    stored = as_duplicate(Document(sealed.document_id, "2025.11", orjson.dumps(sealed.document)))
    other.records.append(Stored(sealed.place, stored.document_id, orjson.loads(stored.document), "2025.11"))
    other.void(audit_record("r", seconds=1, outcome=Outcome.REFUSED, worker_id="worker-2"), refused.document_id)
    other.add(audit_record("l", seconds=2, worker_id="worker-2"))
    one.head(seconds=3)
    other.head(seconds=3)
    return one, other


async def test_duplicates_and_voids_belong_to_a_whole_chain():
    report = await verified(MemoryReader(*both_accepted()))
    assert (named(report), report.counts.voids, report.counts.records) == ([], 1, 4)


async def test_a_void_whose_record_is_nowhere_explains_nothing():
    one, other = both_accepted()
    one.records.pop()
    report = await verified(MemoryReader(one, other))
    assert named(report) == [("missing", W, "2"), ("missing", "worker-2/00000001", "2")]


async def test_a_void_whose_hash_does_not_follow_explains_nothing():
    one, other = both_accepted()
    void = other.proofs[0]
    other.proofs[0] = void._replace(document=void.document | {"digest": "0" * 64})
    report = await verified(MemoryReader(one, other))
    assert named(report) == [("missing", "worker-2/00000001", "2")]


async def test_a_void_beside_the_record_that_it_denies_is_forged():
    written = chain()
    made_up = Written(W, prev=written.records[1].document["chain"]["hash"], seq=2)
    made_up.void(audit_record("evil", seconds=2), written.records[0].document_id)
    written.proofs += made_up.proofs
    assert named(await verified(MemoryReader(written))) == [("forged", W, "3")]


async def test_a_record_marked_as_a_duplicate_that_is_none_was_changed():
    one, other = both_accepted()
    stored = one.records[0]
    marked = stored.document | {"possible_duplicate": True, "chain": stored.document["chain"] | {"marked": True}}
    one.records[0] = stored._replace(document=marked)
    assert named(await verified(MemoryReader(one, other))) == [("changed", W, "1")]


async def test_a_duplicate_that_says_it_is_none_was_changed():
    one, other = both_accepted()
    stored = other.records[0]
    link = {name: value for name, value in stored.document["chain"].items() if name != "marked"}
    other.records[0] = stored._replace(document=stored.document | {"possible_duplicate": False, "chain": link})
    assert named(await verified(MemoryReader(one, other))) == [("changed", "worker-2/00000001", "1")]


async def test_records_of_one_chain_lie_in_several_months():
    written = Written(W)
    for seconds, event_time in enumerate(
        [NOON, NOON - timedelta(days=30), None, (NOON - timedelta(days=30)).astimezone(), NOON]
    ):
        written.add(audit_record(f"e{seconds}", seconds=seconds, event_time=event_time))
    written.head(seconds=9)
    assert {record.month for record in written.records} == {"2025.10", "2025.11"}
    assert named(await verified(MemoryReader(written))) == []


async def test_changes_and_records_without_recipient_are_verified_without_an_id():
    written = Written(W)
    written.add(change_record(), month="2025.11")
    written.add(audit_record("x", recipient=None, outcome=Outcome.INVALID), document_id="a" * 40)
    written.records = [r._replace(month=None) for r in written.records]
    written.head()
    assert named(await verified(MemoryReader(written), span=Span(0, at(10**9)))) == []


async def test_an_outcome_of_a_newer_version_is_verified_without_an_id():
    written = Written(W)
    newer = orjson.loads(audit_record("x").to_json()) | {"outcome": "teleported"}
    written.add(newer, document_id="a" * 40, month="2025.11")
    written.head()
    assert named(await verified(MemoryReader(written))) == []


# Recipients that are not kept as they are

KEY = Privacy(RecipientMode.PLAIN, b"k" * 32)


def private(mode):
    written, privacy = Written(W), Privacy(mode, b"k" * 32)
    for number in range(3):
        kept = privacy.document(audit_record(number, seconds=number))
        written.add(orjson.loads(kept.document), kept.document_id, kept.index_month)
    written.head(seconds=9)
    return written


@pytest.mark.parametrize("mode", list(RecipientMode))
async def test_records_that_protect_their_recipients_are_whole(mode):
    assert named(await verified(MemoryReader(private(mode)), hash_of=KEY.hash_of)) == []


async def test_a_recipient_that_was_forgotten_leaves_the_chain_whole():
    reader = MemoryReader(private(RecipientMode.PLAIN))
    replaced(reader, 2, {name: value for name, value in document(reader, 2).items() if name != "recipient"})
    assert named(await verified(reader, hash_of=KEY.hash_of)) == []


@pytest.mark.parametrize("hash_of", [KEY.hash_of, lambda _: None], ids=["with the key", "without the key"])
async def test_a_recipient_that_was_changed_is_named(hash_of):
    reader = MemoryReader(private(RecipientMode.PLAIN))
    replaced(reader, 2, document(reader, 2) | {"recipient": "eve@example.org"})
    assert named(await verified(reader, hash_of=hash_of)) == [("changed", W, "2")]


async def test_a_recipient_whose_id_was_changed_too_is_named_by_its_hash():
    reader = MemoryReader(private(RecipientMode.PLAIN))
    other = audit_record(1, seconds=1, recipient="eve@example.org")
    replaced(reader, 2, document(reader, 2) | {"recipient": "eve@example.org"}, document_id=other.document_id)
    assert named(await verified(reader, hash_of=KEY.hash_of)) == [("changed", W, "2")]


# Records without a chain


async def test_records_older_than_the_first_chain_are_counted_and_younger_ones_named():
    written = chain(3, first=10)
    old, new = audit_record("old", seconds=9), audit_record("new", seconds=11)
    reader = MemoryReader(written)
    for each in (old, new):
        reader.records.append(Stored("audit-2025.11", each.document_id, orjson.loads(each.to_json()), "2025.11"))
    report = await verified(reader)
    assert report.counts.unchained == 1
    assert [finding.document_id for finding in report.findings] == [new.document_id]


async def test_an_audit_without_any_chain_has_only_old_records():
    reader = MemoryReader()
    each = audit_record()
    reader.records.append(Stored("audit-2025.11", each.document_id, orjson.loads(each.to_json()), "2025.11"))
    report = await verified(reader)
    assert (named(report), report.counts.unchained) == ([], 1)


async def test_a_message_of_the_outbox_that_could_not_be_read_is_no_record():
    from worker.audit.outbox_messages import poison_letter

    reader = MemoryReader(chain())
    own_id, _, body = poison_letter(b"?", "not JSON", NOON + timedelta(seconds=3))
    reader.records.append(Stored("audit-deadletter", own_id, orjson.loads(body)))
    report = await verified(reader)
    assert named(report) == []
    assert any("outbox" in note for note in report.notes)


# The edges of the range


async def test_what_lies_beyond_the_range_is_looked_up_as_far_as_the_chain_needs_it():
    reader = MemoryReader(chain(100))
    report = await verified(reader, span=Span(at(40), at(44)))
    assert (named(report), report.counts.records) == ([], 5)
    # One before, and all up to the head that vouches for the last.
    assert reader.looked_up == [(W, 40, 40), (W, 46, 100)]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(40, [("missing", W, "40")]), (46, [("missing", W, "46")]), (39, []), (43, [("missing", W, "43")])],
)
async def test_a_record_that_is_missing_at_the_edge_is_named(number, expected):
    reader = MemoryReader(chain(100))
    without(reader, number)
    assert named(await verified(reader, span=Span(at(40), at(44)))) == expected


async def test_the_last_record_of_a_range_is_held_against_the_one_after_it():
    reader = MemoryReader(chain(100))
    replaced(reader, 45, resealed(document(reader, 45), reason="tampered"))
    assert named(await verified(reader, span=Span(at(40), at(44)))) == [("changed", W, "45")]


async def test_numbers_and_times_need_not_be_in_one_order():
    written = Written(W)
    for seconds in (0, 500, 1, 2, 700, 3, 4):
        written.add(audit_record(seconds, seconds=seconds))
    written.head(seconds=800)
    reader = MemoryReader(written, page=1)
    report = await verified(reader, span=Span(at(0), at(10)))
    assert (named(report), report.counts.records, report.counts.beside) == ([], 5, 2)


async def test_one_writer_alone_is_asked_for():
    reader = MemoryReader(chain(), chain(3, "worker-2/00000001"))
    without(reader, 2)
    report = await verified(reader, writer=W)
    assert (named(report), report.counts.writers) == ([("missing", W, "2")], 1)


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
async def test_the_answer_is_the_same_whatever_the_pages(page):
    reader = MemoryReader(*both_accepted(), chain(7, "worker-3/00000002"), page=page)
    reader.records.insert(0, reader.records[5]._replace(document_id="f" * 40))
    assert [kind for kind, _, _ in named(await verified(reader))] == ["inserted"]
