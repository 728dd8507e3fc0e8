"""``postbote token``: bearer tokens for programs.

`create` prints the token alone on standard output, so that ``TOKEN=$(postbote token create …)`` holds it.
It is never shown again.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.smtp_config import Scope
from worker.cli_people import (
    NOT_AVAILABLE,
    AnyScopeText,
    Json,
    ScopeText,
    command_actor,
    fail,
    notice,
    parse_scope,
    print_json,
    print_rows,
    require_scope,
    run,
    spell_time,
)
from worker.control.people import Token
from worker.control.principals import Role

if TYPE_CHECKING:
    from worker.store.people import PeopleStore

_LIFETIME = re.compile(r"([1-9][0-9]{0,4})([dh])\Z")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}

token_app = typer.Typer(help="Bearer tokens for programs.", no_args_is_help=True)


@token_app.command("create")
def create_token(
    *,
    scope: ScopeText,
    role: Annotated[Role, typer.Option("--role", help="admin changes, viewer reads")],
    expires: Annotated[str, typer.Option("--expires", help="After so many days or hours: 90d, 12h; or never")],
    name: Annotated[str, typer.Option("--name", help="What it is for, as the audit will name it")],
    json: Json = False,
) -> None:
    """Make a token and print it, this once."""
    owner = parse_scope(scope)
    expires_at = _end(expires, datetime.now(UTC))

    async def make(people: PeopleStore) -> tuple[Token, str]:
        await require_scope(people, owner)
        return await people.create_token(name, owner, role, command_actor(), expires_at=expires_at)

    token, value = run(make)
    if json:
        print_json({**_row(token), "token": value})
    else:
        typer.echo(value)
    until = "never expires" if token.expires_at is None else f"expires at {spell_time(token.expires_at)}"
    notice(f"token {token.id} of {token.scope} ({token.role}) {until}; it is not shown again")


@token_app.command("list")
def list_tokens(*, scope: AnyScopeText = None, json: Json = False) -> None:
    """List the tokens that are not revoked, without their values."""
    owner = None if scope is None else parse_scope(scope)
    found = run(lambda people: people.tokens(owner))
    print_rows([_row(token) for token in found], as_json=json, none="no tokens" + _of(owner))


@token_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `postbote token list` shows it")],
) -> None:
    """Revoke a token, at once."""

    async def revoke(people: PeopleStore) -> Token | None:
        token = next((each for each in await people.tokens() if each.id == token_id), None)
        revoked = token is not None and await people.revoke_token(token.scope, token.id, command_actor())
        return token if revoked else None

    token = run(revoke)
    if token is None:
        fail("id: there is no token of this id, or it is revoked already: see `postbote token list`", NOT_AVAILABLE)
    typer.echo(f"revoked token {token.name} of {token.scope}")


def _end(text: str, now: datetime) -> datetime | None:
    if text == "never":
        return None
    match = _LIFETIME.match(text)
    if match is None:
        fail("expires: expected days or hours, such as 90d or 12h, or never")
    return now + int(match[1]) * _UNITS[match[2]]


def _row(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scope": str(token.scope),
        "role": token.role.value,
        "created_at": spell_time(token.created_at),
        "created_by": token.created_by,
        "expires_at": spell_time(token.expires_at),
        "used_at": spell_time(token.used_at),
    }


def _of(scope: Scope | None) -> str:
    return "" if scope is None else f" of {scope}"
