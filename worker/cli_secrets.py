"""``postbote secrets``: keys for what is stored sealed, passwords and signing keys.

A key is replaced while everything runs: the new one is put in front of the old one, what is stored
is sealed with it by `rotate-key`, and then the old one is dropped. Nobody notices in between, as
every key opens. The command changes all records or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import orjson
import typer

from schemas.config_change import Delete, Feature, Put
from schemas.smtp_config import label
from worker.cli_config_publish import SNAPSHOT_COMMAND
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.settings import Settings, load_settings
from worker.store.secrets import SETTING, SecretBox

_NAMED_AT_MOST = 20  # records in one error

secrets_app = typer.Typer(help="Keys for the stored SMTP passwords and signing keys.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation found and did, counted in records.

    `older` of the `records` that hold a secret had one under a key other than the first, and
    `resealed` were written; a snapshot is due where workers read the config topic.
    """

    records: int
    older: int
    resealed: int
    snapshot_due: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """The records that hold a secret, by their labels, and those that no key or only an older key opens."""

    records: Sequence[str]
    older: Sequence[str]
    unreadable: Sequence[str]


@secrets_app.command("new-key")
def new_key() -> None:
    """Print a new key for POSTBOTE_SECRET_KEYS."""
    from worker.store.secrets import new_key as make

    typer.echo(make())


@secrets_app.command("rotate-key")
def rotate_key(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many records it would change")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Seal every stored secret with the first key of POSTBOTE_SECRET_KEYS; older keys may go afterwards."""
    done = asyncio.run(rotate(load_settings(), dry_run=dry_run))
    if json:
        typer.echo(orjson.dumps(asdict(done)).decode())
    else:
        typer.echo(_sentence(done))
    if done.snapshot_due:
        typer.echo(
            "notice: workers read the config topic, where the secrets are still sealed as they were: "
            f"run `{SNAPSHOT_COMMAND}` before an older key is dropped",
            err=True,
        )


async def rotate(settings: Settings, *, dry_run: bool) -> Rotation:
    """Seal with the first key what is sealed with another one, in one transaction.

    Raises SecretUnreadable, naming every record that no key opens, and then nothing was changed;
    SecretKeyMissing where nothing is there to seal with; StoreUnavailable.
    """
    from worker.app import open_store

    keys = [key.get_secret_value() for key in settings.secret_keys]
    async with open_store(settings) as store:
        found = survey(await store.changes(), keys)
        _require_readable(found)
        due = bool(found.older) and not dry_run
        # The store opens each of them again inside its transaction: a record saved meanwhile is not missed.
        resealed = await store.reseal() if due else 0
    return Rotation(
        records=len(found.records),
        older=len(found.older),
        resealed=resealed,
        # Also where nothing was left to seal: whoever runs it a second time may have missed it the first time.
        snapshot_due=settings.config_source == "topic" and bool(found.records) and not dry_run,
        dry_run=dry_run,
    )


def survey(changes: Iterable[Put | Delete | Feature], keys: Sequence[str]) -> Survey:
    """Which of the stored records hold a secret, and which of these no key, or not the first one, opens.

    Raises SecretKeyMissing where there is a secret and no key, SettingsError where a key is none.
    """
    first, every = SecretBox(keys[:1]), SecretBox(keys)
    sealed = {label(put.scope, put.name): _tokens(put) for put in changes if isinstance(put, Put)}
    sealed = {name: tokens for name, tokens in sealed.items() if tokens}
    if sealed and not keys:
        raise SecretKeyMissing(f"{len(sealed)} records hold a secret and {SETTING} is empty: nothing can be opened")
    unreadable = [name for name, tokens in sealed.items() if not _opens(every, tokens)]
    older = [name for name, tokens in sealed.items() if name not in unreadable and not _opens(first, tokens)]
    return Survey(list(sealed), older, unreadable)


def _tokens(put: Put) -> list[str]:
    return [token for token in (put.secret, put.dkim_secret) if token is not None]


def _opens(box: SecretBox, tokens: Iterable[str]) -> bool:
    try:
        for token in tokens:
            box.open(token)
    except SecretUnreadable:
        return False
    return True


def _require_readable(found: Survey) -> None:
    if not found.unreadable:
        return
    shown = "; ".join(found.unreadable[:_NAMED_AT_MOST])
    more = f"; and {len(found.unreadable) - _NAMED_AT_MOST} more" if len(found.unreadable) > _NAMED_AT_MOST else ""
    raise SecretUnreadable(
        f"nothing was changed: none of the keys in {SETTING} opens {len(found.unreadable)} of {len(found.records)} "
        f"records: {shown}{more}: add the key that they were sealed with, or save them again"
    )


def _sentence(done: Rotation) -> str:
    if not done.records:
        return "no record holds a secret: there is nothing to seal"
    if not done.older:
        return f"all {done.records} records with a secret are sealed with the first key already"
    if done.dry_run:
        return f"{done.older} of {done.records} records with a secret would be sealed anew with the first key"
    return f"sealed {done.resealed} records with the first key, {done.older} of which had an older one"
