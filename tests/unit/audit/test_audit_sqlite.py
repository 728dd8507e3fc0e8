"""What is the embedded audit's own: its file, its shared commits, and a disk that is not there for it."""

import asyncio
import sqlite3

import pytest

from schemas.audit_query import AuditQuery
from tests.unit.audit.audit_samples import audit_record, document_of, ids_of
from worker.delivery.ports import Document
from worker.embedded import audit as module
from worker.embedded.audit import SqliteAudit
from worker.errors import AuditUnavailable


@pytest.fixture
async def audit(tmp_path):
    opened = await SqliteAudit(tmp_path / "audit.db").open()
    yield opened
    await opened.close()


async def test_records_outlive_the_process(tmp_path):
    first = await SqliteAudit(tmp_path / "audit.db").open()
    await first.write([audit_record()])
    await first.close()
    again = await SqliteAudit(tmp_path / "audit.db").open()
    assert (await again.search(AuditQuery())).total == 1
    await again.close()


async def test_writers_that_come_during_a_commit_share_the_next_one(audit, monkeypatch):
    commits = []
    real = module.insert
    counted = lambda documents, connection: (commits.append(len(documents)), real(documents, connection))  # noqa: E731
    monkeypatch.setattr(module, "insert", counted)
    await asyncio.gather(*(audit.write([audit_record(n)]) for n in range(50)))
    assert sum(commits) == 50
    assert len(commits) <= 2


async def test_a_failing_disk_is_waited_for(audit, monkeypatch):
    failures = iter([sqlite3.OperationalError("database or disk is full")] * 2)
    real = module.insert

    def insert(rows, connection):
        for failure in failures:
            raise failure
        real(rows, connection)

    monkeypatch.setattr(module, "insert", insert)
    await audit.write([audit_record()])
    assert await audit.recorded(ids_of(audit_record())) == {audit_record().document_id}


async def test_a_commit_that_fails_leaves_no_open_transaction(tmp_path):
    connection = module._connect(tmp_path / "audit.db")
    with pytest.raises(ValueError, match="unexpected end"):
        module.insert([document_of(audit_record(1)), Document("2", "2025.11", b'{"@timestamp": ""')], connection)
    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM record").fetchone() == (0,)
    module.insert([document_of(audit_record())], connection)
    connection.close()


async def test_closing_while_the_disk_fails_fails_the_writers(audit, monkeypatch):
    def insert(rows, connection):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(module, "insert", insert)
    writing = asyncio.create_task(audit.write([audit_record()]))
    await asyncio.sleep(0)
    await audit.close(0.01)
    with pytest.raises(AuditUnavailable):
        await writing


async def test_a_path_that_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(AuditUnavailable, match="unable to open"):
        await SqliteAudit(tmp_path / "absent" / "audit.db").open()


async def test_two_processes_may_use_one_file(audit, tmp_path):
    other = await SqliteAudit(tmp_path / "audit.db").open()
    await asyncio.gather(audit.write([audit_record(1)]), other.write([audit_record(2)]))
    assert (await audit.search(AuditQuery())).total == (await other.search(AuditQuery())).total == 2
    await other.close()
