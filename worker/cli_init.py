"""``postbote init``: the database, and the controller's first admin in it.

Run it as often as you like: what is there already stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from schemas.smtp_config import CONTROLLER
from worker.cli_people import PasswordStdin, command_actor, fail, failing_readably, hash_of, notice, read_password, run
from worker.control.people import NewUser, User, UserState
from worker.control.principals import Role
from worker.settings import load_settings, variable_names

if TYPE_CHECKING:
    from worker.store.people import PeopleStore


def init(
    *,
    email: Annotated[str, typer.Option("--email", help="Address of the first admin, who logs in with it")],
    name: Annotated[str | None, typer.Option("--name", help="How mails call the admin")] = None,
    password_stdin: PasswordStdin = False,
) -> None:
    """Make the database where there is none, and the controller's first admin."""
    if _is_there(email):
        return
    with failing_readably():
        found = load_settings().admin_password
    variable = variable_names("admin_password")[0]
    password = read_password(
        from_stdin=password_stdin,
        option=f"--password-stdin or {variable}",
        found=None if found is None else found.get_secret_value(),
    )

    async def make(people: PeopleStore) -> User | None:
        new = NewUser(email, name, CONTROLLER, Role.ADMIN, await hash_of(password, email))
        return await people.add_first_admin(new, command_actor())

    made = run(make)
    if made is None:  # somebody else was faster
        _is_there(email)
        return
    typer.echo(f"{made.email} is the controller's first admin")


def _is_there(email: str) -> bool:
    """Whether this admin was made before; ends the command where it was another one."""

    async def look(people: PeopleStore) -> tuple[User | None, bool]:
        found = await people.credentials(email)
        admins = [user for user in await people.users(CONTROLLER) if user.role is Role.ADMIN]
        return (found.user if found and found.user in admins else None), bool(admins)

    admin, others = run(look)
    if admin is None and others:
        add = f"`postbote user add --scope controller --role admin --email {email}`"
        fail(f"email: the controller has another admin, so this is not the first one: {add}")
    if admin is None:
        return False
    typer.echo(f"{admin.email} is an admin of the controller already")
    if admin.state is not UserState.ACTIVE:
        notice(f"the user is {admin.state}: `postbote user enable {admin.email}`")
    return True
