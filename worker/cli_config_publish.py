"""Telling the config topic what the store holds, for the commands of ``postbote config``.

The store is changed first: it numbers the versions. So a topic that cannot be told is behind and
nothing else, and a snapshot makes good whatever it missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from worker.errors import PostboteError

if TYPE_CHECKING:
    from schemas.smtp_config import Scope
    from worker.rabbit.config_publisher import PublishedSnapshot
    from worker.store.configs import ConfigStore

SNAPSHOT_COMMAND = "postbote config publish-snapshot"
_SAY_EVERY = 1000  # changes


class EmptyStore(PostboteError):
    """A snapshot of a store without records would take every record from every worker."""


async def tell_topic(store: ConfigStore, scope: Scope) -> str | None:
    """Publish what the store now says of `scope` where workers read the topic.

    Returns a sentence for the user where that failed.
    """
    from worker.rabbit.config_publisher import open_config_publisher
    from worker.rabbit.declaring import Provision
    from worker.settings import load_settings

    settings = load_settings()
    if settings.config_source != "topic":
        return None
    try:
        changes = await store.changes(scope)
        async with open_config_publisher(settings.amqp_url, provision=Provision(settings.topology)) as publisher:
            await publisher.publish(changes)
    except PostboteError as error:
        return f"the store has it, but workers were not told: {error}; make it good with `{SNAPSHOT_COMMAND}`"
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
    if not allow_empty and not await store.summaries():
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
