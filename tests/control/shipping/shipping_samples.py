"""Rows to ship, and places that take them, fail or hang as told."""

import asyncio
from datetime import UTC, datetime

import orjson

from schemas.audit_change import Action, ChangedBy, ChangeRecord, ChangeType
from schemas.config_change import Delete
from tests.support.events import body_of, make_event
from worker.errors import BrokerUnavailable, PublishRefused
from worker.store.database import Store
from worker.store.models import outgoing
from worker.store.outgoing import OutgoingKind, OutgoingShelf, post_change, post_event, post_record

NOON = datetime(2025, 11, 21, 12, 0, tzinfo=UTC)
AWAY = BrokerUnavailable("the connection to RabbitMQ at mq.internal is down")
REFUSED = PublishRefused("RabbitMQ refused it (nack)")


def config_change(number: int, partner: str = "acme") -> Delete:
    return Delete(partner=partner, display_name="default", version=number)


def change_record(number: int = 1, **changes) -> ChangeRecord:
    values = {
        "timestamp": NOON,
        "id": f"change-{number}",
        "type": ChangeType.SMTP_CONFIG,
        "action": Action.UPDATED,
        "partner": "acme",
        "org": "dev",
        "subject": "default",
        "version": number,
        "changed": ("host", "port"),
        "actor": ChangedBy(kind="user", name="ann@acme.example", scope="partner:acme", origin="192.0.2.7"),
        **changes,
    }
    return ChangeRecord(**values)


class Desk:
    """A store of outgoing rows, and how changes get into it."""

    def __init__(self, url: str) -> None:
        self.store = Store(url)
        self.shelf = OutgoingShelf(self.store)

    async def configs(self, *numbers: int) -> None:
        async with self.store.writing() as connection:
            for number in numbers:
                await post_change(connection, config_change(number))

    async def records(self, *records: ChangeRecord) -> None:
        async with self.store.writing() as connection:
            for record in records:
                await post_record(connection, record)

    async def events(self, *ids: str) -> None:
        async with self.store.writing() as connection:
            for id_ in ids:
                await post_event(connection, body_of(make_event("ann@example.org", id=id_)))

    async def raw(self, kind: OutgoingKind | str, body: bytes) -> None:
        async with self.store.writing() as connection:
            await connection.execute(
                outgoing.insert().values(kind=str(getattr(kind, "value", kind)), body=body, posted_at=NOON)
            )

    async def left(self) -> list[OutgoingKind]:
        return [row.kind for row in await self.shelf.oldest(1000)]

    async def shipped(self, left: int = 0) -> None:
        """Return once no more than `left` rows are there."""
        async with asyncio.timeout(20):
            while await self.shelf.waiting() > left:
                await asyncio.sleep(0.005)


class Place:
    """Takes what comes; `failure` is raised instead, and `hold` makes it hang."""

    def __init__(self) -> None:
        self.taken = []
        self.calls = 0
        self.failure: Exception | None = None
        self.refuses = lambda _one: False
        self.hold: asyncio.Event | None = None
        self.tried = asyncio.Event()

    async def _take(self, several):
        self.calls += 1
        self.tried.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        if any(self.refuses(one) for one in several):
            raise REFUSED
        self.taken.extend(several)


class Workers(Place):
    async def publish(self, changes):
        await self._take([change.version for change in changes])


class Audit(Place):
    async def write_documents(self, documents):
        await self._take(documents)


class Events(Place):
    async def submit(self, body, *, content_type, headers, lane, kind):
        self.last = (content_type, headers, lane, kind)
        await self._take([orjson.loads(body)["id"]])
