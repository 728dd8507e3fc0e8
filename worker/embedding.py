"""The embedded form: SQLite files and a local SMTP server in place of everything else.

Part of the composition root (see ``app``).
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import SecretStr

from worker.backends import EmbeddedFiles, embedded_workshop, open_embedded
from worker.configs import open_configs, open_store
from worker.delivering import Delivery
from worker.settings import HIGHEST_PORT, Settings
from worker.store.secrets import new_key

if TYPE_CHECKING:  # a worker on real servers loads neither the embedded ones nor the database
    from worker.embedded.audit import SqliteAudit
    from worker.embedded.queue import SqliteQueue
    from worker.store.configs import ConfigStore

log = structlog.get_logger(__name__)


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
            workshop = embedded_workshop(self.settings, EmbeddedFiles(self.queue, self.audit))
            # A group, so that a worker that dies ends the block, too.
            async with asyncio.TaskGroup() as group:
                group.create_task(Delivery(self.settings, workshop, configs).run(stop))
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
    if settings.config_source != "store":  # the topic is RabbitMQ's
        update["config_source"] = "store"
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
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(new_key())
    return file.read_text().strip()
