"""The composition root: builds the adapters, runs them, and takes them down in order.

Nothing but this and ``backends`` wires anything. The worker and the API are the same over
RabbitMQ and OpenSearch and over the embedded files.
"""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import SecretStr

from worker.api.health import Check, health_pages, health_router
from worker.api.plain import Application, plain_application
from worker.api.server import make_application, serving
from worker.backends import (
    Backend,
    EmbeddedFiles,
    embedded_backend,
    open_embedded,
    open_intake,
    open_search,
    real_backend,
)
from worker.collector import settle_collector
from worker.delivery.pipeline import Pipeline, PipelinePorts
from worker.delivery.ports import ConfigSource
from worker.delivery.retry import RetryPolicy
from worker.settings import HIGHEST_PORT, Settings
from worker.smtp.egress import EgressGuard
from worker.smtp.pool import SmtpPool
from worker.store.cached import CachedConfigSource
from worker.store.controller import ControllerFromEnvironment

if TYPE_CHECKING:  # nobody loads what only others need: the API's framework, the embedded servers, the database
    from fastapi import FastAPI

    from worker.embedded.audit import SqliteAudit
    from worker.embedded.queue import SqliteQueue
    from worker.store.configs import ConfigStore

__all__ = ["EmbeddedApp", "embedded_app", "open_intake", "open_search", "open_store", "serve"]

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def open_store(settings: Settings) -> "AsyncIterator[ConfigStore]":
    """Open the store of SMTP records; a SQLite file is created and brought up to date."""
    from worker.store.configs import ConfigStore
    from worker.store.secrets import SecretBox

    store = ConfigStore(settings.database_url, SecretBox([k.get_secret_value() for k in settings.secret_keys]))
    try:
        if store.database.is_sqlite:
            await store.database.upgrade()
        await store.open()
        yield store
    finally:
        await store.close()


async def serve(settings: Settings, *, worker: bool, api: bool, embedded: bool) -> None:
    """Run the parts asked for until SIGTERM or SIGINT; returns once everything has settled."""
    stop = asyncio.Event()
    with _stopping_on_signals(stop):
        async with contextlib.AsyncExitStack() as stack:
            if embedded:
                settings = await stack.enter_async_context(with_sink(settings))
            # First of all, so that a secret that cannot be read ends the start before anything is taken.
            configs = await stack.enter_async_context(open_configs(settings)) if worker else None
            backend = await stack.enter_async_context(_backend(settings, embedded=embedded, consuming=worker))
            checks = dict(backend.checks) if configs is None else {**backend.checks, "configs": configs.missing}
            http = serving(_application(backend, checks, api=api), settings.http_host, settings.http_port)
            await stack.enter_async_context(http)
            settle_collector()
            if configs is not None:
                await work(settings, backend, configs.source, stop)
            else:
                await stop.wait()


@contextlib.asynccontextmanager
async def _backend(settings: Settings, *, embedded: bool, consuming: bool) -> AsyncIterator[Backend]:
    if embedded:
        async with open_embedded(settings) as files:
            yield embedded_backend(settings, files)
    else:
        async with real_backend(settings, consuming=consuming) as backend:
            yield backend


@dataclass(frozen=True, slots=True)
class Configs:
    """The records as the pipeline reads them, and what readiness says of their store."""

    source: ConfigSource
    missing: Check


@contextlib.asynccontextmanager
async def open_configs(settings: Settings) -> AsyncIterator[Configs]:
    """The records as the pipeline reads them: cached, with the environment's controller on top.

    Raises SecretUnreadable or SecretKeyMissing where a stored password cannot be read.
    """
    async with open_store(settings) as store:
        await store.verify_secrets()
        cached = CachedConfigSource(store, ttl_s=settings.config_cache_s)
        record = settings.controller_record()
        source: ConfigSource = ControllerFromEnvironment(cached, record) if record else cached
        yield Configs(source, lambda: "the store is away: older records are used" if cached.stale else None)


async def work(settings: Settings, backend: Backend, configs: ConfigSource, stop: asyncio.Event) -> None:
    """Consume and deliver until `stop`; then let transactions end, within the grace."""
    guard = EgressGuard(settings.egress_allow, settings.egress_ports)
    pool = SmtpPool(settings.ehlo_name, guard=guard, max_connections=settings.smtp_max_connections)
    ports = PipelinePorts(configs, pool, backend.audit, backend.lookup)
    retry = RetryPolicy(settings.retry_budget_s, settings.retry_first_wait_s, settings.doubt_wait_s)
    pipeline = Pipeline(ports, worker_id=settings.worker_id, retry=retry)
    consuming = asyncio.ensure_future(backend.consume(pipeline.handle, stop))
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({consuming, stopped}, return_when=asyncio.FIRST_COMPLETED)
        pipeline.stop()
        await _within_grace(consuming, pipeline, settings.shutdown_grace_s)
    finally:
        stopped.cancel()
        await pool.close()


async def _within_grace(consuming: asyncio.Future[None], pipeline: Pipeline, grace_s: float) -> None:
    log.info("stopping", in_flight=pipeline.in_flight)
    await asyncio.wait({consuming}, timeout=grace_s)
    if consuming.done():
        consuming.result()
        return
    log.warning("the grace is over: what is not settled goes back to the queue", in_flight=pipeline.in_flight)
    pipeline.abort()
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class EmbeddedApp:
    """The embedded form with its parts in reach, for the demo and for tests."""

    settings: Settings
    queue: "SqliteQueue"
    audit: "SqliteAudit"
    store: "ConfigStore"

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """Run the worker while the block runs, and let it settle at its end."""
        stop = asyncio.Event()
        async with open_configs(self.settings) as configs:
            backend = embedded_backend(self.settings, EmbeddedFiles(self.queue, self.audit))
            # A group, so that a worker that dies ends the block, too.
            async with asyncio.TaskGroup() as group:
                group.create_task(work(self.settings, backend, configs.source, stop))
                try:
                    yield
                finally:
                    stop.set()


@contextlib.asynccontextmanager
async def embedded_app(settings: Settings) -> AsyncIterator[EmbeddedApp]:
    """Open the embedded form in `settings.data_dir`; nothing is consumed before `worker`."""
    settings = with_embedded_defaults(settings)
    async with open_embedded(settings) as files, open_store(settings) as store:
        yield EmbeddedApp(settings, files.queue, files.audit, store)


def with_embedded_defaults(settings: Settings) -> Settings:
    """Keep the store and its key in the data folder and let records lead to this host, unless chosen otherwise."""
    folder = settings.data_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    update: dict[str, Any] = {}
    if "database_url" not in settings.model_fields_set:
        update["database_url"] = f"sqlite:///{(folder / 'postbote.db').absolute()}"
    if not settings.secret_keys:
        update["secret_keys"] = (SecretStr(_kept_key(folder / "secret.key")),)
    # The sink stands on a free port of this host, and the tenants' records of the demo lead to it.
    if "egress_allow" not in settings.model_fields_set:
        update["egress_allow"] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    if "egress_ports" not in settings.model_fields_set:
        update["egress_ports"] = ((1, HIGHEST_PORT),)
    return settings.model_copy(update=update)


@contextlib.asynccontextmanager
async def with_sink(settings: Settings) -> AsyncIterator[Settings]:
    """Embedded defaults, and a local SMTP sink as the controller's server unless one is set."""
    from worker.embedded.certificates import ensure_certificates
    from worker.embedded.sink import SmtpSink

    settings = with_embedded_defaults(settings)
    if settings.controller_host is not None:
        yield settings
        return
    certificates = ensure_certificates(settings.data_dir / "tls")
    account, password = "controller@postbote.example", secrets.token_urlsafe(16)
    mails = settings.data_dir / "mails"
    async with SmtpSink(certificates, accounts={account: password}, directory=mails) as sink:
        log.info("smtp sink is listening", port=sink.starttls_port, mails=str(mails))
        yield settings.model_copy(
            update={
                "controller_host": "localhost",
                "controller_port": sink.starttls_port,
                "controller_username": account,
                "controller_password": SecretStr(password),
                "controller_ca_file": sink.ca_file,
            }
        )


def _kept_key(file: Path) -> str:
    from worker.store.secrets import new_key

    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(new_key())
    return file.read_text().strip()


def _application(backend: Backend, checks: Mapping[str, Check], *, api: bool) -> "Application | FastAPI":
    if not api:
        return plain_application(health_pages(checks))
    from worker.api.audit_log import audit_router
    from worker.api.events import events_router

    return make_application([health_router(checks), events_router(backend.intake), audit_router(backend.search)])


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
