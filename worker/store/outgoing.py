"""What a change has to tell others, stored in the change's own transaction.

A change that is stored always reaches the workers, the audit and the reader of its mail, in order, also
where RabbitMQ or OpenSearch is away at that moment: whoever ships (`worker.shipping`) takes the oldest
rows, tells, and only then deletes them. Told twice does no harm: changes carry versions, records and
events their identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import ChangeRecord
from schemas.config_change import Delete, Feature, Put
from worker.store.database import Store
from worker.store.models import outgoing


class OutgoingKind(StrEnum):
    """Where it goes: config topic, audit, or the events' exchange."""

    CONFIG = "config"
    AUDIT = "audit"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One thing to tell: a `Put`, `Delete` or `Feature`, an audit document, or a CloudEvent, as JSON."""

    seq: int
    kind: OutgoingKind
    body: bytes
    posted_at: datetime


async def post_change(connection: AsyncConnection, change: Put | Delete | Feature) -> None:
    """Let the workers hear of it once the transaction is committed."""
    await _post(connection, OutgoingKind.CONFIG, change.model_dump_json().encode())


async def post_record(connection: AsyncConnection, record: ChangeRecord) -> None:
    """Let the audit have it once the transaction is committed."""
    # Its id is part of it here: the audit's `_id` is made of it.
    await _post(connection, OutgoingKind.AUDIT, record.document_id.encode() + b" " + record.to_json())


async def post_event(connection: AsyncConnection, event: bytes) -> None:
    """Let the mail go out, as a structured CloudEvent, once the transaction is committed."""
    await _post(connection, OutgoingKind.EVENT, event)


async def _post(connection: AsyncConnection, kind: OutgoingKind, body: bytes) -> None:
    await connection.execute(outgoing.insert().values(kind=kind.value, body=body, posted_at=datetime.now(UTC)))


class OutgoingShelf:
    """What waits to be told, oldest first."""

    def __init__(self, database: Store) -> None:
        """Take the database."""
        self._database = database

    async def oldest(self, limit: int) -> Sequence[Outgoing]:
        """At most `limit` of them; raises StoreUnavailable."""
        query = select(outgoing).order_by(outgoing.c.seq).limit(limit)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [Outgoing(row["seq"], OutgoingKind(row["kind"]), row["body"], row["posted_at"]) for row in rows]

    async def told(self, seqs: Sequence[int]) -> None:
        """These are where they belong; raises StoreUnavailable."""
        async with self._database.writing() as connection:
            await connection.execute(delete(outgoing).where(outgoing.c.seq.in_(seqs)))

    async def waiting(self) -> int:
        """How many there are; raises StoreUnavailable."""
        async with self._database.reading() as connection:
            return int((await connection.execute(select(func.count()).select_from(outgoing))).scalar_one())
