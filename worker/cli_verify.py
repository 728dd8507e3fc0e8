"""``postbote config verify``: one test mail by a stored record, through the engine that sends every mail.

What came of it stands in the audit like any mail's end, as type ``email.verification``. It is sent as
the scope's own test mail is: see ``postbote config check`` for what a tenant is not told. Exit codes: 0
the server took the mail, 1 it did not or there is no record, 2 a wrong argument.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.smtp_config import Scope, SmtpConfig, label
from worker.cli_check import _address
from worker.cli_config import NOT_AVAILABLE, Json, _fail, _failing_readably, _parse_scope, _print_json, _run
from worker.cli_explain import source_of
from worker.settings import Settings, load_settings

if TYPE_CHECKING:  # only this command needs the engine
    from worker.control.trials import TestMail, Verification
    from worker.store.configs import ConfigStore

SUBJECT = "Test mail from Postbote"
_NAME = "The scope's record of this name; without it, the one that sends the scope's mail"


def verify_record(
    *,
    scope: Annotated[str, typer.Option("--scope", help="controller, partner:NAME or org:PARTNER/NAME")],
    to: Annotated[str, typer.Option("--to", help="Who gets the mail")],
    from_address: Annotated[str | None, typer.Option("--from", help="Its From; default: the record's")] = None,
    name: Annotated[str | None, typer.Option(help=_NAME)] = None,
    embedded: Annotated[bool, typer.Option("--embedded", help="Record it in the embedded form's audit")] = False,
    json: Json = False,
) -> None:
    """Send one test mail by a stored record and tell what came of it."""
    owner, recipient, asked = _parse_scope(scope), _address("to", to), _address("from", from_address)
    with _failing_readably():
        settings = _settings(embedded=embedded)
    config = _run(lambda store: _config(store, owner, name, settings))
    if config is None:
        missing = f"there is no {label(owner, name)}" if name else f"no record applies to {owner}"
        _fail(f"{'name' if name else 'scope'}: {missing}", NOT_AVAILABLE)
    mail = _mail(config, owner, asked, recipient or to)
    with _failing_readably():
        told = asyncio.run(_verify(settings, config, owner, mail, embedded=embedded))
    if json:
        _print_json({"accepted": told.accepted, **asdict(told)})
    else:
        for line in _lines(told):
            typer.echo(line)
    raise typer.Exit(0 if told.accepted else NOT_AVAILABLE)


def _settings(*, embedded: bool) -> Settings:
    from worker.logs import configure_logging

    settings = load_settings()
    configure_logging("error", settings.log_format)
    if not embedded:
        return settings
    from worker.embedding import with_embedded_defaults

    return with_embedded_defaults(settings)


async def _config(store: ConfigStore, owner: Scope, name: str | None, settings: Settings) -> SmtpConfig | None:
    from worker.delivery.resolution import Resolved, resolve

    if name is not None:
        return await store.opened(owner, name)
    found = resolve(owner, await source_of(store, settings.controller_record()).configs_for(owner))
    return found.config if isinstance(found, Resolved) else None


def _mail(config: SmtpConfig, scope: Scope, asked: str | None, recipient: str) -> TestMail:
    """The test mail, from whom the record lets mail come."""
    from worker.control.trials import TestMail
    from worker.delivery.verification import admits
    from worker.message.sender import default_from

    what = label(config.scope, config.display_name)
    sender = asked or default_from(config)
    if sender is None:
        _fail(f"from: {what} names no sender: give one that its allowed_from admits")
    if not admits(config, sender):
        _fail(f"from: {what} does not admit this address: it has to be in its allowed_from")
    body = f"This mail shows that {what} can send.\n\nSent for {scope} at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC.\n"
    return TestMail(sender, recipient, SUBJECT, body)


async def _verify(
    settings: Settings, config: SmtpConfig, scope: Scope, mail: TestMail, *, embedded: bool
) -> Verification:
    from worker.trials import open_trials

    async with open_trials(settings, embedded=embedded) as trials:
        return await trials.verify(config, scope, mail)


def _lines(told: Verification) -> Iterator[str]:
    reason = told.reason or ""
    said = reason if reason.startswith(f"{told.outcome}:") else f"{told.outcome}: {reason}"
    yield f"{said} ({told.took_ms:.0f} ms)"
    reply = told.reply or {}
    if reply.get("code"):
        yield f"reply: {reply['code']} {reply['text']}".rstrip()
    if told.hint:
        yield f"hint: {told.hint}"
    if told.message_id:
        yield f"message-id: {told.message_id}"
    yield f"audit: {told.audit_id or 'not recorded: it does not answer'}"
