"""The tables of the embedded audit, and what is written into them.

A document whose id is taken is dealt with as OpenSearch's is (see `worker.proof.contested`), and in the
same transaction: what stands beside the first record, or says that it is not stored.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.audit_chain import PROOF_MONTH
from schemas.audit_query import epoch_ms
from worker.delivery.ports import Document
from worker.embedded.audit_search import RECIPIENT_HASH
from worker.proof.contested import Standing, as_duplicate, compare, void_of

TABLES = (
    """CREATE TABLE IF NOT EXISTS record (
        id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, category TEXT NOT NULL, type TEXT NOT NULL,
        outcome TEXT NOT NULL, partner TEXT, org TEXT, recipient TEXT, event_id TEXT NOT NULL,
        event_source TEXT NOT NULL, attempt INTEGER NOT NULL, document BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS record_at ON record (at_ms)",
    "CREATE INDEX IF NOT EXISTS record_event ON record (event_id)",
    "CREATE INDEX IF NOT EXISTS record_recipient ON record (recipient)",
    f"CREATE INDEX IF NOT EXISTS record_recipient_hash ON record ({RECIPIENT_HASH}) WHERE {RECIPIENT_HASH} IS NOT NULL",
    # Heads, voids and what was pruned: see schemas.audit_chain. What was pruned has neither writer nor number.
    """CREATE TABLE IF NOT EXISTS proof (
        id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, writer TEXT, seq INTEGER,
        document BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS proof_writer ON proof (writer, seq)",
)
_RECORD = "INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PROOF = "INSERT OR IGNORE INTO proof VALUES (?, ?, ?, ?, ?, ?)"

Row = tuple[Any, ...]


def insert(documents: Sequence[Document], connection: sqlite3.Connection) -> None:
    """Write all of them in one transaction, in their order; raises sqlite3.Error, and none is written then."""
    with connection:  # commits at its end, and rolls back where that or anything before it failed
        connection.execute("BEGIN IMMEDIATE")
        for document in documents:
            _insert(document, connection)


def _insert(document: Document, connection: sqlite3.Connection) -> None:
    content = orjson.loads(document.document)
    if document.index_month == PROOF_MONTH:
        connection.execute(_PROOF, _proof_row(document, content))
    elif not connection.execute(_RECORD, _row(document, content)).rowcount:
        _settle_there(document, content, connection)


def _settle_there(document: Document, record: Mapping[str, Any], connection: sqlite3.Connection) -> None:
    found = connection.execute("SELECT document FROM record WHERE id = ?", (document.document_id,)).fetchone()
    match compare(record, orjson.loads(found[0])):
        case Standing.DUPLICATE:
            _insert(as_duplicate(document), connection)
        case Standing.VOID:
            _insert(void_of(record, document.document_id, datetime.now(UTC)), connection)
        case Standing.OURS:
            pass


def _row(document: Document, record: Mapping[str, Any]) -> Row:
    """The row of a record, in which a change has neither outcome nor event: empty, which no filter matches."""
    recipient = _text(record, "recipient")
    return (
        document.document_id,
        _at_ms(record),
        _text(record, "category") or "",
        _text(record, "type") or "",
        _text(record, "outcome") or "",
        _text(record, "partner"),
        _text(record, "org"),
        recipient.lower() if recipient is not None else None,
        _text(record, "event_id") or "",
        _text(record, "event_source") or "",
        record["attempt"] if isinstance(record.get("attempt"), int) else 0,
        document.document,
    )


def _proof_row(document: Document, proof: Mapping[str, Any]) -> Row:
    seq = proof.get("seq")
    return (
        document.document_id,
        _at_ms(proof),
        _text(proof, "kind") or "",
        _text(proof, "writer"),
        seq if isinstance(seq, int) else None,
        document.document,
    )


def _at_ms(document: Mapping[str, Any]) -> int:
    return epoch_ms(datetime.fromisoformat(document["@timestamp"]).astimezone(UTC))


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) else None
