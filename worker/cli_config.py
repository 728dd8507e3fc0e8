"""``postbote config``: SMTP records from the command line.

Standard output carries the answer, standard error the notices and the one line of an error. Exit
codes: 0 done, 1 not found or not available now, 2 bad input or a wrong setting. No command takes
a password as an argument, where every user of the host could read it, and none prints one.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import orjson
import typer
from pydantic import ValidationError

from schemas.smtp_config import Scope, ScopeLevel, TlsMode, label, tls_from_flags
from worker.cli_config_publish import EmptyStore, snapshot_store, tell_topic
from worker.cli_config_view import print_notices, print_record, print_table, print_warnings
from worker.cli_people import command_actor
from worker.control.errors import NotFound, Refused
from worker.control.records import (
    Draft,
    KeepPassword,
    NewPassword,
    NoPassword,
    Password,
    StoredRecord,
    UseReference,
    UseSecret,
)
from worker.errors import PostboteError, RenderError, SecretKeyMissing, SecretUnreadable, SettingsError

if TYPE_CHECKING:  # SQLAlchemy takes a third of a second to import: only the commands that need it wait for it
    from worker.store.configs import ConfigStore

PASSWORD_VARIABLE = "POSTBOTE_SMTP_PASSWORD"  # noqa: S105 # the name of a variable, not a password
NOT_AVAILABLE = 1
BAD_INPUT = 2
_UNVERIFIED = "Do not verify the certificate"
_AS_GIVEN = (
    *("host", "port", "username", "from_address", "reply_to", "allowed_from", "retries", "max_connections"),
    *("rate_per_minute", "chunking", "require_tls", "dkim_domain", "dkim_selector"),
)
_REMEDIES = {"host": "expected a host name or an IP address"}  # where pydantic would quote a pattern
T = TypeVar("T")

config_app = typer.Typer(help="SMTP records of the controller, partners and orgs.", no_args_is_help=True)

ScopeText = Annotated[str, typer.Option("--scope", help="controller, partner:NAME or org:PARTNER/NAME")]
AnyScopeText = Annotated[str | None, typer.Option("--scope", help="Only this scope's records")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


def open_store() -> AbstractAsyncContextManager[ConfigStore]:
    """The store that the environment's settings describe, open inside the context."""
    from worker import app
    from worker.settings import load_settings

    return app.open_store(load_settings())


@config_app.command("set")
def set_record(  # noqa: PLR0913 # one option for each field of the record
    *,
    scope: ScopeText,
    host: Annotated[str, typer.Option(help="SMTP server's name or address")],
    port: Annotated[int, typer.Option(help="SMTP server's port, such as 465 or 587")],
    tls: Annotated[TlsMode | None, typer.Option(help="Default: ssl for port 465, otherwise starttls")] = None,
    use_tls: Annotated[bool | None, typer.Option("--use-tls/--no-use-tls", help="Instead of --tls")] = None,
    username: Annotated[str | None, typer.Option(help=f"User; its password: asked for, or {PASSWORD_VARIABLE}")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password here")] = False,
    keep_password: Annotated[bool, typer.Option("--keep-password", help="The stored one, for the same server")] = False,
    secret: Annotated[str | None, typer.Option(help="Name of the secret that holds the password")] = None,
    password_ref: Annotated[str | None, typer.Option(help="env:NAME or file:/PATH, on the workers' hosts")] = None,
    from_address: Annotated[str | None, typer.Option("--from", help="From where an event brings none")] = None,
    reply_to: Annotated[str | None, typer.Option(help="Reply-To where an event brings none")] = None,
    allowed_from: Annotated[list[str] | None, typer.Option(help="From that events may use; repeatable")] = None,
    ca_bundle: Annotated[Path | None, typer.Option(help="PEM file of the CA that signed the server")] = None,
    insecure_skip_verify_tls: Annotated[bool, typer.Option("--insecure-skip-verify-tls", help=_UNVERIFIED)] = False,
    retries: Annotated[int | None, typer.Option(help="Retries in process after a transient failure")] = None,
    max_connections: Annotated[int | None, typer.Option(help="Connections to the server at most")] = None,
    rate_per_minute: Annotated[int | None, typer.Option(help="Mails a minute at most")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for each step of the dialogue")] = None,
    chunking: Annotated[bool, typer.Option(help="Send by BDAT where the server offers CHUNKING")] = False,
    require_tls: Annotated[bool, typer.Option(help="Nothing goes but by servers that promise TLS all the way")] = False,
    dkim_domain: Annotated[str | None, typer.Option(help="Sign with DKIM for this domain")] = None,
    dkim_selector: Annotated[
        str | None, typer.Option(help="Where the key's public half is: SELECTOR._domainkey")
    ] = None,
    dkim_key: Annotated[Path | None, typer.Option(help="PEM file of the RSA key that signs")] = None,
    name: Annotated[str, typer.Option(help="The record's name in its scope")] = "default",
    json: Json = False,
) -> None:
    """Store a scope's SMTP record, replacing the whole record of that name."""
    given = locals()  # each option by its name
    draft = _draft_of(_parse_scope(scope), given)
    _save(draft, as_json=json)


@config_app.command("list")
def list_records(*, scope: AnyScopeText = None, json: Json = False) -> None:
    """List the stored records; a scope's default comes first and is the one that sends."""
    owner = None if scope is None else _parse_scope(scope)
    found = _run(lambda store: store.records(owner))
    if json:
        _print_json([summary.to_json() for summary in found])
    elif not found:
        typer.echo("no SMTP records" if owner is None else f"no SMTP records of {owner}")
    else:
        print_table(found)
        for summary in found:
            print_warnings(summary)


@config_app.command("show")
def show_record(
    *,
    scope: ScopeText,
    name: Annotated[str | None, typer.Option(help="The record's name; without it, the scope's default")] = None,
    json: Json = False,
) -> None:
    """Show a record: everything but its password."""
    owner = _parse_scope(scope)
    summary = _pick(_run(lambda store: store.records(owner)), owner, name)
    if json:
        _print_json(summary.to_json())
    else:
        print_record(summary)
        print_warnings(summary)


@config_app.command("delete")
def delete_record(
    *,
    scope: ScopeText,
    name: Annotated[str, typer.Option(help="The record's name in its scope")] = "default",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
) -> None:
    """Delete a record; where it was its scope's default, the first fallback or next record follows."""
    owner = _parse_scope(scope)
    _pick(_run(lambda store: store.records(owner)), owner, name)
    if not yes:
        _confirm(f"Delete {label(owner, name)}?")
    deleted, untold = _run(lambda store: _changing(store, store.remove(owner, name, command_actor())))
    if not deleted:
        _fail(f"name: {label(owner, name)} is gone already", NOT_AVAILABLE)
    typer.echo(f"deleted {label(owner, name)}")
    _fail_if(untold)


@config_app.command("feature")
def org_feature(
    *,
    scope: Annotated[str, typer.Option("--scope", help="org:PARTNER/NAME")],
    on: Annotated[bool, typer.Option("--on/--off", help="Whether the org's own records count")],
) -> None:
    """Turn an org's own SMTP records on or off; off is where every org begins."""
    org = _parse_scope(scope)
    if org.level is not ScopeLevel.ORG:
        _fail(f"scope: {org} has no such feature, orgs have: give org:PARTNER/NAME")
    _, untold = _run(lambda store: _changing(store, store.set_org_feature(org, command_actor(), on=on)))
    typer.echo(f"SMTP records of {org} are {'on' if on else 'off'}")
    _fail_if(untold)


@config_app.command("publish-snapshot")
def publish_snapshot(
    *,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Even if the store holds no records")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Delete the topic first: the store came from a backup")] = False,
    json: Json = False,
) -> None:
    """Publish every record to the config topic; what the store does not hold goes away there, too."""
    found = _run(lambda store: snapshot_store(store, allow_empty=allow_empty, anew=anew))
    if json:
        _print_json(asdict(found))
    else:
        typer.echo(f"published {found.records} records, {found.deletes} deletes and {found.features} features")


def _run(work: Callable[[ConfigStore], Awaitable[T]]) -> T:
    async def inside() -> T:
        async with open_store() as store:
            return await work(store)

    with _failing_readably():
        return asyncio.run(inside())


async def _changing(store: ConfigStore, change: Awaitable[T]) -> tuple[T, str | None]:
    """What `change` returns, and what to say where the workers could not be told of it."""
    changed = await change
    return changed, await tell_topic(store)


@contextmanager
def _failing_readably() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        _fail("\n".join(_explain(error)))
    except NotFound as error:
        _fail(str(error), NOT_AVAILABLE)
    except (SettingsError, SecretKeyMissing, SecretUnreadable, EmptyStore, Refused) as error:
        _fail(str(error))
    except PostboteError as error:
        _fail(str(error), NOT_AVAILABLE)


def _fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _fail_if(untold: str | None) -> None:
    if untold is not None:
        _fail(untold, NOT_AVAILABLE)


def _explain(error: ValidationError) -> Iterator[str]:
    # Without the input: a password may be what was refused.
    for found in error.errors(include_input=False, include_url=False, include_context=False):
        path = ".".join(str(part) for part in found["loc"])
        message = _REMEDIES.get(path, found["msg"].removeprefix("Value error, "))
        yield f"{path}: {message}" if path else message


def _parse_scope(text: str) -> Scope:
    try:
        return Scope.parse(text)
    except ValueError as error:
        _fail(f"scope: {error}")


def _choose_tls(port: int, tls: TlsMode | None, *, use_tls: bool | None) -> TlsMode:
    if tls is not None and use_tls is not None:
        _fail("tls: --tls and --use-tls say the same thing in two ways: give one of them")
    return tls or tls_from_flags(port, use_tls=use_tls is not False)


def _read_ca(file: Path) -> str:
    try:
        pem = file.read_text("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):  # ValueError: empty, or not even ASCII
        _fail(f"ca_bundle: {file} holds no readable certificate: give a PEM file of CA certificates")
    except OSError as error:
        _fail(f"ca_bundle: cannot read {file}: {error.strerror}")
    if "PRIVATE KEY" in pem:
        _fail(f"ca_bundle: {file} holds a private key, which nobody else should have: give certificates only")
    return pem


def _draft_of(owner: Scope, given: dict[str, Any]) -> Draft:
    fields = {name: given[name] for name in _AS_GIVEN if given[name] not in (None, [])}
    fields |= {"tls": _choose_tls(given["port"], given["tls"], use_tls=given["use_tls"])}
    fields |= {"verify_tls": not given["insecure_skip_verify_tls"]}
    if given["ca_bundle"] is not None:
        fields["ca_bundle"] = _read_ca(given["ca_bundle"])
    if given["timeout"] is not None:
        fields["timeout_s"] = given["timeout"]
    key = None if given["dkim_key"] is None else _read_dkim_key(given["dkim_key"])
    return Draft(owner, given["name"], fields, _choose_password(given), key)


def _choose_password(given: dict[str, Any]) -> Password:
    ways = ("secret", "password_ref", "keep_password", "password_stdin")
    chosen = [f"--{way.replace('_', '-')}" for way in ways if given[way] not in (None, False)]
    if len(chosen) > 1:
        _fail(f"password: {' and '.join(chosen)} name two passwords: give one of them")
    match chosen:
        case ["--secret"]:
            return UseSecret(given["secret"])
        case ["--password-ref"]:
            return UseReference(given["password_ref"])
        case ["--keep-password"]:
            return KeepPassword()
    password = _read_password(given["username"], from_stdin=given["password_stdin"])
    return NoPassword() if password is None else NewPassword(password)


def _read_dkim_key(file: Path) -> str:
    try:
        pem = file.read_text("ascii")
    except (OSError, ValueError):
        _fail(f"dkim_key: cannot read {file}: give a PEM file of an RSA key")
    _try_key(pem, file)
    return pem


def _try_key(pem: str, file: Path) -> None:
    from worker.message.dkim import DkimKey, sign

    try:
        sign(b"From: trial@example.com\r\n\r\n", DkimKey("example.com", "trial", pem.encode()))
    except RenderError:
        _fail(f"dkim_key: {file} holds no key that can sign: give a PEM file of an RSA key")


def _read_password(username: str | None, *, from_stdin: bool) -> str | None:
    if from_stdin:
        return _one_line_of(sys.stdin.read())
    if username is None:
        return None
    with _failing_readably():
        found = _password_from_environment()
    if found:
        return found
    if not _at_terminal():
        _fail(f"password: give it by --password-stdin or {PASSWORD_VARIABLE}: there is no terminal to ask at")
    return str(typer.prompt("Password", hide_input=True, err=True))


def _password_from_environment() -> str | None:
    from worker.settings import load_settings

    found = load_settings().smtp_password
    return None if found is None else found.get_secret_value()


def _one_line_of(text: str, field: str = "password") -> str:
    line = text.removesuffix("\n").removesuffix("\r")
    if not line or "\n" in line:
        _fail(f"{field}: expected exactly one line on standard input")
    return line


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _confirm(question: str) -> None:
    if not _at_terminal():
        _fail("yes: there is no terminal to ask at: confirm with --yes")
    typer.confirm(question, abort=True, err=True)


def _save(draft: Draft, *, as_json: bool) -> None:
    from worker.store.drafting import validated

    with _failing_readably():
        validated(draft)  # before anything is opened, let alone made

    async def save(store: ConfigStore) -> tuple[Sequence[StoredRecord], bool, bool, str | None]:
        _, untold = await _changing(store, store.save(draft, command_actor()))
        counts = draft.scope.level is not ScopeLevel.ORG or await store.org_feature(draft.scope)
        return await store.records(draft.scope), counts, await store.is_stranger(draft.scope), untold

    stored, counts, stranger, untold = _run(save)
    summary = _pick(stored, draft.scope, draft.name)
    if as_json:
        _print_json(summary.to_json())
    else:
        typer.echo(f"saved {label(summary.scope, summary.name)}, version {summary.version}")
        print_warnings(summary)
    print_notices(summary, stored[0], counts=counts, stranger=stranger)
    _fail_if(untold)


def _pick(summaries: Sequence[StoredRecord], scope: Scope, name: str | None) -> StoredRecord:
    for summary in summaries:
        if summary.name == name or (name is None and summary.is_default):
            return summary
    names = ", ".join(summary.name for summary in summaries)
    missing = f"name: there is no {label(scope, name)}" if name else f"scope: there is no record of {scope}"
    _fail(missing + (f"; it has: {names}" if names else ": store one with `postbote config set`"), NOT_AVAILABLE)


def _print_json(value: object) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
