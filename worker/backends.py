"""The outside of one process: RabbitMQ and OpenSearch, or the embedded files in their place.

Part of the composition root (see ``app``): what is built here is handed in, never looked up.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from worker.api.health import Check
from worker.delivery.breakers import Breakers
from worker.delivery.ports import AuditSink, Lane
from worker.delivery.trail import PrivateLookup
from worker.rabbit import topology
from worker.rabbit.declaring import Provision
from worker.rabbit.publisher import Publisher
from worker.recipients import counting, finding, privacy_of
from worker.recording import sealed_of, vouching
from worker.settings import Settings
from worker.workshop import Handler, Workshop, open_workshop

if TYPE_CHECKING:  # a worker on real servers never loads the embedded ones, nor what an API needs
    from worker.api.ports import AuditSearch, EventIntake
    from worker.api.stats import AuditStats
    from worker.audit.search import OpenSearchSearch
    from worker.control.standing import ReadBreaker
    from worker.delivery.parked import ParkedShelf
    from worker.embedded.audit import SqliteAudit
    from worker.embedded.queue import SqliteQueue
    from worker.rabbit.config_publisher import ConfigPublisher


class FrontAudit(AuditSink, Protocol):
    """An audit that takes records of test mails, and documents of changes."""

    async def write_documents(self, documents: Sequence[tuple[str, str, bytes]]) -> None:
        """Return once every one is durable (id, month, JSON); raises AuditUnavailable once it closes."""
        ...


@dataclass(frozen=True, slots=True)
class Front:
    """What the HTTP API works with.

    `teller` tells the workers of config changes; None where they read the store. `breakers` reads what
    the replicas know of a record's breaker. `stats` counts in the audit.
    """

    intake: "EventIntake"
    search: "AuditSearch"
    audit: FrontAudit
    teller: "ConfigPublisher | None"
    breakers: "ReadBreaker"
    stats: "AuditStats"


_AUDIT_FILE = "audit.db"
_AUDIT_GRACE_S = 1.0  # what ships stays in the store, and a test mail has been answered


@dataclass(frozen=True, slots=True)
class Backend:
    """The outside of one process: what its API needs, if it has one, and what its worker does."""

    front: Front | None
    work: Workshop | None
    checks: Mapping[str, Check] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RabbitIntake:
    """Submits events to the exchange, confirmed."""

    publisher: Publisher

    async def submit(self, body: bytes, *, content_type: str, headers: dict[str, Any], lane: Lane, kind: str) -> None:
        """Publish under the routing key of the lane and the kind; see `Publisher.publish`."""
        key = topology.routing_key(lane, kind)
        await self.publisher.publish(topology.EVENTS_EXCHANGE, key, body, content_type=content_type, headers=headers)


@dataclass(frozen=True, slots=True)
class SqliteIntake:
    """Submits events to the embedded queue."""

    queue: "SqliteQueue"

    async def submit(self, body: bytes, *, content_type: str, headers: dict[str, Any], lane: Lane, kind: str) -> None:
        """Insert the event; the embedded queue routes by lane alone."""
        del kind
        await self.queue.publish(body, content_type=content_type, headers=headers, lane=lane)


@contextlib.asynccontextmanager
async def open_search(settings: Settings, *, embedded: bool = False) -> AsyncIterator["AuditSearch"]:
    """Open the audit for reading: OpenSearch, or the embedded form's file."""
    search = await _open_embedded_audit(settings) if embedded else _search_of(settings)
    try:
        yield finding(search, privacy_of(settings))
    finally:
        await search.close()


def _search_of(settings: Settings) -> "OpenSearchSearch":
    from worker.audit.search import OpenSearchSearch

    return OpenSearchSearch(**reading_of(settings))


@contextlib.asynccontextmanager
async def open_stats(settings: Settings, *, embedded: bool = False) -> AsyncIterator["AuditStats"]:
    """Open the audit for counting: OpenSearch, or the embedded form's file."""
    if embedded:
        from worker.embedded.stats import SqliteStats

        audit = await _open_embedded_audit(settings)  # where there is no file yet, it makes one
        try:
            yield counting(SqliteStats(_embedded_file(settings, _AUDIT_FILE)), privacy_of(settings))
        finally:
            await audit.close()
        return
    from worker.audit.stats import OpenSearchStats

    stats = OpenSearchStats(**reading_of(settings))
    try:
        yield counting(stats, privacy_of(settings))
    finally:
        await stats.close()


@contextlib.asynccontextmanager
async def open_intake(settings: Settings, *, embedded: bool = False) -> AsyncIterator["EventIntake"]:
    """Open the way in for events alone; raises BrokerUnavailable where RabbitMQ does not answer."""
    if embedded:
        queue = await _open_embedded_queue(settings)
        try:
            yield SqliteIntake(queue)
        finally:
            await queue.close()
        return
    publisher = await Publisher(settings.amqp_url, "postbote publish").start(declare=True)
    try:
        yield RabbitIntake(publisher)
    finally:
        await publisher.close()


@contextlib.asynccontextmanager
async def open_parked(settings: Settings, *, embedded: bool = False) -> AsyncIterator["ParkedShelf"]:
    """Open the parked events for an operator; what is held at the end goes back."""
    if not embedded:
        from worker.rabbit.parked import open_parked_queue

        async with open_parked_queue(settings.amqp_url) as shelf:
            yield shelf
        return
    from worker.embedded.parked import SqliteParked

    queue = await _open_embedded_queue(settings)
    try:
        yield SqliteParked(queue)
    finally:
        await queue.close()


@contextlib.asynccontextmanager
async def real_backend(settings: Settings, *, consuming: bool, api: bool) -> AsyncIterator[Backend]:
    """RabbitMQ and OpenSearch; either may be away, also at the start, and is then waited for."""
    async with contextlib.AsyncExitStack() as stack:
        publisher = Publisher(
            settings.amqp_url, f"postbote publisher {settings.worker_id}", provision=Provision(settings.topology)
        )
        stack.push_async_callback(publisher.close)
        publisher.start_connecting(declare=True)
        front = work = None
        if consuming:
            work = await stack.enter_async_context(open_workshop(settings, publisher, auditing_of(settings)))
        if api:
            front = await stack.enter_async_context(_open_front(settings, publisher, work))
        yield Backend(front, work, {"publisher": publisher.missing, **(work.checks if work else {})})


@contextlib.asynccontextmanager
async def _open_front(settings: Settings, publisher: Publisher, work: Workshop | None) -> AsyncIterator[Front]:
    """What an API needs of RabbitMQ and OpenSearch; a worker in the same process lends what it knows of breakers."""
    from worker.audit.opensearch import OpenSearchAudit
    from worker.control.standing import breaker_reader
    from worker.rabbit.breaker_stream import BreakerStream
    from worker.rabbit.config_publisher import ConfigPublisher

    async with contextlib.AsyncExitStack() as stack:
        search = await stack.enter_async_context(open_search(settings))
        stats = await stack.enter_async_context(open_stats(settings))
        audit = OpenSearchAudit(**auditing_of(settings))
        stack.push_async_callback(audit.close, _AUDIT_GRACE_S)
        breakers, missing = _lent(work)
        if missing is None:
            name = f"postbote api {settings.worker_id}"
            stream = BreakerStream(settings.amqp_url, publisher, breakers.apply, name=name)
            stream.start()
            stack.push_async_callback(stream.close)
            missing = stream.missing
        teller = ConfigPublisher(publisher) if settings.config_source == "topic" else None
        yield Front(RabbitIntake(publisher), search, audit, teller, breaker_reader(breakers, missing), stats)


def _lent(work: Workshop | None) -> tuple[Breakers, Callable[[], str | None] | None]:
    return (Breakers(), None) if work is None else (work.breakers, work.breakers_missing)


@dataclass(frozen=True, slots=True)
class EmbeddedFiles:
    """The two files that stand in for RabbitMQ and OpenSearch, opened."""

    queue: "SqliteQueue"
    audit: "SqliteAudit"


@contextlib.asynccontextmanager
async def open_embedded(settings: Settings) -> AsyncIterator[EmbeddedFiles]:
    """Open the embedded queue and audit in the data folder."""
    async with contextlib.AsyncExitStack() as stack:
        queue = await _open_embedded_queue(settings)
        stack.push_async_callback(queue.close)
        audit = await _open_embedded_audit(settings)
        stack.push_async_callback(audit.close)
        yield EmbeddedFiles(queue, audit)


def embedded_workshop(settings: Settings, files: EmbeddedFiles) -> Workshop:
    """Consume from the one file and record in the other."""
    from worker.embedded.claims import MemoryClaims

    sealed = sealed_of(settings, files.audit, in_order=True)
    lookup = PrivateLookup(files.audit, privacy_of(settings))

    async def consume(handler: Handler, stop: asyncio.Event) -> None:
        async with vouching(settings, sealed):
            await files.queue.run(handler, prefetch=settings.prefetch, stop=stop)

    return Workshop(sealed, lookup, consume, claims=MemoryClaims(settings.worker_id))


def embedded_backend(settings: Settings, files: EmbeddedFiles) -> Backend:
    """SQLite files instead of RabbitMQ and OpenSearch."""
    from worker.control.standing import breaker_reader
    from worker.embedded.stats import SqliteStats

    work = embedded_workshop(settings, files)
    breakers = breaker_reader(work.breakers, work.breakers_missing)
    privacy = privacy_of(settings)
    stats = counting(SqliteStats(_embedded_file(settings, _AUDIT_FILE)), privacy)
    search = finding(files.audit, privacy)
    return Backend(Front(SqliteIntake(files.queue), search, files.audit, None, breakers, stats), work)


async def _open_embedded_queue(settings: Settings) -> "SqliteQueue":
    from worker.embedded.queue import SqliteQueue

    return await SqliteQueue(_embedded_file(settings, "queue.db")).open()


async def _open_embedded_audit(settings: Settings) -> "SqliteAudit":
    from worker.embedded.audit import SqliteAudit

    return await SqliteAudit(_embedded_file(settings, _AUDIT_FILE)).open()


def _embedded_file(settings: Settings, name: str) -> Path:
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings.data_dir / name


def opensearch_of(settings: Settings) -> dict[str, Any]:
    """How OpenSearch is reached by the writer's user, or by whoever runs a command that changes the audit."""
    password = settings.opensearch_password
    return {
        "url": settings.opensearch_url,
        "user": settings.opensearch_user,
        "password": password.get_secret_value() if password else None,
        "ca_file": settings.opensearch_ca_file,
        "index_prefix": settings.audit_index_prefix,
    }


def auditing_of(settings: Settings) -> dict[str, Any]:
    """How OpenSearch is reached by what writes records, and looks them up as a user of its own where one is set."""
    user, password = settings.opensearch_lookup_user, settings.opensearch_lookup_password
    lookup_as = (user, password.get_secret_value()) if user and password else None
    return {**opensearch_of(settings), "lookup_as": lookup_as}


def reading_of(settings: Settings) -> dict[str, Any]:
    """How OpenSearch is reached by what asks and changes nothing: as the reader, where one is set."""
    user, password = settings.opensearch_reader_user, settings.opensearch_reader_password
    if not (user and password):
        return opensearch_of(settings)
    reader = {"user": user, "password": password.get_secret_value(), "setting": "POSTBOTE_OPENSEARCH_READER_USER"}
    return {**opensearch_of(settings), **reader}
