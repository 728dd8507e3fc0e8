"""What somebody may do to an audit; each takes a `MemoryReader` of one chain of six records."""

from datetime import timedelta

import orjson

from schemas.audit_times import epoch_ms
from tests.unit.audit.audit_samples import NOON, audit_record
from tests.unit.proof_verify.proof_samples import W, resealed
from worker.proof.ports import Stored


def at(seconds):
    return epoch_ms(NOON + timedelta(seconds=seconds))


def replaced(reader, number, document, **place):
    """Let another document stand where the record of this number does."""
    position = next(i for i, r in enumerate(reader.records) if r.document["chain"]["seq"] == number)
    reader.change(position, document=document, **place)


def document(reader, number):
    return next(r.document for r in reader.records if r.document["chain"]["seq"] == number)


def without(reader, *numbers):
    reader.records = [r for r in reader.records if r.document["chain"]["seq"] not in numbers]


def nothing(_reader):
    pass


def other_words(reader):
    replaced(reader, 3, {**document(reader, 3), "outcome": "refused"})


def words_and_own_hash(reader):
    replaced(reader, 3, resealed(document(reader, 3), reply={"code": 550, "text": "no"}))


def words_and_own_hash_of_the_last(reader):
    replaced(reader, 6, resealed(document(reader, 6), reply={"code": 550, "text": "no"}))


def field_added(reader):
    replaced(reader, 3, {**document(reader, 3), "note": "fine"})


def chain_with_more(reader):
    link = document(reader, 3)["chain"] | {"note": "fine"}
    replaced(reader, 3, document(reader, 3) | {"chain": link})


def number_that_json_cannot_hold(reader):
    replaced(reader, 3, {**document(reader, 3), "attempt": 10**40})


def one_deleted(reader):
    without(reader, 3)


def first_deleted(reader):
    without(reader, 1)


def three_deleted(reader):
    without(reader, 2, 3, 5)


def last_deleted(reader):
    without(reader, 5, 6)


def all_deleted(reader):
    without(reader, *range(1, 7))


def contents_swapped(reader):
    third, fourth = document(reader, 3), document(reader, 4)
    replaced(reader, 3, fourth | {"chain": third["chain"]})
    replaced(reader, 4, third | {"chain": fourth["chain"]})


def swapped_and_resealed(reader):
    third, fourth = document(reader, 3), document(reader, 4)
    places = [{"document_id": r.document_id} for r in reader.records[2:4]]
    replaced(reader, 3, resealed(fourth, seq=103), **places[1])
    replaced(reader, 4, resealed(third, seq=4), **places[0])
    replaced(reader, 103, resealed(fourth, seq=3), **places[1])


def ids_swapped(reader):
    third, fourth = (r.document_id for r in reader.records[2:4])
    reader.change(2, document_id=fourth)
    reader.change(3, document_id=third)


def copied_under_another_id(reader):
    reader.records.insert(0, reader.records[2]._replace(document_id="f" * 40))


def copied_into_another_month(reader):
    reader.records.insert(0, reader.records[2]._replace(place="audit-2025.10", month="2025.10"))


def moved_into_another_month(reader):
    reader.change(2, place="audit-2025.10", month="2025.10")


def made_up_in_a_number_that_is_taken(reader):
    made_up = audit_record("evil", seconds=2.5)
    sealed = resealed(orjson.loads(made_up.to_json()) | {"chain": document(reader, 3)["chain"]})
    reader.records.insert(0, Stored("audit-2025.11", made_up.document_id, sealed, "2025.11"))


def made_up_branch(reader):
    """Two that continue each other, beside the writer's own: it shows only behind them which were its own."""
    prev = document(reader, 3)["chain"]["prev"]
    for number in (3, 4):
        made_up = audit_record(f"evil-{number}", seconds=number - 0.5)
        link = {"writer": W, "seq": number, "prev": prev}
        sealed = resealed(orjson.loads(made_up.to_json()) | {"chain": link})
        prev = sealed["chain"]["hash"]
        reader.records.insert(0, Stored("audit-2025.11", made_up.document_id, sealed, "2025.11"))


def made_up_without_a_chain(reader):
    made_up = audit_record("evil", seconds=2.5)
    reader.records.append(Stored("audit-2025.11", made_up.document_id, orjson.loads(made_up.to_json()), "2025.11"))


def made_up_with_an_unreadable_chain(reader):
    made_up = orjson.loads(audit_record("evil", seconds=2.5).to_json())
    made_up["chain"] = {"writer": W, "seq": 0, "prev": "", "hash": ""}
    reader.records.append(Stored("audit-2025.11", "e" * 40, made_up, "2025.11"))


def made_up_behind_the_last(reader):
    made_up = audit_record("evil", seconds=7)
    link = {"writer": W, "seq": 7, "prev": "0" * 64}
    sealed = resealed(orjson.loads(made_up.to_json()) | {"chain": link})
    reader.records.append(Stored("audit-2025.11", made_up.document_id, sealed, "2025.11"))


def made_up_writer(reader):
    made_up = audit_record("evil", seconds=2.5)
    link = {"writer": "evil/1", "seq": 1, "prev": "0" * 64}
    sealed = resealed(orjson.loads(made_up.to_json()) | {"chain": link})
    reader.records.append(Stored("audit-2025.11", made_up.document_id, sealed, "2025.11"))


def written_anew(reader):
    prev = document(reader, 2)["chain"]["hash"]
    for number in range(3, 7):
        anew = resealed(document(reader, number), prev=prev, reason="tampered")
        replaced(reader, number, anew)
        prev = anew["chain"]["hash"]


def head_away(reader):
    reader.proofs_there.clear()


def time_moved_out_of_the_range(reader):
    replaced(reader, 3, {**document(reader, 3), "@timestamp": "2031-01-01T00:00:00Z"})


def time_away(reader):
    replaced(reader, 3, {name: value for name, value in document(reader, 3).items() if name != "@timestamp"})


def found_by_something_else(reader):
    reader.change(2, disagrees=("outcome",))
