"""The journal before the audit: what is kept where, and when nothing is kept any more."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import pytest

from schemas.audit import AuditRecord, Outcome
from worker.delivery.ports import Document
from worker.delivery.trail import Trail
from worker.errors import AuditUnavailable, JournalUnavailable


class Journal:
    """A journal in memory; `full` makes it refuse."""

    def __init__(self) -> None:
        self.kept: dict[str, Document] = {}
        self.full = False

    async def append(self, entries: Sequence[Document]) -> None:
        if self.full:
            raise JournalUnavailable("journal: the disk is full")
        self.kept |= {entry.document_id: entry for entry in entries}

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
        self.asked: list[dict[str, str]] = []
        self.gate = asyncio.Event()
        self.away = False

    async def write_documents(self, documents: Sequence[Document]) -> None:
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


async def test_a_record_is_in_the_journal_until_the_audit_has_it() -> None:
    journal, audit = Journal(), Audit()
    trail = Trail(journal, audit)
    one = record("a@example.com")
    task = await writing(trail, one)
    assert list(journal.kept) == [one.document_id]
    assert await trail.recorded({one.document_id: one.index_month}) == {one.document_id}
    audit.gate.set()
    await task
    assert journal.kept == {}
    assert [(d.document_id, d.index_month, d.document) for d in audit.written] == [
        (one.document_id, "2026.11", one.to_json())
    ]


async def test_a_full_disk_is_told_and_the_audit_still_gets_the_record() -> None:
    journal, audit = Journal(), Audit()
    journal.full = True
    audit.gate.set()
    trail = Trail(journal, audit)
    await trail.write([record("a@example.com")])
    assert trail.trouble.is_set()
    assert len(audit.written) == 1


async def test_a_writer_that_is_cancelled_leaves_its_record_in_the_journal() -> None:
    journal, audit = Journal(), Audit()
    task = await writing(Trail(journal, audit), record("a@example.com"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(journal.kept) == 1, "the next start ships it"


async def test_what_the_journal_holds_is_not_asked_of_the_audit() -> None:
    journal, audit = Journal(), Audit()
    trail = Trail(journal, audit)
    one = record("a@example.com")
    await writing(trail, one)
    await trail.recorded({one.document_id: "2026.11", "other": "2026.11"})
    assert audit.asked == [{"other": "2026.11"}]


async def test_an_audit_that_is_away_answers_nothing_even_where_the_journal_knows_some() -> None:
    journal, audit = Journal(), Audit()
    audit.away = True
    trail = Trail(journal, audit)
    one = record("a@example.com")
    await writing(trail, one)
    with pytest.raises(AuditUnavailable):
        await trail.recorded({one.document_id: "2026.11", "other": "2026.11"})
