"""Telling the config topic what the store holds, for the commands of ``postbote config``.

The store is changed first: it numbers the versions. So a topic that cannot be told is behind and
nothing else, and a snapshot makes good whatever it missed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from worker.errors import PostboteError

if TYPE_CHECKING:
    from worker.rabbit.config_publisher import PublishedSnapshot
    from worker.store.configs import ConfigStore

SNAPSHOT_COMMAND = "postbote config publish-snapshot"
_SAY_EVERY = 1000  # changes
_PATIENCE_S = 5.0  # somebody waits at a terminal, and what is left is told later


class EmptyStore(PostboteError):
    """A snapshot of a store without records would take every record from every worker."""


async def tell_topic(store: ConfigStore) -> str | None:
    """Ship what changes have left to tell: to the config topic where workers read it, and to the audit.

    Returns a sentence for the user where the workers could not be told. That the audit waits is a notice
    on standard error: its records are in the store.
    """
    from worker.logs import configure_logging
    from worker.settings import load_settings
    from worker.shipping import ship_once
    from worker.store.outgoing import OutgoingKind, OutgoingShelf

    settings = load_settings()
    configure_logging("error", settings.log_format)  # what is away is said in the answer
    try:
        async with asyncio.timeout(_PATIENCE_S):
            trouble = (await ship_once(settings)).trouble
    except TimeoutError:
        trouble = f"nothing answered within {_PATIENCE_S:.0f} s"
    waiting = {} if trouble is None else await OutgoingShelf(store.database).backlog()
    if OutgoingKind.CONFIG in waiting:
        return f"the store has it, but workers were not told: {trouble}; make it good with `{SNAPSHOT_COMMAND}`"
    if waiting:
        typer.echo(f"notice: the audit was not told yet: {trouble}; `postbote api` or the next command will", err=True)
    return None


async def snapshot_store(store: ConfigStore, *, allow_empty: bool, anew: bool) -> PublishedSnapshot:
    """Publish everything that the store holds; progress goes to standard error.

    `anew`: in a topic that is deleted and made again first. Raises EmptyStore unless `allow_empty`,
    BrokerUnavailable, PublishRefused, TopologyMismatch or StoreUnavailable.
    """
    from worker.rabbit.config_publisher import delete_topic, open_config_publisher
    from worker.rabbit.declaring import Provision
    from worker.settings import load_settings

    settings = load_settings()
    if not allow_empty and not await store.records():
        raise EmptyStore(
            f"{store.database.location} holds no records: workers would forget all of theirs; "
            "if that is meant, give --allow-empty"
        )
    if anew:
        await delete_topic(settings.amqp_url)
    provision = Provision.DECLARE if anew else Provision(settings.topology)
    async with open_config_publisher(settings.amqp_url, provision=provision) as publisher:
        return await publisher.publish_snapshot(store.changes, _say_progress)


def _say_progress(done: int, of: int) -> None:
    if done == of or done % _SAY_EVERY == 0:
        typer.echo(f"published {done} of {of}", err=True)
