"""A chain in a real index and in the embedded file: whole as it was written, and every tampering found by name."""

import json
import sqlite3
import urllib.request
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta

import orjson
import pytest

from schemas.audit import Outcome
from schemas.audit_chain import Link, ProofKind, chained, head_document, head_statement, link_hash, proof_id
from schemas.audit_times import epoch_ms
from tests.control.shipping.shipping_samples import change_record
from tests.unit.audit.audit_samples import NOON, audit_record
from worker.audit.create_only import NO_PIPELINE
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.proof_reader import OpenSearchProofReader
from worker.delivery.ports import Document
from worker.embedded.audit import SqliteAudit
from worker.embedded.audit_writing import _row
from worker.embedded.proof_reader import open_proof_reader
from worker.proof.chain import Chain
from worker.proof.ports import Span
from worker.proof.sealed import SealedAudit
from worker.proof.signing import Signer
from worker.proof.verify_heads import HeadKeys, Witness
from worker.proof.verifying import Question, verify

ONE, TWO = "worker-1/0000000a", "worker-2/0000000b"
SPAN = Span(epoch_ms(NOON - timedelta(hours=1)), epoch_ms(NOON + timedelta(hours=1)))
PAGE = 3  # so that every walk is one of many pages


@dataclass
class Found:
    """A document and where it stands."""

    place: str
    id: str
    document: dict


class OpenSearchPlace:
    """The index, by raw requests, as somebody who may do everything."""

    def __init__(self, url, prefix):
        self.url, self.prefix = url, prefix

    def audit(self):
        return OpenSearchAudit(self.url, index_prefix=self.prefix)

    @asynccontextmanager
    async def reader(self):
        self._ask("POST", f"{self.prefix}-*/_refresh?expand_wildcards=all")
        reader = OpenSearchProofReader(self.url, index_prefix=self.prefix, page=PAGE)
        yield reader
        await reader.close()

    def records(self):
        return self._all(f"{self.prefix}-*")

    def proofs(self):
        return self._all(f"{self.prefix}-proof")

    def put(self, found):
        # An index of the audit takes no write over a record: nothing that keeps an admin from it.
        self._ask("PUT", f"{found.place}/_settings", {"index.final_pipeline": NO_PIPELINE})
        self._ask("PUT", f"{found.place}/_doc/{found.id}?refresh=true", found.document)

    def delete(self, found):
        self._ask("DELETE", f"{found.place}/_doc/{found.id}?refresh=true")

    def month(self, text):
        return f"{self.prefix}-{text}"

    def _all(self, indices):
        self._ask("POST", f"{self.prefix}-*/_refresh?expand_wildcards=all")
        answer = self._ask("POST", f"{indices}/_search", {"size": 1000})
        return [Found(hit["_index"], hit["_id"], hit["_source"]) for hit in answer["hits"]["hits"]]

    def _ask(self, method, path, body=None):
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/{path}", content, {"content-type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as reply:
            return json.load(reply)


class SqlitePlace:
    """The file, as somebody who may write to it."""

    def __init__(self, path):
        self.path = path

    def audit(self):
        return SqliteAudit(self.path)

    @asynccontextmanager
    async def reader(self):
        async with open_proof_reader(self.path, page=PAGE) as reader:
            yield reader

    def records(self):
        return self._all("record")

    def proofs(self):
        return self._all("proof")

    def put(self, found):
        content = orjson.dumps(found.document)
        if found.place == "record":
            row = _row(Document(found.id, "", content), found.document)
            self._do(f"INSERT OR REPLACE INTO record VALUES ({', '.join('?' * len(row))})", row)
            return
        known = found.document
        row = (found.id, epoch_ms(NOON), known["kind"], known["writer"], known["seq"], content)
        self._do("INSERT OR REPLACE INTO proof VALUES (?, ?, ?, ?, ?, ?)", row)

    def delete(self, found):
        self._do(f"DELETE FROM {found.place} WHERE id = ?", (found.id,))

    def month(self, _text):
        return "record"

    def _all(self, table):
        return [Found(table, own, orjson.loads(body)) for own, body in self._do(f"SELECT id, document FROM {table}")]

    def _do(self, sql, values=()):
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(sql, values).fetchall()


@pytest.fixture(params=["opensearch", "sqlite"])
def place(request, tmp_path):
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "audit.db")
    # By name, so that the embedded half needs no server.
    return OpenSearchPlace(request.getfixturevalue("opensearch").url, request.getfixturevalue("index_prefix"))


@pytest.fixture(scope="module")
def signer():
    return Signer.new()[0]


@asynccontextmanager
async def sealing(place, writer, signer=None):
    """An audit whose records are chained; ends without a head of its own."""
    audit = place.audit()
    await (audit.open() if isinstance(audit, SqliteAudit) else audit.start())
    yield SealedAudit(audit, Chain(writer, signer))
    await audit.close()


async def write(place, signer, writer=ONE, count=8, heads=(4, 8)):
    async with sealing(place, writer, signer) as sealed:
        for number in range(1, count + 1):
            await sealed.write([audit_record(f"{writer}-{number}", seconds=number)])
            if number in heads:
                await sealed.write_head(NOON + timedelta(seconds=number))


@pytest.fixture
async def audit(place, signer):
    """A chain of eight with heads at 4 and 8, and a bystander's of two."""
    await write(place, signer)
    await write(place, signer, TWO, 2, (2,))
    return place


async def verified(place, signer, **options):
    async with place.reader() as reader:
        question = Question(
            options.pop("span", SPAN),
            NOON + timedelta(days=1),
            keys=HeadKeys.read([signer.public_key]) if signer else HeadKeys(),
            **options,
        )
        return await verify(reader, question)


def named(report):
    return [(each.kind.value, each.writer, each.number) for each in report.sorted()]


def record(place, number, writer=ONE):
    return next(
        found
        for found in place.records()
        if (found.document.get("chain") or {}).get("writer") == writer and found.document["chain"]["seq"] == number
    )


def head(place, number, writer=ONE):
    heads = (each for each in place.proofs() if each.document["kind"] == "head")
    return next(each for each in heads if (each.document["writer"], each.document["seq"]) == (writer, number))


def resealed(document, **changes):
    """Other values, and a hash that fits them."""
    link = document["chain"]
    place = [changes.pop(name, link[name]) for name in ("writer", "seq", "prev")]
    return chained({**document, **changes}, *place)[0]


# What may be done to it: each says what is to be found


def change_a_field(place):
    found = record(place, 3)
    place.put(Found(found.place, found.id, found.document | {"outcome": "refused"}))
    return [("changed", ONE, "3")]


def change_the_words_and_the_hash(place):
    found = record(place, 3)
    words = {"code": 550, "text": "550 no such user"}
    place.put(Found(found.place, found.id, resealed(found.document, reply=words)))
    return [("changed", ONE, "3")]


def delete_one(place):
    place.delete(record(place, 3))
    return [("missing", ONE, "3")]


def delete_the_tail(place):
    for number in (7, 8):
        place.delete(record(place, number))
    return [("missing", ONE, "7-8")]


def delete_the_tail_with_its_head(place):
    for number in (7, 8):
        place.delete(record(place, number))
    place.delete(head(place, 8))
    return [("uncovered", ONE, "6")]


def delete_all_records_of_a_writer(place):
    for number in range(1, 9):
        place.delete(record(place, number))
    return [("missing", ONE, "1-8")]


def make_one_up_without_a_chain(place):
    made_up = audit_record("evil", seconds=5.5)
    place.put(Found(place.month("2025.11"), made_up.document_id, orjson.loads(made_up.to_json())))
    return [("inserted", None, None)]


def make_one_up_with_a_chain(place):
    made_up = orjson.loads(audit_record("evil", seconds=5.5).to_json())
    link = record(place, 5).document["chain"]
    place.put(Found(place.month("2025.11"), audit_record("evil").document_id, resealed(made_up | {"chain": link})))
    return [("inserted", ONE, "5")]


def make_one_up_with_a_chain_that_nobody_writes(place):
    made_up = orjson.loads(audit_record("evil", seconds=5.5).to_json())
    link = {"writer": [ONE], "seq": 5, "prev": "x", "hash": "y"}
    place.put(Found(place.month("2025.11"), "e" * 40, made_up | {"chain": link}))
    return [("inserted", None, None)]


def make_up_a_writer(place):
    made_up = orjson.loads(audit_record("evil", seconds=5.5).to_json())
    sealed = chained(made_up, "evil/0000000c", 1, "0" * 64)[0]
    place.put(Found(place.month("2025.11"), audit_record("evil").document_id, sealed))
    return [("inserted", "evil/0000000c", "1")]


def swap_two(place):
    second, third = record(place, 2), record(place, 3)
    place.put(Found(third.place, third.id, third.document | {"chain": second.document["chain"]}))
    place.put(Found(second.place, second.id, second.document | {"chain": third.document["chain"]}))
    return [("changed", ONE, "2"), ("changed", ONE, "3")]


def swap_two_and_reseal_them(place):
    second, third = record(place, 2), record(place, 3)
    place.put(Found(third.place, third.id, resealed(third.document, seq=2)))
    place.put(Found(second.place, second.id, resealed(second.document, seq=3)))
    return [("reordered", ONE, "2"), ("reordered", ONE, "3")]


def copy_under_another_id(place):
    found = record(place, 3)
    place.put(Found(found.place, "0" * 40, found.document))
    return [("inserted", ONE, "3")]


def forge_a_head(place):
    found = head(place, 4)
    place.put(Found(found.place, found.id, found.document | {"hash": "0" * 64}))
    return [("forged", ONE, "4")]


def sign_with_another_key(place):
    found, other = head(place, 8), Signer.new()[0]
    said = found.document
    signature = other.sign(head_statement(said["writer"], said["seq"], said["hash"], said["@timestamp"]))
    place.put(Found(found.place, found.id, said | {"signature": signature, "key_id": other.key_id}))
    return [("forged", ONE, "8")]


def take_a_signature_away(place):
    found = head(place, 8)
    bare = {name: value for name, value in found.document.items() if name not in {"signature", "key_id"}}
    place.put(Found(found.place, found.id, bare))
    return [("unsigned", ONE, "8")]


def write_the_chain_anew(place):
    prev = record(place, 2).document["chain"]["hash"]
    for number in range(3, 9):
        found = record(place, number)
        anew = resealed(found.document, prev=prev, reason="it was never so")
        place.put(Found(found.place, found.id, anew))
        prev = anew["chain"]["hash"]
    return [("rewritten", ONE, "4"), ("rewritten", ONE, "8")]


def move_in_time(place):
    found = record(place, 3)
    place.put(Found(found.place, found.id, found.document | {"@timestamp": "2030-01-01T00:00:00Z"}))
    return [("changed", ONE, "3")]


def nothing(_place):
    return []


TAMPERINGS = [
    nothing,
    change_a_field,
    change_the_words_and_the_hash,
    delete_one,
    delete_the_tail,
    delete_the_tail_with_its_head,
    delete_all_records_of_a_writer,
    make_one_up_without_a_chain,
    make_one_up_with_a_chain,
    make_one_up_with_a_chain_that_nobody_writes,
    make_up_a_writer,
    swap_two,
    swap_two_and_reseal_them,
    copy_under_another_id,
    forge_a_head,
    sign_with_another_key,
    take_a_signature_away,
    write_the_chain_anew,
    move_in_time,
]


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
async def test_each_tampering_is_named_and_nothing_else(audit, signer, tamper):
    expected = tamper(audit)
    assert named(await verified(audit, signer)) == expected


async def test_a_finding_says_where_it_is(audit, signer):
    found = record(audit, 3)
    change_a_field(audit)
    (finding,) = (await verified(audit, signer)).findings
    assert (finding.index, finding.document_id) == (found.place, found.id)
    assert finding.time == found.document["@timestamp"]


def remembered(place, writer=ONE):
    heads = [each.document for each in place.proofs() if each.document["writer"] == writer]
    return [Witness(*(said[name] for name in ("writer", "seq", "hash", "signature", "@timestamp"))) for said in heads]


@pytest.mark.parametrize("span", [SPAN, Span(SPAN.until_ms, SPAN.until_ms + 1)], ids=["in the range", "out of it"])
async def test_a_writer_of_whom_nothing_is_left_is_known_to_a_log_kept_elsewhere(audit, signer, span):
    witnesses = sorted(remembered(audit))
    assert named(await verified(audit, signer, witnesses=witnesses, span=span)) == []
    for number in range(1, 9):
        audit.delete(record(audit, number))
    for number in (4, 8):
        audit.delete(head(audit, number))
    assert named(await verified(audit, signer)) == []
    assert named(await verified(audit, signer, witnesses=witnesses, span=span)) == [("missing", ONE, "1-8")]


async def test_a_whole_audit_with_all_that_belongs_to_it(place, signer):
    refused = audit_record("refused", outcome=Outcome.REFUSED)
    async with sealing(place, ONE, signer) as one, sealing(place, TWO, signer) as two:
        await one.write([audit_record("both"), refused, audit_record(1, event_time=NOON - timedelta(days=40))])
        await two.write([audit_record("both", seconds=1, worker_id="worker-2")])
        await two.write([audit_record("refused", seconds=2, outcome=Outcome.REFUSED, worker_id="worker-2")])
        change = change_record()
        await two.write_documents([Document(change.document_id, change.index_month, change.to_json())])
        strange = orjson.loads(audit_record("strange", seconds=3).to_json()) | {"reply": "no object"}
        await one.write_documents([Document(audit_record("strange").document_id, "2025.11", orjson.dumps(strange))])
        await one.write([audit_record(n, seconds=4 + n, event_time=None) for n in range(20)])
        for sealed in (one, two):
            await sealed.write_head(NOON + timedelta(seconds=60))
    report = await verified(place, signer)
    assert named(report) == []
    counts = report.counts
    assert (counts.records, counts.writers, counts.heads, counts.voids) == (26, 2, 2, 1)


async def test_records_from_before_the_chain_are_counted(audit, signer):
    for seconds in (-5, -4):
        old = audit_record(f"old{seconds}", seconds=seconds)
        audit.put(Found(audit.month("2025.11"), old.document_id, orjson.loads(old.to_json())))
    report = await verified(audit, signer)
    assert (named(report), report.counts.unchained) == ([], 2)


async def test_many_copies_of_one_number_are_all_named(audit, signer):
    found = record(audit, 3)
    for copy in range(2 * PAGE + 1):
        audit.put(Found(found.place, f"{copy:040}", found.document))
    report = await verified(audit, signer)
    assert named(report) == [("inserted", ONE, "3")] * (2 * PAGE + 1)


async def test_many_without_a_chain_are_all_named(audit, signer):
    for number in range(2 * PAGE + 1):
        made_up = audit_record(f"evil{number}", seconds=5.5)
        audit.put(Found(audit.month("2025.11"), made_up.document_id, orjson.loads(made_up.to_json())))
    report = await verified(audit, signer)
    assert named(report) == [("inserted", None, None)] * (2 * PAGE + 1)


async def test_a_range_in_the_middle_is_followed_to_the_head_that_vouches_for_it(audit, signer):
    span = Span(*(epoch_ms(NOON + timedelta(seconds=seconds)) for seconds in (5, 6)))
    report = await verified(audit, signer, span=span)
    assert (named(report), report.counts.records, report.counts.beside) == ([], 2, 3)
    change_the_words = record(audit, 6)
    audit.put(Found(change_the_words.place, change_the_words.id, resealed(change_the_words.document, reason="no")))
    assert named(await verified(audit, signer, span=span)) == [("changed", ONE, "6")]


async def test_an_audit_that_is_empty_is_whole(place, signer):
    async with sealing(place, ONE, signer):
        pass
    report = await verified(place, signer)
    assert (named(report), report.counts.records) == ([], 0)


async def test_what_a_dead_letter_says_around_its_record_belongs_to_the_proof(opensearch, index_prefix, signer):
    place = OpenSearchPlace(opensearch.url, index_prefix)
    async with sealing(place, ONE, signer) as sealed:
        strange = orjson.loads(audit_record("strange").to_json()) | {"reply": "no object"}
        await sealed.write_documents([Document(audit_record("strange").document_id, "2025.11", orjson.dumps(strange))])
        await sealed.write_head(NOON)
    assert named(await verified(place, signer)) == []
    (letter,) = place.records()
    assert letter.place.endswith("-deadletter")
    place.put(Found(letter.place, letter.id, letter.document | {"outcome": "refused"}))
    assert named(await verified(place, signer)) == [("changed", ONE, "1")]


async def test_what_the_embedded_file_is_searched_by_belongs_to_the_proof(tmp_path, signer):
    place = SqlitePlace(tmp_path / "audit.db")
    await write(place, signer)
    place._do("UPDATE record SET outcome = 'refused' WHERE id = ?", (record(place, 3).id,))
    assert named(await verified(place, signer)) == [("changed", ONE, "3")]


async def test_a_made_up_void_explains_only_what_it_follows_from(audit, signer):
    third = record(audit, 3)
    audit.delete(third)
    link = Link(ONE, 3, third.document["chain"]["prev"], third.document["chain"]["hash"])
    void = head_document(link, "2025-11-21T12:00:03Z", None, None) | {
        "kind": "void",
        "prev": link.prev,
        "digest": "0" * 64,
        "document_id": record(audit, 2).id,
    }
    assert link_hash(ONE, 3, link.prev, "0" * 64) != link.hash
    place = next(each.place for each in audit.proofs())
    audit.put(Found(place, proof_id(ProofKind.VOID, ONE, 3), void))
    assert named(await verified(audit, signer)) == [("missing", ONE, "3")]
