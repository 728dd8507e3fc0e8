"""Heads, signed and remembered, and what was removed and said so."""

import base64
from datetime import timedelta

import orjson
import pytest

from schemas.audit_chain import ProofKind, digest_of, proof_id, pruned_document
from schemas.audit_change import Action, ChangeType
from tests.control.shipping.shipping_samples import change_record
from tests.unit.audit.audit_samples import NOON, audit_record
from tests.unit.proof_verify.proof_samples import ALL, MemoryReader, W, Written, chain, named, resealed, stamp, verified
from tests.unit.proof_verify.proof_tampering import (
    all_deleted,
    at,
    document,
    last_deleted,
    nothing,
    replaced,
    without,
    written_anew,
)
from worker.proof.ports import Span, Stored
from worker.proof.signing import Signer
from worker.proof.verify_heads import HeadKeys, Witness, read_witnesses
from worker.proof.verify_pruned import Ranges, parse_ranges

# Heads


@pytest.fixture
def signer():
    return Signer.new()[0]


def signed_chain(signer, *numbers):
    written = Written(W)
    for number in range(1, 7):
        written.add(audit_record(number, seconds=number))
        if number in numbers:
            written.head(signer, seconds=number)
    return written


async def test_signed_heads_are_believed(signer):
    keys = HeadKeys.read([signer.public_key])
    assert named(await verified(MemoryReader(signed_chain(signer, 2, 4, 6)), keys=keys)) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"signature": base64.b64encode(b"0" * 64).decode()}, "forged"),
        ({"signature": "?"}, "forged"),
        ({"key_id": "0" * 16}, "forged"),
        ({"hash": "0" * 64}, "forged"),
        ({"@timestamp": stamp(NOON)}, "forged"),
        ({"signature": None}, "unsigned"),
    ],
    ids=str,
)
@pytest.mark.parametrize("number", [4, 6])
async def test_a_head_that_is_not_signed_as_it_should_be_is_named(signer, change, kind, number):
    reader = MemoryReader(signed_chain(signer, 2, 4, 6))
    position = number // 2 - 1
    head = reader.proofs_there[position]
    reader.proofs_there[position] = head._replace(document=head.document | change)
    keys = HeadKeys.read([signer.public_key])
    assert named(await verified(reader, keys=keys)) == [(kind, W, str(number))]


async def test_a_head_that_another_key_signed_is_forged(signer):
    other = Signer.new()[0]
    keys = HeadKeys.read([signer.public_key])
    assert named(await verified(MemoryReader(signed_chain(other, 6)), keys=keys)) == [("forged", W, "6")]


async def test_without_keys_nothing_is_said_of_signatures_but_that(signer):
    report = await verified(MemoryReader(signed_chain(signer, 6)))
    assert named(report) == []
    assert any("POSTBOTE_AUDIT_VERIFY_KEYS" in note for note in report.notes)


async def test_each_head_that_says_another_hash_is_named(signer):
    reader = MemoryReader(signed_chain(signer, 2, 4, 6))
    written_anew(reader)
    keys = HeadKeys.read([signer.public_key])
    assert named(await verified(reader, keys=keys)) == [("rewritten", W, "4"), ("rewritten", W, "6")]


async def test_what_was_written_anew_behind_a_head_breaks_there(signer):
    reader = MemoryReader(signed_chain(signer, 2))
    prev = "0" * 64
    for number in range(3, 7):
        anew = resealed(document(reader, number), prev=prev)
        replaced(reader, number, anew)
        prev = anew["chain"]["hash"]
    keys = HeadKeys.read([signer.public_key])
    assert named(await verified(reader, keys=keys)) == [("reordered", W, "3"), ("uncovered", W, "6")]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(3600, [("uncovered", W, "6")]), (181, []), (5, [])],
    ids=["long ago", "at work", "just now"],
)
async def test_a_last_record_without_a_head_is_named_unless_it_is_young(signer, seconds, expected):
    reader = MemoryReader(signed_chain(signer, 4))
    report = await verified(reader, now=NOON + timedelta(seconds=seconds), head_s=60)
    assert named(report) == expected
    assert any("still running" in note for note in report.notes) == (not expected)


async def test_a_head_behind_the_last_record_says_what_is_missing(signer):
    reader = MemoryReader(signed_chain(signer, 4, 6))
    without(reader, 5, 6)
    assert named(await verified(reader)) == [("missing", W, "5-6")]


# What a log remembers


def remembered(written, *numbers, seconds=0.0):
    own = {r.document["chain"]["seq"]: r.document["chain"]["hash"] for r in written.records}
    return [Witness(written.writer, n, own[n], None, stamp(NOON + timedelta(seconds=seconds))) for n in numbers]


@pytest.mark.parametrize("seconds", [5.0, -(10**6)], ids=["in the range", "out of it"])
@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (nothing, []),
        (all_deleted, [("missing", W, "1-6")]),
        (last_deleted, [("missing", W, "5-6")]),
        (written_anew, [("rewritten", W, "4"), ("rewritten", W, "6")]),
    ],
    ids=lambda given: given.__name__ if callable(given) else "",
)
async def test_what_the_log_remembers_has_to_be_there(tamper, expected, seconds):
    written = chain()
    witnesses = remembered(written, 2, 4, 6, seconds=seconds)
    reader = MemoryReader(written, chain(2, "worker-2/00000001"))
    bystander = reader.records[6:]
    reader.records = reader.records[:6]
    tamper(reader)
    reader.records += bystander
    # Whoever removes records removes their heads, too, as far as the index has them.
    reader.proofs_there = [p for p in reader.proofs_there if p.document["writer"] != W]
    report = await verified(
        reader, witnesses=witnesses, span=Span(at(-3600), at(3600)), now=NOON + timedelta(seconds=9)
    )
    assert [each for each in named(report) if each[0] != "uncovered"] == expected
    assert report.counts.witnessed == 3


async def test_what_the_log_remembers_and_was_pruned_is_not_missed():
    written = chain()
    witnesses = remembered(written, 2, 6, seconds=-(10**6))
    report = await verified(MemoryReader(*pruned(written, "1-6")), witnesses=witnesses)
    assert named(report) == []


async def test_a_signature_in_the_log_has_to_be_one_of_a_known_key(signer):
    written = signed_chain(signer, 6)
    head = written.proofs[0].document
    good = Witness(W, 6, head["hash"], head["signature"], head["@timestamp"])
    bad = Witness(W, 6, head["hash"], Signer.new()[0].sign(b"?"), head["@timestamp"])
    keys = HeadKeys.read([Signer.new()[0].public_key, signer.public_key])
    assert named(await verified(MemoryReader(written), witnesses=[good], keys=keys)) == []
    assert named(await verified(MemoryReader(written), witnesses=[bad], keys=keys)) == [("forged", W, "6")]


def test_heads_are_read_out_of_a_log_of_other_lines():
    lines = [
        b'{"event":"ready","level":"info"}\n',
        b"plain text about an audit head\n"[:10],
        b'2025-11-21T12:00:00Z stderr F {"event":"audit head","writer":"w/1","seq":2,"hash":"%s","at":"t"}\n'
        % (b"a" * 64),
        b'{"event":"audit head","writer":"w/1","seq":1,"hash":"%s","signature":null}\n' % (b"b" * 64),
        b'{"event":"the audit head could not be written"}\n',
    ]
    assert read_witnesses(lines) == [Witness("w/1", 1, "b" * 64, None, None), Witness("w/1", 2, "a" * 64, None, "t")]


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"audit head","writer":"w/1","seq":2,"has',
        b'{"event":"audit head","writer":"w/1","seq":0,"hash":"%s"}' % (b"a" * 64),
        b'{"event":"audit head","writer":"w/1","seq":"2","hash":"%s"}' % (b"a" * 64),
        b'{"event":"audit head","writer":"w/1","seq":2,"hash":"short"}',
    ],
)
def test_a_head_that_cannot_be_read_is_no_head_that_is_passed_over(line):
    with pytest.raises(ValueError, match="line 2"):
        read_witnesses([b"{}\n", line])


# What was removed, and said so


def pruned(written, ranges, *, head=None, digest=None, seal=True):
    """The numbers are gone; a document says so, and a record of a command's own chain tells of it."""
    gone = Ranges.of(parse_ranges(ranges))
    written.records = [r for r in written.records if list(gone.without(*[r.document["chain"]["seq"]] * 2))]
    said = pruned_document("2025.11", {written.writer: ranges}, stamp(NOON))
    command = Written("host-7/0000000c")
    if seal:
        told = change_record(
            type=ChangeType.AUDIT, action=Action.PRUNED, subject="2025.11", changed=(digest or digest_of(said),)
        )
        command.add(orjson.loads(told.to_json()), told.document_id, told.index_month)
        command.head(head, seconds=9)
    command.proofs.append(Stored("audit-proof", proof_id(ProofKind.PRUNED, "2025.11"), said))
    return written, command


@pytest.mark.parametrize("ranges", ["1-6", "1-3", "4-6", "2,4", "3-5"])
async def test_what_was_pruned_on_record_is_not_missing(ranges):
    report = await verified(MemoryReader(*pruned(chain(), ranges)), span=ALL)
    assert named(report) == []
    assert "removed, and on record: 2025.11" in report.notes


async def test_more_than_was_pruned_is_missing():
    written, command = pruned(chain(), "2-3")
    written.records.pop(1)
    assert named(await verified(MemoryReader(written, command))) == [("missing", W, "4")]


@pytest.mark.parametrize(
    "how", [{"seal": False}, {"digest": "0" * 64}], ids=["no record tells of it", "the record tells of another"]
)
async def test_what_no_record_tells_of_was_not_pruned(how):
    report = await verified(MemoryReader(*pruned(chain(), "2-3", **how)))
    assert named(report) == [("missing", W, "2-3")]
    assert any("not believed" in note for note in report.notes)


async def test_where_heads_are_signed_a_signed_one_has_to_reach_the_record_of_a_pruning(signer):
    keys = HeadKeys.read([signer.public_key])
    believed = pruned(signed_chain(signer, 6), "2-3", head=signer)
    assert named(await verified(MemoryReader(*believed), keys=keys)) == []
    unsigned = pruned(signed_chain(signer, 6), "2-3")
    found = named(await verified(MemoryReader(*unsigned), keys=keys))
    assert found == [("missing", W, "2-3"), ("unsigned", "host-7/0000000c", "1")]


@pytest.mark.parametrize("text", ["", "0-3", "5-4", "a", "1-", 7, None])
def test_ranges_that_nobody_can_mean_are_refused(text):
    with pytest.raises(ValueError, match=r"range|invalid"):
        parse_ranges(text)


@pytest.mark.parametrize(
    ("ranges", "asked", "left"),
    [
        ("3-5", (1, 9), [(1, 2), (6, 9)]),
        ("3-5", (3, 5), []),
        ("3-5", (4, 6), [(6, 6)]),
        ("3-5", (6, 7), [(6, 7)]),
        ("1-2,5,7-9", (1, 10), [(3, 4), (6, 6), (10, 10)]),
        ("7-9,1-3,2-5", (4, 8), [(6, 6)]),
    ],
)
def test_ranges_are_taken_away(ranges, asked, left):
    assert list(Ranges.of(parse_ranges(ranges)).without(*asked)) == left


async def test_a_walk_that_finds_too_much_ends_and_says_so(monkeypatch):
    from worker.proof import verifying

    monkeypatch.setattr(verifying, "MOST_FINDINGS", 3)
    reader = MemoryReader(chain(20))
    for number in range(1, 21):
        replaced(reader, number, document(reader, number) | {"outcome": "refused"})
    report = await verified(reader)
    assert (len(report.findings), report.cut) == (3, True)
