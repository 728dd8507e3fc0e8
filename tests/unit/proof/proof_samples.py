"""An audit in memory, which waits or fails when told to, and records to write into it."""

import asyncio
from datetime import UTC, datetime

import orjson

from schemas.audit import AuditRecord, Outcome, Timings
from schemas.audit_chain import PROOF_MONTH
from worker.delivery.ports import Document
from worker.errors import AuditUnavailable

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def record(number=0, **changes):
    values = {
        "timestamp": NOON,
        "outcome": Outcome.ACCEPTED,
        "event_id": f"event-{number}",
        "event_source": "/t",
        "event_time": NOON,
        "recipient": f"user{number}@example.org",
        "timings": Timings(queued_ms=0.1, total_ms=1e21),
        "worker_id": "w1",
        **changes,
    }
    return AuditRecord(**values)


def document(number=0, **changes):
    made = record(number, **changes)
    return Document(made.document_id, made.index_month, made.to_json())


def contents(documents):
    return [orjson.loads(each.document) for each in documents]


class MemoryAudit:
    """Keeps what it is given, call by call; `gate` makes writers wait, `fails` raises instead of writing."""

    def __init__(self):
        self.calls = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = None
        self.asked = asyncio.Event()

    async def write_documents(self, documents):
        self.asked.set()
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        self.calls.append(list(documents))

    @property
    def records(self):
        return contents(each for call in self.calls for each in call if each.index_month != PROOF_MONTH)

    @property
    def proofs(self):
        return contents(each for call in self.calls for each in call if each.index_month == PROOF_MONTH)


AWAY = AuditUnavailable("away")
