"""What a change has to tell others, stored in the change's own transaction.

A change that is stored always reaches the workers, the audit and the reader of its mail, in order, also
where RabbitMQ or OpenSearch is away at that moment: whoever ships (`worker.shipping`) takes the oldest
rows, tells, and only then deletes them. Told twice does no harm: changes carry versions, records and
events their identity.
"""

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many of one kind wait, and since when the oldest of them does."""

    count: int
    oldest: datetime


MAX_BYTES = 4 << 20
"""What is read into memory at once; a single row may have more."""


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

    async def oldest(
        self, limit: int, *, kind: OutgoingKind | None = None, after: int = 0, max_bytes: int = MAX_BYTES
    ) -> Sequence[Outgoing]:
        """At most `limit` of `kind` (None: of any) numbered above `after`; raises StoreUnavailable.

        No more than fit into `max_bytes`, and one at least where there is one.
        """
        sizes = select(outgoing.c.seq, func.length(outgoing.c.body)).where(outgoing.c.seq > after)
        if kind is not None:
            sizes = sizes.where(outgoing.c.kind == kind.value)
        async with self._database.reading() as connection:
            found = (await connection.execute(sizes.order_by(outgoing.c.seq).limit(limit))).all()
            wanted = select(outgoing).where(outgoing.c.seq.in_(_within([tuple(row) for row in found], max_bytes)))
            rows = (await connection.execute(wanted.order_by(outgoing.c.seq))).mappings().all()
        return [Outgoing(row["seq"], OutgoingKind(row["kind"]), row["body"], row["posted_at"]) for row in rows]

    async def told(self, seqs: Sequence[int]) -> None:
        """These are where they belong; raises StoreUnavailable."""
        async with self._database.writing() as connection:
            await connection.execute(delete(outgoing).where(outgoing.c.seq.in_(seqs)))

    async def waiting(self) -> int:
        """How many there are; raises StoreUnavailable."""
        async with self._database.reading() as connection:
            return int((await connection.execute(select(func.count()).select_from(outgoing))).scalar_one())

    async def backlog(self) -> Mapping[OutgoingKind, Backlog]:
        """What waits, by kind; a kind of which nothing waits is left out. Raises StoreUnavailable."""
        columns = (outgoing.c.kind, func.count().label("count"), func.min(outgoing.c.posted_at).label("oldest"))
        async with self._database.reading() as connection:
            known = outgoing.c.kind.in_([kind.value for kind in OutgoingKind])  # a newer version may have more
            rows = (await connection.execute(select(*columns).where(known).group_by(outgoing.c.kind))).mappings().all()
        return {OutgoingKind(row["kind"]): Backlog(row["count"], row["oldest"]) for row in rows}


def _within(sizes: Sequence[tuple[int, int]], max_bytes: int) -> list[int]:
    """The numbers of the first rows, one at least, that take no more than `max_bytes` together."""
    taken: list[int] = []
    room = max_bytes
    for seq, size in sizes:
        room -= size
        if taken and room < 0:
            break
        taken.append(seq)
    return taken
