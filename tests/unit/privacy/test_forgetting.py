"""What becomes of a record when its recipient is forgotten, and when it is left for its chain's sake."""

import itertools

import orjson
import pytest

from schemas.audit import Outcome, Reply
from schemas.audit_chain import chained, digest_of, genesis, link_hash
from schemas.audit_change import Action, ChangedBy, ChangeType
from tests.control.shipping.shipping_samples import change_record
from tests.unit.audit.audit_samples import audit_record
from worker.audit.entries import Ticket, bury, entry_of, restore
from worker.control.forgetting import Forgotten, Found, Page, Told, deed, forget, without_address
from worker.delivery.privacy import PLAIN, Privacy, RecipientMode

BOB = "bob@dev.acme.example"
KEYED = Privacy(RecipientMode.PLAIN, b"k" * 32)
WHOM = Forgotten(BOB, KEYED.hash_of(BOB))
SAID = "<Bob@dev.acme.example> unknown, bob"


def record_of(privacy=KEYED, *, chain=True, **fields):
    record = audit_record(**{"recipient": BOB, "reply": Reply(code=550, text=SAID)} | fields)
    document = orjson.loads(privacy.document(record).document)
    return chained(document, "w/1", 1, genesis("w/1"))[0] if chain else document


def proven(document):
    chain = document["chain"]
    return link_hash(chain["writer"], chain["seq"], chain["prev"], digest_of(document)) == chain["hash"]


class Audit:
    """An audit in memory; `touch` is called before each replacing, as somebody else's change would come."""

    def __init__(self, *documents, touch=None, page=2):
        self.documents = dict(enumerate(documents))
        self.versions = dict.fromkeys(self.documents, 0)
        self.touch = touch or (lambda _: None)
        self.size = page
        self.replaced = 0

    async def page(self, address, after):
        del address
        keys = [key for key in self.documents if after is None or key > after][: self.size]
        found = [Found((key, self.versions[key]), self.documents[key]) for key in keys]
        return Page(found, keys[-1] if len(keys) == self.size else None)

    async def replace(self, changes):
        self.touch(self)
        done = 0
        for (place, _), fresh in changes:
            key, version = place
            if self.versions[key] == version:
                self.documents[key], done = fresh, done + 1
                self.versions[key] += 1
        self.replaced += done
        return done


class Record:
    def __init__(self, audit):
        self.audit, self.before = audit, []

    async def __call__(self):
        self.before.append(self.audit.replaced)


async def forgotten(audit, whom=WHOM, **options):
    record = Record(audit)
    return await forget(audit, whom, record, **options), record.before


async def test_a_hashed_records_address_goes_and_its_chain_holds():
    audit = Audit(record_of())
    assert await forgotten(audit) == (Told(1), [0])
    (document,) = audit.documents.values()
    assert "recipient" not in document
    assert document["recipient_hash"] == WHOM.keyed_hash
    assert proven(document)
    assert b"bob" not in orjson.dumps(document).lower()


async def test_it_is_done_once_and_recorded_once():
    audit = Audit(*(record_of(number=n) for n in range(5)))
    assert await forgotten(audit) == (Told(5), [0])
    assert await forgotten(audit) == (Told(), [])


async def test_a_record_chained_before_a_key_was_set_is_counted_and_left():
    before = record_of(PLAIN)
    audit = Audit(before, record_of())
    assert await forgotten(audit) == (Told(1, unprovable=1), [0])
    assert audit.documents[0] == before
    assert proven(before)


async def test_unless_the_asker_takes_that_its_chain_breaks():
    audit = Audit(record_of(PLAIN))
    whom = Forgotten(BOB, WHOM.keyed_hash, unprovable=True)
    assert (await forgotten(audit, whom))[0] == Told(1)
    (document,) = audit.documents.values()
    assert not proven(document)
    assert "recipient" not in document
    assert document["recipient_hash"] == WHOM.keyed_hash
    assert document["reply"]["text"] == "<recipient> unknown, <recipient>"


async def test_a_record_without_a_chain_has_no_proof_to_lose():
    audit = Audit(record_of(PLAIN, chain=False))
    assert (await forgotten(audit))[0] == Told(1)
    assert b"bob" not in orjson.dumps(audit.documents[0]).lower()


async def test_an_address_quoted_in_anothers_record_goes_and_the_other_stays():
    audit = Audit(record_of(PLAIN, chain=False, recipient="bob.other@dev.acme.example"))
    assert (await forgotten(audit))[0] == Told(1)
    assert audit.documents[0]["recipient"] == "bob.other@dev.acme.example"
    assert audit.documents[0]["reply"]["text"] == "<recipient> unknown, bob"


@pytest.mark.parametrize(
    "document",
    [
        record_of(recipient="carol@dev.acme.example", reply=None),
        record_of(Privacy(RecipientMode.MASKED, b"k" * 32)),
        record_of(Privacy(RecipientMode.HASHED, b"k" * 32)),
        change_record(subject=BOB).model_dump(mode="json", by_alias=True, exclude_none=True),
    ],
    ids=["of somebody else", "masked", "hashed", "of an account of that address"],
)
async def test_what_names_no_recipient_of_that_address_stays_as_it_is(document):
    audit = Audit(document)
    assert await forgotten(audit, Forgotten(BOB, WHOM.keyed_hash, unprovable=True)) == (Told(), [])
    assert audit.documents[0] == document


@pytest.mark.parametrize("privacy", [KEYED, PLAIN])
async def test_a_dead_letter_loses_it_in_all_three_places(privacy):
    record = audit_record(recipient=BOB, outcome=Outcome.REFUSED)
    letter = orjson.loads(bury(entry_of(record, "p", Ticket(1, None)), f"no index: Preview of value: '{BOB}'").document)
    inner = orjson.loads(letter["dead_letter"]["record"])
    if privacy.key:
        inner["recipient_hash"] = letter["recipient_hash"] = WHOM.keyed_hash
        inner = chained(inner, "w/1", 1, genesis("w/1"))[0]
        letter["dead_letter"]["record"] = orjson.dumps(inner).decode()
    audit = Audit(letter)
    assert (await forgotten(audit))[0] == Told(1)
    assert b"bob" not in orjson.dumps(audit.documents[0]).lower()
    assert audit.documents[0]["recipient_hash"] == WHOM.keyed_hash
    restored = restore(audit.documents[0])
    assert restored["event_id"] == record.event_id
    if privacy.key:
        assert proven({name: value for name, value in restored.items() if name != "dead_letter"})


async def test_a_dead_letter_that_never_was_a_record_loses_it_too():
    letter = {"type": "audit.outbox", "dead_letter": {"index": "outbox", "error": "no JSON", "raw": f'{{"x": "{BOB}'}}
    assert without_address(letter, WHOM)["dead_letter"]["raw"] == '{"x": "<recipient>'


async def test_counting_changes_nothing_and_records_nothing():
    audit = Audit(record_of(), record_of(PLAIN))
    assert await forgotten(audit, dry_run=True) == (Told(1, unprovable=1), [])
    assert audit.replaced == 0


async def test_what_another_has_changed_meanwhile_is_read_again():
    def touch(audit):
        if not audit.replaced:
            audit.documents[1] = {**audit.documents[1], "attempt": 2}
            audit.versions[1] += 1

    audit = Audit(record_of(chain=False), record_of(chain=False), touch=touch)
    assert (await forgotten(audit))[0] == Told(2)
    assert audit.documents[1]["attempt"] == 2
    assert "recipient" not in audit.documents[1]


async def test_what_keeps_changing_is_given_up_and_told():
    def touch(audit):
        audit.versions[0] += 1

    told, before = await forgotten(Audit(record_of(), touch=touch))
    assert told == Told(contested=1)
    assert before == [0]


async def test_one_that_was_broken_off_goes_on_where_it_was():
    calls = itertools.count()

    def touch(_):
        if next(calls) == 1:
            raise ConnectionError

    audit = Audit(*(record_of(number=n) for n in range(5)), touch=touch)
    with pytest.raises(ConnectionError):
        await forgotten(audit)
    assert 0 < audit.replaced < 5
    assert (await forgotten(audit))[0] == Told(5 - 2)


def test_the_record_of_it_names_the_hash_and_never_the_address():
    actor = ChangedBy(kind="command", name="ops", scope="controller")
    done, again = deed(WHOM, actor), deed(WHOM, actor)
    assert (done.type, done.action, done.subject) == (ChangeType.AUDIT, Action.FORGOTTEN, WHOM.keyed_hash)
    assert b"bob" not in done.to_json()
    assert done.document_id != again.document_id
