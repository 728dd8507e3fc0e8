"""``postbote secrets list|create|rotate|delete``: passwords by name, which records refer to.

A value is read from standard input or asked for, never an argument, where every user of the host could
read it; none is ever printed. Exit codes as in `cli_config`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.smtp_checks import check_password, check_secret_name
from worker.cli_config import (
    Json,
    ScopeText,
    _at_terminal,
    _changing,
    _confirm,
    _fail,
    _fail_if,
    _one_line_of,
    _parse_scope,
    _print_json,
    _run,
)
from worker.cli_config_view import print_secrets
from worker.cli_people import command_actor

if TYPE_CHECKING:
    from worker.control.records import StoredSecret

Name = Annotated[str, typer.Option(help="The secret's name in its scope")]
FromStdin = Annotated[bool, typer.Option("--value-stdin", help="Read the value here, one line")]


def list_secrets(*, scope: ScopeText, json: Json = False) -> None:
    """List a scope's secrets by name, and the records of the scope that use them."""
    owner = _parse_scope(scope)
    found = _run(lambda store: store.secrets(owner))
    if json:
        _print_json([_to_json(secret) for secret in found])
    elif found:
        print_secrets(found)
    else:
        typer.echo(f"no secrets of {owner}")


def create_secret(
    *,
    scope: ScopeText,
    name: Name,
    shared: Annotated[bool, typer.Option("--shared", help="Records of the scopes below may use it, too")] = False,
    value_stdin: FromStdin = False,
    json: Json = False,
) -> None:
    """Store a secret, for `postbote config set --secret`."""
    owner = _parse_scope(scope)
    _check("name", name)
    value = _read_value(from_stdin=value_stdin)
    secret, untold = _run(
        lambda store: _changing(store, store.create_secret(owner, name, value, command_actor(), shared=shared))
    )
    _say(secret, "stored", as_json=json)
    _fail_if(untold)


def rotate_secret(*, scope: ScopeText, name: Name, value_stdin: FromStdin = False, json: Json = False) -> None:
    """Replace a secret's value in every record that uses it, also of scopes below."""
    owner = _parse_scope(scope)
    value = _read_value(from_stdin=value_stdin)
    secret, untold = _run(lambda store: _changing(store, store.rotate_secret(owner, name, value, command_actor())))
    _say(secret, "replaced", as_json=json)
    _fail_if(untold)


def delete_secret(
    *, scope: ScopeText, name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False
) -> None:
    """Delete a secret that no record uses."""
    owner = _parse_scope(scope)
    if not yes:
        _confirm(f"Delete secret {name!r} of {owner}?")
    _, untold = _run(lambda store: _changing(store, store.delete_secret(owner, name, command_actor())))
    typer.echo(f"deleted secret {name!r} of {owner}")
    _fail_if(untold)


def _read_value(*, from_stdin: bool) -> str:
    if from_stdin:
        return _check("value", _one_line_of(sys.stdin.read(), "value"))
    if not _at_terminal():
        _fail("value: give it by --value-stdin: there is no terminal to ask at")
    return _check("value", str(typer.prompt("Value", hide_input=True, err=True)))


def _check(field: str, given: str) -> str:
    try:
        return check_secret_name(given) if field == "name" else check_password(given)
    except ValueError as error:
        _fail(f"{field}: {error}")


def _say(secret: StoredSecret, done: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(_to_json(secret))
    else:
        typer.echo(f"{done} secret {secret.name!r} of {secret.scope}, version {secret.version}")


def _to_json(secret: StoredSecret) -> dict[str, Any]:
    return {
        "scope": str(secret.scope),
        "name": secret.name,
        "shared": secret.shared,
        "version": secret.version,
        "updated_at": secret.updated_at.isoformat(),
        "updated_by": secret.updated_by,
        "used_by": list(secret.used_by),
    }
