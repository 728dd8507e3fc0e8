"""The composition root: builds the adapters, runs them, and takes them down in order.

Nothing but this and ``backends`` wires anything. The worker and the API are the same over
RabbitMQ and OpenSearch and over the embedded files.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING

import structlog

from worker.api.health import Check, health_pages, health_router
from worker.api.metrics import metrics_page, metrics_router
from worker.api.plain import Application, plain_application
from worker.api.server import make_application, serving
from worker.backends import Backend, embedded_backend, open_embedded, open_intake, open_search, real_backend
from worker.collector import settle_collector
from worker.configs import open_configs, open_store
from worker.delivering import Delivery
from worker.embedding import EmbeddedApp, embedded_app, with_embedded_defaults, with_sink
from worker.settings import Settings

if TYPE_CHECKING:  # a worker without an API does without FastAPI, too
    from fastapi import FastAPI

    from worker.reception import Reception

__all__ = [
    "EmbeddedApp",
    "embedded_app",
    "open_configs",
    "open_intake",
    "open_search",
    "open_store",
    "serve",
    "with_embedded_defaults",
]

log = structlog.get_logger(__name__)


async def serve(settings: Settings, *, worker: bool, api: bool, embedded: bool) -> None:
    """Run the parts asked for until SIGTERM or SIGINT; returns once everything has settled."""
    stop = asyncio.Event()
    with _stopping_on_signals(stop):
        async with contextlib.AsyncExitStack() as stack:
            if embedded:
                settings = await stack.enter_async_context(with_sink(settings))
            # First of all, so that a secret that cannot be read ends the start before anything is taken.
            configs = await stack.enter_async_context(open_configs(settings)) if worker else None
            backend = await stack.enter_async_context(_backend(settings, embedded=embedded, worker=worker, api=api))
            reception = await _reception(settings, backend, stack) if api else None
            delivery = Delivery(settings, backend.work, configs) if backend.work and configs else None
            checks = dict(backend.checks) if configs is None else {**backend.checks, "configs": configs.missing}
            application = _application(checks, delivery, reception)
            where = (settings.http_host, settings.http_port, settings.http_proxies)
            await stack.enter_async_context(serving(application, *where))
            settle_collector()
            if delivery is not None:
                await delivery.run(stop)
            else:
                await stop.wait()


async def _reception(settings: Settings, backend: Backend, stack: contextlib.AsyncExitStack) -> "Reception | None":
    if backend.front is None:
        return None
    from worker.reception import open_reception

    return await stack.enter_async_context(open_reception(settings, backend.front))


@contextlib.asynccontextmanager
async def _backend(settings: Settings, *, embedded: bool, worker: bool, api: bool) -> AsyncIterator[Backend]:
    if embedded:
        async with open_embedded(settings) as files:
            yield embedded_backend(settings, files)
    else:
        async with real_backend(settings, consuming=worker, api=api) as backend:
            yield backend


def _application(
    checks: Mapping[str, Check], delivery: Delivery | None, reception: "Reception | None"
) -> "Application | FastAPI":
    gauges = {} if delivery is None else dict(delivery.gauges)
    if reception is None:
        return plain_application({**health_pages(checks), "/metrics": metrics_page(gauges)})
    metrics = metrics_router({**gauges, **reception.gauges}, reception.gate)
    health = health_router(checks)
    return make_application([health, metrics, *reception.routers], changed=reception.shipping.nudge)


@contextlib.contextmanager
def _stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
