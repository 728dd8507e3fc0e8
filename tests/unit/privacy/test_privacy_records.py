"""What a record keeps of its recipient, in each mode and with and without a key."""

import orjson
import pytest

from schemas.audit import Outcome, Reply
from schemas.audit_chain import digest_of
from tests.unit.audit.audit_samples import audit_record
from worker.delivery.privacy import PLAIN, Privacy, RecipientMode, masked

KEY = b"k" * 32
OTHER_KEY = b"o" * 32
ADDRESS = "Bob@dev.acme.example"
HIDING = [
    Privacy(RecipientMode.MASKED, None),
    Privacy(RecipientMode.MASKED, KEY),
    Privacy(RecipientMode.HASHED, KEY),
]
ALL = [PLAIN, Privacy(RecipientMode.PLAIN, KEY), *HIDING]
SAID = "5.1.1 <bob@dev.acme.example> User bob unknown, as carol@example.org is"


def refused(**fields):
    given = {"outcome": Outcome.REFUSED, "recipient": ADDRESS, "reply": Reply(code=550, text=SAID, phase="rcpt")}
    return audit_record(**given | fields)


def named(privacy):
    return f"{privacy.mode}{' with a key' if privacy.key else ''}"


def kept(privacy, record):
    return orjson.loads(privacy.document(record).document)


def test_plain_without_a_key_changes_nothing():
    record = refused(reason=SAID)
    document = PLAIN.document(record)
    assert (document.document_id, document.index_month, document.document) == (
        record.document_id,
        record.index_month,
        record.to_json(),
    )
    assert PLAIN.hash_of(ADDRESS) is None
    assert PLAIN.names("ab" * 20) == ("ab" * 20,)


@pytest.mark.parametrize("privacy", HIDING, ids=named)
def test_masked_and_hashed_records_hold_the_address_in_no_field(privacy):
    text = privacy.document(refused(reason=f"recipient-unknown: so. ({SAID})")).document.decode().lower()
    assert "bob@" not in text
    assert "bob" not in text
    assert "carol" not in text
    assert "<recipient>" in text


def test_masked_keeps_the_domain_and_a_letter():
    assert kept(HIDING[0], refused())["recipient"] == "B***@dev.acme.example"
    assert "recipient_hash" not in kept(HIDING[0], refused())


def test_hashed_keeps_the_hash_alone():
    record = kept(HIDING[2], refused())
    assert "recipient" not in record
    assert record["recipient_hash"] == HIDING[2].hash_of(ADDRESS)


def test_plain_with_a_key_keeps_the_address_in_its_field_and_nowhere_else():
    record = kept(Privacy(RecipientMode.PLAIN, KEY), refused())
    assert record["recipient"] == ADDRESS
    assert record["reply"]["text"] == "5.1.1 <recipient> User <recipient> unknown, as <address> is"
    assert record["recipient_hash"] == HIDING[1].hash_of(ADDRESS)


@pytest.mark.parametrize("privacy", [p for p in ALL if p.key], ids=named)
def test_with_a_key_the_digest_is_over_the_hash_and_not_over_the_address(privacy):
    record = kept(privacy, refused())
    without = {name: value for name, value in record.items() if name != "recipient"}
    assert digest_of(record) == digest_of(without)
    assert digest_of(record) != digest_of({**record, "recipient_hash": "0" * 32})


@pytest.mark.parametrize(
    ("address", "mask"),
    [
        ("bob@dev.acme.example", "b***@dev.acme.example"),
        ("b@dev.acme.example", "b***@dev.acme.example"),
        ("bartholomew.long@dev.acme.example", "b***@dev.acme.example"),
        ('"a b"@dev.acme.example', "***@dev.acme.example"),
        ("ünal@dev.acme.example", "ü***@dev.acme.example"),
        ("nobody", "***"),
    ],
)
def test_a_mask_tells_neither_the_length_nor_the_rest(address, mask):
    assert masked(address) == mask


def test_the_hash_is_the_same_in_any_case_and_another_for_every_key():
    one, other = HIDING[2], Privacy(RecipientMode.HASHED, OTHER_KEY)
    assert one.hash_of("BOB@DEV.acme.example") == one.hash_of("bob@dev.acme.example")
    assert one.hash_of(ADDRESS) != other.hash_of(ADDRESS)
    assert one.hash_of(ADDRESS) != one.hash_of("bo@dev.acme.example")
    # HMAC-SHA-256 as `openssl dgst -sha256 -hmac` writes it, its first 32 digits.
    assert one.hash_of("bob@dev.acme.example") == "ee32eacb0d6ff20eae8812b727e52a06"


def test_ids_of_hidden_records_cannot_be_made_without_the_key():
    record = refused()
    keyed = [p.document(record).document_id for p in HIDING[1:]]
    assert keyed[0] == keyed[1] == HIDING[2].known_as(record.document_id)
    assert keyed[0] != record.document_id
    assert keyed[0] != Privacy(RecipientMode.HASHED, OTHER_KEY).known_as(record.document_id)
    assert len(keyed[0]) == 40
    assert int(keyed[0], 16)


@pytest.mark.parametrize("privacy", ALL, ids=named)
def test_a_record_is_among_its_names_in_every_mode(privacy):
    record = refused()
    assert privacy.document(record).document_id in privacy.names(record.document_id)


def test_whoever_changes_the_mode_finds_what_was_recorded_before():
    names = {mode: Privacy(mode, KEY).names("ab" * 20) for mode in RecipientMode}
    assert len(set(names.values())) == 1


def test_an_event_that_could_not_be_read_has_no_recipient_and_no_hash():
    record = kept(HIDING[2], audit_record(outcome=Outcome.INVALID, recipient=None))
    assert "recipient" not in record
    assert "recipient_hash" not in record


def test_a_queue_id_that_looks_like_an_address_stays_unless_it_is_the_recipients():
    privacy = HIDING[2]
    own = kept(privacy, audit_record(recipient=ADDRESS, remote_queue_id="bob@dev.acme.example"))
    others = kept(privacy, audit_record(recipient=ADDRESS, remote_queue_id="9A1@mx.example.org"))
    assert own["remote_queue_id"] == "<recipient>"
    assert others["remote_queue_id"] == "9A1@mx.example.org"


def test_the_key_shows_itself_nowhere():
    assert "kkkk" not in repr(HIDING[2])


def test_hashed_without_a_key_is_refused():
    with pytest.raises(ValueError, match="need a key"):
        Privacy(RecipientMode.HASHED, None)
