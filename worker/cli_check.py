"""``postbote config check``: a record tried stage by stage, without sending a mail.

A stored record, or one that is not saved yet, given by the options of ``config set``. It is the
operator's command: it shows addresses and the egress rule's reasons, which tenants are not shown.
Exit codes: 0 every stage passed, 1 one failed or the record is not there, 2 a wrong argument.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.address import normalize_address
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig, TlsMode, label
from worker.cli_config import (
    NOT_AVAILABLE,
    PASSWORD_VARIABLE,
    Json,
    _choose_tls,
    _fail,
    _failing_readably,
    _parse_scope,
    _pick,
    _print_json,
    _read_ca,
    _read_password,
    _run,
)
from worker.settings import Settings, load_settings

if TYPE_CHECKING:  # a tenth of a second that only this command needs
    from worker.smtp.probe_stages import Report
    from worker.smtp.probe_watch import Observer

_ANY_SCOPE = "controller, partner:NAME or org:PARTNER/NAME: whose record, and whose egress rule"
_TO = "Ask the server, by RCPT, whether it takes mail for this address"


def check_record(  # noqa: PLR0913 # one option for each field that a check depends on
    *,
    scope: Annotated[str, typer.Option("--scope", help=_ANY_SCOPE)] = "controller",
    name: Annotated[str | None, typer.Option(help="The stored record; without it, the scope's default")] = None,
    host: Annotated[str | None, typer.Option(help="Check a record that is not stored: its server")] = None,
    port: Annotated[int | None, typer.Option(help="With --host: its port")] = None,
    tls: Annotated[TlsMode | None, typer.Option(help="Default: ssl for port 465, otherwise starttls")] = None,
    use_tls: Annotated[bool | None, typer.Option("--use-tls/--no-use-tls", help="Instead of --tls")] = None,
    username: Annotated[str | None, typer.Option(help=f"User; its password: asked for, or {PASSWORD_VARIABLE}")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password here")] = False,
    from_address: Annotated[str | None, typer.Option("--from", help="Sender for MAIL; default: the record's")] = None,
    ca_bundle: Annotated[Path | None, typer.Option(help="PEM file of the CA that signed the server")] = None,
    insecure_skip_verify_tls: Annotated[bool, typer.Option("--insecure-skip-verify-tls")] = False,
    require_tls: Annotated[bool, typer.Option(help="As in `config set`")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds for each step of the dialogue")] = None,
    to: Annotated[str | None, typer.Option("--to", help=_TO)] = None,
    json: Json = False,
) -> None:
    """Try a record stage by stage: DNS, egress, TCP, TLS, EHLO, login, MAIL, RCPT. Sends no mail."""
    owner, recipient, sender = _parse_scope(scope), _address("to", to), _address("from", from_address)
    unsaved: dict[str, Any] = {"port": port, "timeout": timeout, "require_tls": require_tls}
    unsaved |= {"tls": tls, "use_tls": use_tls, "username": username, "password_stdin": password_stdin}
    unsaved |= {"ca_bundle": ca_bundle, "insecure_skip_verify_tls": insecure_skip_verify_tls}
    _refuse_contradictions(host, name, unsaved)
    config = _stored(owner, name) if host is None else _unsaved(owner, host, sender, unsaved)
    report = _check(config, sender, recipient, as_json=json)
    raise typer.Exit(0 if report.ok else NOT_AVAILABLE)


def _refuse_contradictions(host: str | None, name: str | None, unsaved: dict[str, Any]) -> None:
    given = [option for option, value in unsaved.items() if value not in (None, False)]
    if host is None and given:
        _fail(f"{given[0]}: it belongs to a record that is not stored: give --host and --port too, or leave it out")
    if host is not None and name is not None:
        _fail("name: it names a stored record, --host one that is not stored: give one of them")
    if host is not None and unsaved["port"] is None:
        _fail("port: --host needs its --port")


def _stored(owner: Scope, name: str | None) -> SmtpConfig:
    if owner == CONTROLLER and name is None:
        with _failing_readably():
            record = load_settings().controller_record()
        if record is not None:
            return record
    summaries = _run(lambda store: store.records(owner))
    chosen = _pick(summaries, owner, name).name
    found = _run(lambda store: store.opened(owner, chosen))
    if found is None:
        _fail(f"name: {label(owner, chosen)} is gone already", NOT_AVAILABLE)
    return found


def _unsaved(owner: Scope, host: str, sender: str | None, given: dict[str, Any]) -> SmtpConfig:
    fields = {
        "partner": owner.partner,
        "org": owner.org,
        "display_name": "not stored",
        "host": host,
        "port": given["port"],
        "tls": _choose_tls(given["port"], given["tls"], use_tls=given["use_tls"]),
        "verify_tls": not given["insecure_skip_verify_tls"],
        "ca_bundle": None if given["ca_bundle"] is None else _read_ca(given["ca_bundle"]),
        "username": given["username"],
        "password": _read_password(given["username"], from_stdin=given["password_stdin"]),
        "from_address": sender,
        "require_tls": given["require_tls"],
        "timeout_s": given["timeout"],
    }
    with _failing_readably():
        return SmtpConfig.model_validate({field: value for field, value in fields.items() if value is not None})


def _address(option: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return normalize_address(text)
    except ValueError as error:
        _fail(f"{option}: {error}")


def _check(config: SmtpConfig, sender: str | None, recipient: str | None, *, as_json: bool) -> Report:
    from worker.cli_check_view import screen
    from worker.smtp.probe_stages import Audience, plan

    if as_json:
        report = _run_check(config, sender, recipient, None)
        _print_json(report.to_json())
        return report
    for warning in config.warnings():
        typer.echo(f"warning: {warning}", err=True)
    title = f"{label(config.scope, config.display_name)}: {config.host}:{config.port} ({config.tls})"
    with screen(title, plan(config, Audience.OPERATOR)) as shown:
        report = _run_check(config, sender, recipient, shown.show)
        shown.conclude(report)
    return report


def _run_check(config: SmtpConfig, sender: str | None, recipient: str | None, observe: Observer | None) -> Report:
    from worker.message.sender import default_from
    from worker.smtp.egress import EgressGuard
    from worker.smtp.probe import check

    settings = _settings()
    return asyncio.run(
        check(
            config,
            ehlo_name=settings.ehlo_name,
            guard=EgressGuard(settings.egress_allow, settings.egress_ports),
            recipient=recipient,
            sender=sender or default_from(config),
            observe=observe,
        )
    )


def _settings() -> Settings:
    with _failing_readably():
        return load_settings()
