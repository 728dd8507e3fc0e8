"""The journal before the audit: what is kept where, and when nothing is kept any more."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from schemas.audit import AuditRecord, Outcome
from schemas.audit_chain import PROOF_MONTH
from tests.support.chains import faults_of
from worker.delivery.ports import Document
from worker.delivery.privacy import Privacy, RecipientMode
from worker.delivery.trail import PrivateLookup, Trail
from worker.errors import AuditUnavailable, JournalUnavailable
from worker.proof.chain import Chain


class Journal:
    """A journal in memory; `full` makes it refuse."""

    def __init__(self) -> None:
        self.kept: dict[str, Document] = {}
        self.came: list[Document] = []
        self.full = False

    def append(self, entries: Sequence[Document]) -> "asyncio.Future[None]":
        appended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.full:
            appended.set_exception(JournalUnavailable("journal: the disk is full"))
            return appended
        self.came += entries
        self.kept |= {entry.document_id: entry for entry in entries}
        appended.set_result(None)
        return appended

    def forget(self, document_ids: Iterable[str]) -> None:
        for each in document_ids:
            self.kept.pop(each, None)

    def holds(self, document_ids: Iterable[str]) -> frozenset[str]:
        return frozenset(document_ids) & frozenset(self.kept)


class Audit:
    """An audit in memory; `gate` makes writers wait, `away` makes askers fail."""

    complete = True

    def __init__(self) -> None:
        self.written: list[Document] = []
        self.urgent: list[Document] = []
        self.asked: list[dict[str, str]] = []
        self.gate = asyncio.Event()
        self.away = False

    async def write_documents(self, documents: Sequence[Document], *, urgent: bool = False) -> None:
        if urgent:
            self.urgent += documents
        await self.gate.wait()
        self.written += documents

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        self.asked.append(dict(ids))
        if self.away:
            raise AuditUnavailable("away")
        return frozenset(ids) & {document.document_id for document in self.written}


def record(recipient: str) -> AuditRecord:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    return AuditRecord(
        timestamp=now, outcome=Outcome.ACCEPTED, event_id="1", event_source="/t", event_time=now, recipient=recipient
    )


async def writing(trail: Trail, *records: AuditRecord) -> "asyncio.Task[None]":
    task = asyncio.ensure_future(trail.write(records))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_a_record_is_the_journals_before_the_call_returns() -> None:
    """Whoever reads a 250 in a long turn of the loop must not wait for the next one."""
    journal, audit = Journal(), Audit()
    writing = Trail(journal, audit, Chain("w")).write([record("a@example.com")])
    assert [each.document_id for each in journal.came] == [record("a@example.com").document_id]
    audit.gate.set()
    await writing


async def test_a_record_is_in_the_journal_until_the_audit_has_it() -> None:
    journal, audit = Journal(), Audit()
    trail = Trail(journal, audit, Chain("w"))
    one = record("a@example.com")
    task = await writing(trail, one)
    assert list(journal.kept) == [one.document_id]
    assert await trail.recorded({one.document_id: one.index_month}) == {one.document_id}
    audit.gate.set()
    await task
    assert journal.kept == {}
    (written,) = audit.written
    assert (written.document_id, written.index_month) == (one.document_id, "2026.11")
    content = orjson.loads(written.document)
    assert faults_of([content]) == []
    assert content.pop("chain")["seq"] == 1
    assert content == orjson.loads(one.to_json())


async def test_what_cannot_be_journalled_is_urgent_to_the_audit_and_nothing_else_is() -> None:
    journal, audit = Journal(), Audit()
    audit.gate.set()
    trail = Trail(journal, audit, Chain("w"))
    await trail.write([record("a@example.com")])
    journal.full = True
    await trail.write([record("b@example.com")])
    assert [len(audit.written), len(audit.urgent)] == [2, 1]
    assert audit.urgent == audit.written[1:]


async def test_a_writer_that_is_cancelled_leaves_its_record_in_the_journal() -> None:
    journal, audit = Journal(), Audit()
    task = await writing(Trail(journal, audit, Chain("w")), record("a@example.com"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(journal.kept) == 1, "the next start ships it"


async def test_what_the_journal_holds_is_not_asked_of_the_audit() -> None:
    journal, audit = Journal(), Audit()
    trail = Trail(journal, audit, Chain("w"))
    one = record("a@example.com")
    await writing(trail, one)
    await trail.recorded({one.document_id: "2026.11", "other": "2026.11"})
    assert audit.asked == [{"other": "2026.11"}]


async def test_an_audit_that_is_away_answers_nothing_even_where_the_journal_knows_some() -> None:
    journal, audit = Journal(), Audit()
    audit.away = True
    trail = Trail(journal, audit, Chain("w"))
    one = record("a@example.com")
    await writing(trail, one)
    with pytest.raises(AuditUnavailable):
        await trail.recorded({one.document_id: "2026.11", "other": "2026.11"})


def contents(documents: Iterable[Document]) -> list[dict[str, Any]]:
    return [orjson.loads(document.document) for document in documents]


async def test_the_journal_gets_records_in_the_order_of_their_numbers() -> None:
    journal, audit = Journal(), Audit()
    trail = Trail(journal, audit, Chain("w"))
    tasks = [asyncio.ensure_future(trail.write([record(f"{n}@example.com")])) for n in range(20)]
    await asyncio.sleep(0)
    assert [each["chain"]["seq"] for each in contents(journal.came)] == list(range(1, 21))
    audit.gate.set()
    await asyncio.gather(*tasks)
    assert faults_of(contents(audit.written)) == []


async def test_the_same_once_more_waits_until_the_journal_need_not_keep_both() -> None:
    journal, audit = Journal(), Audit()
    trail = Trail(journal, audit, Chain("w"))
    first = await writing(trail, record("a@example.com"))
    again = await writing(trail, record("b@example.com"), record("a@example.com"))
    other = await writing(trail, record("c@example.com"))
    assert [each["recipient"] for each in contents(journal.kept.values())] == ["a@example.com", "c@example.com"]
    audit.gate.set()
    await asyncio.gather(first, again, other)
    assert faults_of(contents(audit.written)) == []
    assert len(audit.written) == 4


async def test_a_head_goes_the_way_of_the_records_and_behind_them() -> None:
    journal, audit = Journal(), Audit()
    audit.gate.set()
    trail = Trail(journal, audit, Chain("w"))
    now = datetime(2026, 11, 20, tzinfo=UTC)
    await trail.write_head(now)
    assert audit.written == []
    await trail.write([record("a@example.com"), record("b@example.com")])
    await trail.write_head(now)
    await trail.write_head(now)
    *records, head = audit.written
    assert [document.index_month for document in journal.came] == ["2026.11", "2026.11", PROOF_MONTH]
    assert (len(records), faults_of(contents(records), contents([head])), journal.kept) == (2, [], {})


async def test_records_are_kept_and_found_under_the_ids_that_the_privacy_gives_them() -> None:
    journal, audit = Journal(), Audit()
    privacy = Privacy(RecipientMode.HASHED, b"k" * 32)
    trail = Trail(journal, audit, Chain("w"), privacy)
    one = record("a@example.com")
    task = await writing(trail, one)
    assert await trail.recorded({one.document_id: "2026.11"}) == {one.document_id}
    audit.gate.set()
    await task
    assert [document.document_id for document in audit.written] == [privacy.known_as(one.document_id)]
    for lookup in (trail, PrivateLookup(audit, privacy)):
        assert await lookup.recorded({one.document_id: "2026.11", "other": "2026.11"}) == {one.document_id}
        assert lookup.complete
