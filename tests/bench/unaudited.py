"""The bench's own entry point: the product's worker with an audit that keeps nothing.

It shows what the audit costs. The product has no switch that leaves the audit out, and this module
is no part of it: it hands the product's delivery a workshop made of the real consumer and a null audit.
"""

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence

import uvloop

from schemas.audit import AuditRecord
from worker.app import open_configs
from worker.collector import settle_collector
from worker.delivering import Delivery
from worker.logs import configure_logging
from worker.rabbit.consumer import Consumer
from worker.rabbit.publisher import Publisher
from worker.settings import Settings, load_settings
from worker.workshop import Handler, Workshop


class NullAudit:
    """Fulfils `AuditSink` and `AuditLookup`: keeps nothing and has seen nothing."""

    async def write(self, records: Sequence[AuditRecord]) -> None:
        """Return at once."""

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """None of them."""
        return frozenset()

    @property
    def complete(self) -> bool:
        """Nothing is ever on its way."""
        return True


async def serve(settings: Settings) -> None:
    """Consume and deliver until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        publisher = Publisher(settings.amqp_url, "bench publisher")
        stack.push_async_callback(publisher.close)
        await publisher.start(declare=True)

        async def consume(handler: Handler, stopping: asyncio.Event) -> None:
            consumer = Consumer(settings.amqp_url, publisher, handler, prefetch=settings.prefetch, name="bench worker")
            await consumer.run(stopping)

        audit = NullAudit()
        configs = await stack.enter_async_context(open_configs(settings))
        settle_collector()
        await Delivery(settings, Workshop(audit, audit, consume), configs).run(stop)


if __name__ == "__main__":
    loaded = load_settings()
    configure_logging(loaded.log_level, loaded.log_format)
    uvloop.run(serve(loaded))
