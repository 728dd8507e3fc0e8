"""A record under whose id something is stored: what it is then, and that its number is accounted for."""

from datetime import timedelta

import orjson
import pytest

from schemas.audit import Outcome, duplicate_id
from schemas.audit_chain import PROOF_MONTH, ProofKind, digest_of, proof_id
from tests.support.chains import faults_of
from tests.unit.proof.proof_samples import NOON, contents, document
from worker.proof.chain import Chain
from worker.proof.contested import Standing, as_duplicate, compare, may_differ, void_of

LATER = NOON + timedelta(seconds=1)
REFUSED = {"outcome": Outcome.REFUSED}


def one(writer="w", **changes):
    plain = document(**changes)
    (done,) = contents(Chain(writer).seal([plain]))
    return done


def plain(**changes):
    return orjson.loads(document(**changes).document)


@pytest.mark.parametrize(
    ("ours", "stored", "standing"),
    [
        (one(), one(), Standing.OURS),
        (one(), one("v", worker_id="w2"), Standing.DUPLICATE),
        (one(), one("v", timestamp=LATER), Standing.DUPLICATE),
        (one(), plain(worker_id="w2"), Standing.DUPLICATE),
        (one(), one("v"), Standing.VOID),
        (one(), plain(), Standing.VOID),
        (one(), {}, Standing.DUPLICATE),
        (one(**REFUSED), one(**REFUSED), Standing.OURS),
        (one(**REFUSED), one("v", worker_id="w2", **REFUSED), Standing.VOID),
        (one(**REFUSED), {}, Standing.VOID),
        (one() | {"dead_letter": {}}, one("v", worker_id="w2") | {"dead_letter": {}}, Standing.VOID),
        (plain(), plain(), Standing.OURS),
        (plain(), one("v", worker_id="w2"), Standing.DUPLICATE),
        (plain(**REFUSED), one("v", worker_id="w2", **REFUSED), Standing.OURS),
    ],
)
def test_what_a_record_is_next_to_what_is_stored(ours, stored, standing):
    assert compare(ours, stored) is standing


def test_an_unchained_record_is_only_looked_up_where_two_mails_may_have_gone_out():
    assert [may_differ(each) for each in (one(**REFUSED), plain(), plain(**REFUSED))] == [True, True, False]


@pytest.mark.parametrize("said_before", [False, True])
def test_a_duplicate_stands_beside_the_first_and_its_link_holds(said_before):
    first, mine = one("v", worker_id="w2"), one(possible_duplicate=said_before)
    made = as_duplicate(document(possible_duplicate=said_before)._replace(document=orjson.dumps(mine)))
    found = orjson.loads(made.document)
    assert made.document_id == duplicate_id(document().document_id, "w1", mine["@timestamp"])
    assert found["possible_duplicate"] is True
    assert ("marked" in found["chain"]) is not said_before
    assert digest_of(found) == digest_of(mine)
    assert faults_of([first, found]) == []


def test_a_duplicate_of_an_unchained_record_has_no_link():
    found = orjson.loads(as_duplicate(document()).document)
    assert (found["possible_duplicate"], "chain" in found) == (True, False)


def test_a_void_accounts_for_a_number():
    chain = Chain("w")
    first, second, third = contents(chain.seal([document(n) for n in range(3)]))
    void = void_of(second, "abc", NOON)
    assert (void.document_id, void.index_month) == (proof_id(ProofKind.VOID, "w", 2), PROOF_MONTH)
    assert orjson.loads(void.document)["document_id"] == "abc"
    assert faults_of([first, third]) != []
    assert faults_of([first, third], contents([void])) == []


def test_a_record_without_a_link_leaves_no_void():
    with pytest.raises(ValueError, match="only a chained record"):
        void_of(plain(), "abc", NOON)
