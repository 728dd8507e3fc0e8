"""Who takes part: how each one's worker is started, and how events get into its queue.

Every worker may use `CONNECTIONS` connections to the sink where it has a pool at all; Celery's and
dramatiq's have one for each process or thread (see `peers`).
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.sinks import Sink
from tests.bench.venv import PYTHON, environment
from tests.support.process import run_postbote
from worker.delivery.ports import Lane
from worker.rabbit import topology
from worker.rabbit.publisher import Publisher

CONNECTIONS = 8
PUBLISH_PATIENCE_S = 300


@dataclass(frozen=True)
class Site:
    """What one run has for itself: a virtual host, an index prefix, a folder; and the sink."""

    amqp_url: str
    sink_port: int
    ca_file: Path | None
    folder: Path
    opensearch_url: str = ""
    index_prefix: str = "bench"
    connections: int = CONNECTIONS

    @classmethod
    def for_sink(cls, sink: Sink, amqp_url: str, folder: Path, *, opensearch_url: str, index_prefix: str) -> "Site":
        """A site whose workers send to `sink`."""
        return cls(amqp_url, sink.port, sink.ca_file, folder, opensearch_url, index_prefix)


@dataclass(frozen=True)
class Contender:
    """A worker: `command` runs it, `environment` tells it, `publish` fills its queue with a file of events."""

    key: str
    name: str
    command: Sequence[str]
    environment: Callable[[Site], dict[str, str]]
    publish: Callable[[Site, Path], None]
    prepare: Callable[[Site], None] = lambda _site: None
    audited: bool = False
    profile: Path | None = None

    def profiled(self, file: Path) -> "Contender":
        """The same, whose Python worker writes its profile into `file` (see `profiled`)."""
        python, flag, *module = self.command
        return replace(self, command=(python, flag, "tests.bench.profiled", str(file), *module), profile=file)


# Postbote


def _postbote_environment(site: Site) -> dict[str, str]:
    """The product's defaults, but for where things are."""
    return environment(
        POSTBOTE_AMQP_URL=site.amqp_url,
        POSTBOTE_OPENSEARCH_URL=site.opensearch_url or "http://127.0.0.1:9",
        POSTBOTE_AUDIT_INDEX_PREFIX=site.index_prefix,
        POSTBOTE_DATABASE_URL=f"sqlite:///{site.folder / 'postbote.db'}",
        POSTBOTE_DATA_DIR=str(site.folder / "data"),
        POSTBOTE_HTTP_PORT="0",
        POSTBOTE_EHLO_NAME="bench.example.com",
    )


def _with_prefetch(prefetch: int) -> Callable[[Site], dict[str, str]]:
    return lambda site: {**_postbote_environment(site), "POSTBOTE_PREFETCH": str(prefetch)}


def _configure(site: Site) -> None:
    """Store the controller's record: the environment's has no number of connections."""
    tls = ["--tls", "starttls", "--ca-bundle", str(site.ca_file)] if site.ca_file else ["--tls", "none"]
    to = ["--host", "127.0.0.1", "--port", str(site.sink_port), "--from", "bench@example.com"]
    limit = ["--max-connections", str(site.connections)]
    done = run_postbote(
        "config", "set", "--scope", "controller", *to, *limit, *tls, env=_postbote_environment(site), timeout=30
    )
    if done.returncode:
        msg = f"postbote config set failed: {done.stderr}"
        raise RuntimeError(msg)


def _publish_events(site: Site, events: Path) -> None:
    asyncio.run(publish_all(site.amqp_url, events.read_bytes().splitlines()))


async def publish_all(amqp_url: str, bodies: Sequence[bytes]) -> None:
    """Publish events, confirmed, into the transactional lane."""
    publisher = await Publisher(amqp_url, "bench").start(declare=True)
    try:
        async with asyncio.timeout(PUBLISH_PATIENCE_S), asyncio.TaskGroup() as group:
            for body in bodies:
                group.create_task(publish_one(publisher, body))
    finally:
        await publisher.close()


async def publish_one(publisher: Publisher, body: bytes) -> None:
    """Publish one event."""
    key = topology.routing_key(Lane.TRANSACTIONAL, "bench")
    await publisher.publish(
        topology.EVENTS_EXCHANGE, key, body, content_type="application/cloudevents+json", headers={}
    )


def _postbote(key: str, name: str, *command: str, audited: bool, prefetch: int = 200) -> Contender:
    return Contender(
        key, name, (sys.executable, "-m", *command), _with_prefetch(prefetch), _publish_events, _configure, audited
    )


# The peers


def _peer(key: str, name: str, app: str, *command: str, **extra: str) -> Contender:
    def told(site: Site) -> dict[str, str]:
        return environment(
            BENCH_AMQP_URL=site.amqp_url,
            BENCH_SMTP_PORT=str(site.sink_port),
            BENCH_CA_FILE=str(site.ca_file or ""),
            BENCH_CONNECTIONS=str(site.connections),
            **extra,
        )

    def publish(site: Site, events: Path) -> None:
        publisher = [str(PYTHON), "-m", "tests.bench.peers.publish", app, str(events)]
        subprocess.run(publisher, env=told(site), check=True, timeout=PUBLISH_PATIENCE_S)

    return Contender(key, name, (str(PYTHON), "-m", *command), told, publish)


_CELERY = ("celery", "-A", "tests.bench.peers.celery_app", "worker", "--loglevel", "WARNING")
_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")

POSTBOTE = _postbote("postbote", "Postbote without audit", "tests.bench.unaudited", audited=False)
POSTBOTE_AUDITED = _postbote("postbote-audit", "Postbote with audit", "worker.cli", "worker", audited=True)
POSTBOTE_1000 = _postbote(
    "postbote-1000", "Postbote with audit, 1,000 in flight", "worker.cli", "worker", audited=True, prefetch=1000
)
CELERY = _peer(
    "celery-prefork", "Celery prefork + smtplib", "celery_app", *_CELERY, "-P", "prefork", "-c", "4", *_QUIET
)
AIO_PIKA = _peer("aio-pika", "aio-pika + aiosmtplib", "aio_pika_app", "tests.bench.peers.aio_pika_app")

CONTENDERS = (
    POSTBOTE,
    POSTBOTE_AUDITED,
    POSTBOTE_1000,
    CELERY,
    _peer(
        "celery-mime",
        "Celery prefork + smtplib, legacy MIME classes",
        "celery_app",
        *(*_CELERY, "-P", "prefork", "-c", "4", *_QUIET),
        BENCH_MIME="legacy",
    ),
    _peer("celery-threads", "Celery threads + smtplib", "celery_app", *_CELERY, "-P", "threads", "-c", "8", *_QUIET),
    _peer("dramatiq", "dramatiq + smtplib", "dramatiq_app", "dramatiq", "tests.bench.peers.dramatiq_app", "-p2", "-t8"),
    AIO_PIKA,
)
