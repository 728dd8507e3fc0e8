"""Sealing: numbers from 1 on, links that hold whatever JSON the documents went through, and heads."""

import orjson
import pytest
from structlog.testing import capture_logs

from schemas.audit_chain import PROOF_MONTH, ProofKind, digest_of, genesis, proof_id, read_link
from tests.support.chains import faults_of
from tests.unit.proof.proof_samples import NOON, contents, document
from worker.delivery.ports import Document
from worker.proof.chain import Chain, new_writer
from worker.proof.signing import PublicKeys, Signer


def sealed(count, chain=None):
    return contents((chain or Chain("w1/00000001")).seal([document(n) for n in range(count)]))


def test_each_start_of_a_worker_is_a_writer_of_its_own():
    first, second = new_writer("host-7"), new_writer("host-7")
    assert first != second
    worker, slash, start = first.rpartition("/")
    assert (worker, slash, len(start), int(start, 16) >= 0) == ("host-7", "/", 8, True)


def test_records_are_numbered_from_one_and_each_follows_the_one_before():
    chain = Chain("w1/00000001")
    found = [*sealed(2, chain), *sealed(3, chain)]
    assert [read_link(each).seq for each in found] == [1, 2, 3, 4, 5]
    assert read_link(found[0]).prev == genesis("w1/00000001")
    assert faults_of(found) == []


def test_a_sealed_document_is_the_document_and_its_link():
    plain, (done,) = document(), Chain('odd "name"/0').seal([document()])
    found = orjson.loads(done.document)
    assert (done.document_id, done.index_month) == (plain.document_id, plain.index_month)
    assert found.pop("chain")["writer"] == 'odd "name"/0'
    assert found == orjson.loads(plain.document)
    assert b"\n" not in done.document


@pytest.mark.parametrize(
    ("what", "change"),
    {
        "a changed field": lambda records: records[1].update(outcome="refused"),
        "a changed float": lambda records: records[1]["timings"].update(total_ms=1e21 + 2e5),
        "a field that was added": lambda records: records[1].update(note="x"),
        "a missing record": lambda records: records.pop(1),
        "two that changed places": lambda records: [r["chain"].update(seq=3 - r["chain"]["seq"]) for r in records[:2]],
        "one that is there twice": lambda records: records.append(dict(records[1])),
    }.items(),
)
def test_what_is_done_to_a_record_shows(what, change):
    records = sealed(3)
    assert faults_of(records) == [], what
    change(records)
    assert faults_of(records) != [], what


def test_a_record_whose_recipient_is_hashed_may_forget_the_address():
    (done,) = contents(Chain("w").seal([document(recipient_hash="ab" * 16)]))
    del done["recipient"]
    assert faults_of([done]) == []


def test_nobody_else_says_where_a_record_stands():
    claimed = Document("1", "2026.11", orjson.dumps({"a": 1, "chain": {"writer": "me", "seq": 9}}))
    (done,) = contents(Chain("w").seal([claimed]))
    assert (read_link(done).writer, read_link(done).seq) == ("w", 1)
    assert faults_of([done]) == []


@pytest.mark.parametrize("body", [b"[]", b'"x"', b'{"a": ', b""])
def test_what_is_no_record_seals_none_of_its_company(body):
    chain = Chain("w")
    with pytest.raises(ValueError, match=r".+"):
        chain.seal([document(1), Document("2", "2026.11", body)])
    assert (chain.length, faults_of(sealed(1, chain))) == (0, [])


def test_an_empty_record_is_sealed_too():
    (done,) = contents(Chain("w").seal([Document("1", "2026.11", b"{} ")]))
    assert list(done) == ["chain"]


class TestHeads:
    def test_a_chain_without_records_has_no_head(self):
        assert Chain("w").head(NOON) is None

    def test_a_head_says_how_far_the_chain_has_come_and_is_said_once(self):
        chain = Chain("w")
        found = sealed(3, chain)
        head = chain.head(NOON)
        assert (head.document_id, head.index_month) == (proof_id(ProofKind.HEAD, "w", 3), PROOF_MONTH)
        said = orjson.loads(head.document)
        assert (said["seq"], said["hash"]) == (3, found[-1]["chain"]["hash"])
        assert (said["@timestamp"], "signature" in said) == ("2026-11-21T12:00:00Z", False)
        assert chain.head(NOON) is None
        sealed(1, chain)
        assert orjson.loads(chain.head(NOON).document)["seq"] == 4

    def test_a_head_is_logged_as_well(self):
        chain = Chain("w", Signer.new()[0])
        sealed(2, chain)
        with capture_logs() as logs:
            said = orjson.loads(chain.head(NOON).document)
        (line,) = logs
        assert line["event"] == "audit head"
        assert {name: line[name] for name in ("writer", "seq", "hash", "signature")} == {
            name: said[name] for name in ("writer", "seq", "hash", "signature")
        }


class TestSignatures:
    def head(self, signer):
        chain = Chain("w", signer)
        sealed(2, chain)
        return orjson.loads(chain.head(NOON).document)

    def test_a_signed_head_is_proved_by_the_public_key(self):
        signer, _ = Signer.new()
        keys = PublicKeys([Signer.new()[0].public_key, signer.public_key])
        head = self.head(signer)
        assert (keys.knows(head), keys.signed(head)) == (True, True)

    @pytest.mark.parametrize(
        "change",
        [
            {"seq": 1},
            {"hash": "0" * 64},
            {"writer": "v"},
            {"@timestamp": "2026-11-21T12:00:01Z"},
            {"signature": "AAAA"},
            {"signature": "no base64!"},
            {"signature": None},
        ],
        ids=str,
    )
    def test_nothing_of_it_can_be_changed(self, change):
        signer, _ = Signer.new()
        assert not PublicKeys([signer.public_key]).signed(self.head(signer) | change)

    def test_another_keys_head_and_an_unsigned_one_are_not_signed(self):
        keys = PublicKeys([Signer.new()[0].public_key])
        assert not keys.signed(self.head(Signer.new()[0]))
        assert not keys.signed(self.head(None))

    def test_a_key_goes_through_the_environment_and_shows_itself_by_its_name_alone(self):
        signer, text = Signer.new()
        again = Signer.read(f" {text}\n")
        assert (again.key_id, again.public_key) == (signer.key_id, signer.public_key)
        assert repr(again) == f"Signer({signer.key_id})"
        assert text not in repr(again)

    @pytest.mark.parametrize("text", ["", "c2hvcnQ=", "not base64 at all", "A" * 200])
    def test_a_wrong_key_is_a_sentence_that_does_not_quote_it(self, text):
        with pytest.raises(ValueError, match="expected a key as `postbote audit key` prints it") as refused:
            Signer.read(text)
        assert not text or text not in str(refused.value)

    def test_what_a_digest_is_over_is_the_contracts_to_say(self):
        (done,) = sealed(1)
        assert digest_of(done) == digest_of(orjson.loads(document(0).document))
