"""Where a worker's SMTP records come from: the store behind a short cache, or the config topic in memory.

Part of the composition root (see ``app``). The store's library is loaded only where it is used.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from worker.control.references import opening
from worker.delivery.ports import ConfigSource
from worker.settings import Settings, environment_variable
from worker.store.controller import ControllerFromEnvironment
from worker.store.secrets import SecretBox

if TYPE_CHECKING:
    from worker.store.configs import ConfigStore

Check = Callable[[], str | None]
Gauges = Mapping[str, tuple[str, Callable[[], float | None]]]
"""By metric name: what it says, and how it is read (None: not known now)."""


def secret_box(settings: Settings) -> SecretBox:
    """The keys of the settings."""
    return SecretBox([key.get_secret_value() for key in settings.secret_keys])


@contextlib.asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator["ConfigStore"]:
    """Open the store of SMTP records; a SQLite file is created and brought up to date."""
    from worker.store.configs import ConfigStore

    store = ConfigStore(settings.database_url, secret_box(settings), environment_variable)
    try:
        if store.database.is_sqlite:
            await store.database.upgrade()
        await store.open()
        yield store
    finally:
        await store.close()


@dataclass(frozen=True, slots=True)
class Configs:
    """The records as the pipeline reads them, what readiness says of them, and when they are all known."""

    source: ConfigSource
    missing: Check
    ready: Callable[[], Coroutine[Any, Any, None]]
    gauges: Gauges = field(default_factory=dict)


@contextlib.asynccontextmanager
async def open_configs(settings: Settings) -> AsyncIterator[Configs]:
    """The records as the pipeline reads them, with the environment's controller on top."""
    opened = _configs_of_topic(settings) if settings.config_source == "topic" else _configs_of_store(settings)
    async with opened as configs:
        record = settings.controller_record()
        yield replace(configs, source=ControllerFromEnvironment(configs.source, record)) if record else configs


@contextlib.asynccontextmanager
async def _configs_of_store(settings: Settings) -> AsyncIterator[Configs]:
    """The store, behind a short cache; raises SecretUnreadable or SecretKeyMissing where a password can't be read."""
    from worker.store.cached import CachedConfigSource

    async with open_store(settings) as store:
        await store.verify_secrets()
        cached = CachedConfigSource(store, ttl_s=settings.config_cache_s)
        yield Configs(
            cached, lambda: "the store is away: older records are used" if cached.stale else None, _nothing_to_wait_for
        )


@contextlib.asynccontextmanager
async def _configs_of_topic(settings: Settings) -> AsyncIterator[Configs]:
    """The config topic in memory; nothing is taken before it has been read."""
    from worker.rabbit.config_topic import open_config_topic
    from worker.rabbit.declaring import Provision

    name = f"postbote configs {settings.worker_id}"
    provision = Provision(settings.topology)
    open_secret = opening(secret_box(settings).open, environment_variable)
    async with open_config_topic(settings.amqp_url, open_secret, name=name, provision=provision) as topic:
        gauges: Gauges = {
            "postbote_config_topic_connected": ("1 while changes arrive", lambda: topic.status.connected),
            "postbote_config_topic_records": ("SMTP records in memory", lambda: topic.status.records),
            "postbote_config_topic_skipped": (
                "Messages or changes that could not be read",
                lambda: topic.status.skipped,
            ),
            "postbote_config_topic_lag_seconds": (
                "How old the last change was when it came",
                lambda: topic.status.lag_s,
            ),
        }
        yield Configs(topic, topic.missing, topic.caught_up, gauges)


async def _nothing_to_wait_for() -> None:
    """A store is asked when it is needed."""
