"""The outside of one process: RabbitMQ and OpenSearch, or the embedded files in their place.

Part of the composition root (see ``app``): what is built here is handed in, never looked up.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.api.health import Check
from worker.api.ports import AuditSearch, EventIntake
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.search import OpenSearchSearch
from worker.delivery.ports import AuditLookup, AuditSink, Incoming, Lane, Settlement
from worker.rabbit import topology
from worker.rabbit.consumer import Consumer
from worker.rabbit.publisher import Publisher
from worker.settings import Settings

if TYPE_CHECKING:  # a worker on real servers never loads the embedded ones
    from worker.embedded.audit import SqliteAudit
    from worker.embedded.queue import SqliteQueue

Handler = Callable[[Incoming], Awaitable[Settlement]]
Consume = Callable[[Handler, asyncio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Backend:
    """The queue and the audit of one process; `consume` returns once it has stopped and settled."""

    intake: EventIntake
    search: AuditSearch
    audit: AuditSink
    lookup: AuditLookup
    consume: Consume
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
async def open_search(settings: Settings, *, embedded: bool = False) -> AsyncIterator[AuditSearch]:
    """Open the audit for reading: OpenSearch, or the embedded form's file."""
    search = await _open_embedded_audit(settings) if embedded else OpenSearchSearch(**_opensearch(settings))
    try:
        yield search
    finally:
        await search.close()


@contextlib.asynccontextmanager
async def open_intake(settings: Settings, *, embedded: bool = False) -> AsyncIterator[EventIntake]:
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
async def real_backend(settings: Settings, *, consuming: bool) -> AsyncIterator[Backend]:
    """RabbitMQ and OpenSearch; either may be away, also at the start, and is then waited for."""
    async with contextlib.AsyncExitStack() as stack:
        audit = OpenSearchAudit(**_opensearch(settings))
        stack.push_async_callback(audit.close)
        search = await stack.enter_async_context(open_search(settings))
        publisher = Publisher(settings.amqp_url, f"postbote publisher {settings.worker_id}")
        stack.push_async_callback(publisher.close)
        publisher.start_connecting(declare=True)
        consumers: list[Consumer] = []

        async def consume(handler: Handler, stop: asyncio.Event) -> None:
            if not await _before(stop, audit.start()):
                return
            name = f"postbote worker {settings.worker_id}"
            consumers.append(Consumer(settings.amqp_url, publisher, handler, prefetch=settings.prefetch, name=name))
            await consumers[0].run(stop)

        checks: dict[str, Check] = {
            "publisher": lambda: None if publisher.connected else "the connection to RabbitMQ is down"
        }
        if consuming:
            checks["consumer"] = lambda: None if consumers and consumers[0].consuming else "not consuming"
            checks["audit"] = audit.missing
        yield Backend(RabbitIntake(publisher), search, audit, audit, consume, checks)


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


def embedded_backend(settings: Settings, files: EmbeddedFiles) -> Backend:
    """SQLite files instead of RabbitMQ and OpenSearch."""

    async def consume(handler: Handler, stop: asyncio.Event) -> None:
        await files.queue.run(handler, prefetch=settings.prefetch, stop=stop)

    return Backend(SqliteIntake(files.queue), files.audit, files.audit, files.audit, consume)


async def _before(stop: asyncio.Event, starting: Coroutine[Any, Any, None]) -> bool:
    """Run `starting` to its end, or give it up when `stop` is set; True where it ended."""
    started, stopped = asyncio.ensure_future(starting), asyncio.ensure_future(stop.wait())
    both: set[asyncio.Future[Any]] = {started, stopped}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if started.done():
        started.result()
        return True
    started.cancel()
    await asyncio.gather(started, return_exceptions=True)
    return False


async def _open_embedded_queue(settings: Settings) -> "SqliteQueue":
    from worker.embedded.queue import SqliteQueue

    return await SqliteQueue(_embedded_file(settings, "queue.db")).open()


async def _open_embedded_audit(settings: Settings) -> "SqliteAudit":
    from worker.embedded.audit import SqliteAudit

    return await SqliteAudit(_embedded_file(settings, "audit.db")).open()


def _embedded_file(settings: Settings, name: str) -> Path:
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings.data_dir / name


def _opensearch(settings: Settings) -> dict[str, Any]:
    password = settings.opensearch_password
    return {
        "url": settings.opensearch_url,
        "user": settings.opensearch_user,
        "password": password.get_secret_value() if password else None,
        "ca_file": settings.opensearch_ca_file,
        "index_prefix": settings.audit_index_prefix,
    }
