"""``postbote secrets``: passwords by name (`cli_named_secrets`), and the keys for what is stored sealed.

A key is replaced while everything runs: the new one is put in front of the old one, what is stored
is sealed with it by `rotate-key`, and then the old one is dropped. Nobody notices in between, as
every key opens. The command changes all records or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import orjson
import typer

from worker.cli_config_publish import SNAPSHOT_COMMAND
from worker.cli_named_secrets import create_secret, delete_secret, list_secrets, rotate_secret
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.settings import Settings, load_settings
from worker.store.secrets import SETTING, SecretBox

_NAMED_AT_MOST = 20  # records in one error
RECORD = "record "
"""How `schemas.smtp_config.label` begins, and the label of a secret does not."""

secrets_app = typer.Typer(help="SMTP passwords by name, and the keys that they are sealed with.", no_args_is_help=True)
secrets_app.command("list")(list_secrets)
secrets_app.command("create")(create_secret)
secrets_app.command("rotate")(rotate_secret)
secrets_app.command("delete")(delete_secret)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation found and did, counted in records, and in secrets that have a name of their own.

    `older` of the `records` and `secrets` had something under a key other than the first, and
    `resealed` were written; a snapshot is due where workers read the config topic.
    """

    records: int
    secrets: int
    older: int
    resealed: int
    snapshot_due: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """What holds something sealed, by its label, and what of that no key or only an older key opens."""

    holders: Sequence[str]
    older: Sequence[str]
    unreadable: Sequence[str]

    @property
    def records(self) -> int:
        """How many of them are records."""
        return sum(name.startswith(RECORD) for name in self.holders)


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
        found = survey(await store.tokens(), keys)
        _require_readable(found)
        due = bool(found.older) and not dry_run
        # The store opens each of them again inside its transaction: a record saved meanwhile is not missed.
        resealed = await store.reseal() if due else 0
    return Rotation(
        records=found.records,
        secrets=len(found.holders) - found.records,
        older=len(found.older),
        resealed=resealed,
        # Also where nothing was left to seal: whoever runs it a second time may have missed it the first time.
        snapshot_due=settings.config_source == "topic" and bool(found.records) and not dry_run,
        dry_run=dry_run,
    )


def survey(sealed: Mapping[str, Sequence[str]], keys: Sequence[str]) -> Survey:
    """Which of the tokens, by what holds them, no key opens, or not the first one.

    Raises SecretKeyMissing where there is a token and no key, SettingsError where a key is none.
    """
    first, every = SecretBox(keys[:1]), SecretBox(keys)
    if sealed and not keys:
        raise SecretKeyMissing(
            f"{len(sealed)} records or secrets are sealed and {SETTING} is empty: nothing can be opened"
        )
    unreadable = [name for name, tokens in sealed.items() if not _opens(every, tokens)]
    older = [name for name, tokens in sealed.items() if name not in unreadable and not _opens(first, tokens)]
    return Survey(list(sealed), older, unreadable)


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
        f"nothing was changed: none of the keys in {SETTING} opens {len(found.unreadable)} of "
        f"{_counted(found.records, len(found.holders) - found.records)}: {shown}{more}: "
        "add the key that they were sealed with, or save them again"
    )


def _sentence(done: Rotation) -> str:
    counted = _counted(done.records, done.secrets, " with a secret")
    if not done.records and not done.secrets:
        return "no record holds a secret: there is nothing to seal"
    if not done.older:
        return f"all {counted} are sealed with the first key already"
    if done.dry_run:
        return f"{done.older} of {counted} would be sealed anew with the first key"
    return f"sealed {_counted(done.records, done.secrets)} with the first key, {done.older} of which had an older one"


def _counted(records: int, secrets: int, holding: str = "") -> str:
    return f"{records} records{holding}" + (f" and {secrets} named secrets" if secrets else "")
