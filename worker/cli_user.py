"""``postbote user``: those who log in, by their addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli_people import (
    AnyScopeText,
    Json,
    PasswordStdin,
    ScopeText,
    command_actor,
    hash_of,
    parse_scope,
    print_rows,
    read_password,
    require_scope,
    run,
    spell_time,
)
from worker.control.errors import NotFound
from worker.control.people import NewUser, User, UserState
from worker.control.principals import Role

if TYPE_CHECKING:
    from worker.store.people import PeopleStore

user_app = typer.Typer(help="Those who log in, by their addresses.", no_args_is_help=True)

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The user's address")]


@user_app.command("list")
def list_users(*, scope: AnyScopeText = None, json: Json = False) -> None:
    """List users by their addresses."""
    owner = None if scope is None else parse_scope(scope)
    found = run(lambda people: people.users(owner))
    none = "no users" if owner is None else f"no users of {owner}"
    print_rows([_row(user) for user in found], as_json=json, none=none)


@user_app.command("add")
def add_user(
    *,
    email: Annotated[str, typer.Option("--email", help="The address to log in with")],
    scope: ScopeText,
    role: Annotated[Role, typer.Option("--role", help="admin changes, viewer reads")],
    name: Annotated[str | None, typer.Option("--name", help="How mails call the user")] = None,
    password_stdin: PasswordStdin = False,
) -> None:
    """Add a user who may log in at once."""
    owner = parse_scope(scope)
    run(lambda people: require_scope(people, owner))  # before anybody is asked for a password
    password = read_password(from_stdin=password_stdin)

    async def add(people: PeopleStore) -> User:
        new = NewUser(email, name, owner, role, await hash_of(password, email))
        return await people.add_user(new, command_actor())

    user = run(add)
    typer.echo(f"added {user.email}, {user.role} of {user.scope}")


@user_app.command("set-password")
def set_password(email: Email, *, password_stdin: PasswordStdin = False) -> None:
    """Set a user's password; the user's sessions and links end."""
    run(lambda people: _find(people, email))
    password = read_password(from_stdin=password_stdin)

    async def change(people: PeopleStore) -> User:
        user = await _find(people, email)
        await people.set_password(user.id, await hash_of(password, user.email), command_actor())
        return user

    typer.echo(f"set the password of {run(change).email}; every session has ended")


@user_app.command("disable")
def disable(email: Email) -> None:
    """Keep a user out, at once; the scope's last active admin stays."""
    _switch(email, UserState.DISABLED)


@user_app.command("enable")
def enable(email: Email) -> None:
    """Let a disabled user in again."""
    _switch(email, UserState.ACTIVE)


def _switch(email: str, state: UserState) -> None:
    async def change(people: PeopleStore) -> User:
        user = await _find(people, email)
        return await people.change_user(user.scope, user.id, command_actor(), state=state)

    user = run(change)
    typer.echo(f"{user.email} is {user.state}")


async def _find(people: PeopleStore, email: str) -> User:
    found = await people.credentials(email)
    if found is None:
        raise NotFound("email", "there is no user of this address: see `postbote user list`")
    return found.user


def _row(user: User) -> dict[str, Any]:
    return {
        "email": user.email,
        "name": user.name,
        "scope": str(user.scope),
        "role": user.role.value,
        "state": user.state.value,
        "created_at": spell_time(user.created_at),
        "id": user.id,
    }
