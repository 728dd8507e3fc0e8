"""``postbote partner`` and ``postbote org``: the tenants."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.smtp_config import Scope
from worker.cli_people import (
    Json,
    command_actor,
    fail,
    failing_readably,
    hash_of,
    notice,
    print_rows,
    read_password,
    run,
    spell_time,
)
from worker.control.people import NewUser, Organization, Partner
from worker.control.principals import Role
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from worker.store.people import PeopleStore

partner_app = typer.Typer(help="Partners.", no_args_is_help=True)
org_app = typer.Typer(help="Organizations of partners.", no_args_is_help=True)

OrgName = Annotated[str, typer.Argument(metavar="PARTNER/NAME", help="The organization")]


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


@partner_app.command("create")
def create_partner(name: Annotated[str, typer.Argument(help="Letters, digits, . _ -")]) -> None:
    """Make a partner."""
    partner = run(lambda people: people.create_partner(name, command_actor()))
    typer.echo(f"created partner {partner.name}")


@partner_app.command("list")
def list_partners(*, json: Json = False) -> None:
    """List the partners by name."""
    found = run(lambda people: people.partners())
    print_rows([_partner_row(partner) for partner in found], as_json=json, none="no partners")


@org_app.command("create")
def create_org(
    org: OrgName,
    *,
    admin_email: Annotated[str, typer.Option("--admin-email", help="Address of its first admin")],
    admin_name: Annotated[str | None, typer.Option("--admin-name", help="How mails call the admin")] = None,
    admin_password_stdin: Annotated[
        bool, typer.Option("--admin-password-stdin", help="Read the admin's password here; no mail is sent then")
    ] = False,
    smtp: Annotated[Switch, typer.Option("--smtp", help="Whether its own SMTP records count")] = Switch.OFF,
) -> None:
    """Make an organization with its first admin, who gets a mail to set a password unless one is given."""
    partner, name = _parse(org)
    with failing_readably():
        settings = load_settings()
    password = _read_admin_password(settings, from_stdin=admin_password_stdin)

    async def make(people: PeopleStore) -> Organization:
        from worker.people import mails

        hashed = None if password is None else await hash_of(password, admin_email)
        admin = NewUser(admin_email, admin_name, Scope(partner, name), Role.ADMIN, hashed)
        mail = mails(settings).registered(admin) if hashed is None else None
        return await people.create_organization(
            partner, name, admin, command_actor(), smtp_enabled=smtp is Switch.ON, mail=mail
        )

    made = run(make)
    typer.echo(f"created organization {made.partner}/{made.name}")
    if password is None:
        notice(
            f"the admin's mail goes out by the SMTP record of org:{org}, once `postbote api` or `postbote run` is up: "
            f"`postbote config explain --scope org:{org}` says which one that is"
        )


@org_app.command("list")
def list_orgs(
    *, partner: Annotated[str, typer.Option("--partner", help="Whose organizations")], json: Json = False
) -> None:
    """List a partner's organizations by name."""
    found = run(lambda people: people.organizations(partner))
    print_rows([_org_row(org) for org in found], as_json=json, none=f"no organizations of {partner}")


@org_app.command("feature")
def switch_smtp(
    org: OrgName, *, on: Annotated[bool, typer.Option("--on/--off", help="Whether its own SMTP records count")]
) -> None:
    """Let an organization's own SMTP records count, or not."""
    partner, name = _parse(org)
    switched = run(lambda people: people.switch_org_smtp(partner, name, command_actor(), on=on))
    typer.echo(f"SMTP records of {org} are {'on' if switched.smtp_enabled else 'off'}")


def _parse(org: str) -> tuple[str, str]:
    try:
        scope = Scope.parse(f"org:{org}")
    except ValueError:
        fail("org: expected PARTNER/NAME (letters, digits, . _ -)")
    return scope.partner or "", scope.org or ""


def _read_admin_password(settings: Settings, *, from_stdin: bool) -> str | None:
    """The password of the first admin; None where a mail asks for it (ACCOUNT_CREATION_STRATEGY=VERIFY)."""
    if not from_stdin and settings.account_creation_strategy == "VERIFY":
        return None
    return read_password(from_stdin=from_stdin, option="--admin-password-stdin")


def _partner_row(partner: Partner) -> dict[str, Any]:
    return {"name": partner.name, "created_at": spell_time(partner.created_at), "created_by": partner.created_by}


def _org_row(org: Organization) -> dict[str, Any]:
    return {
        "partner": org.partner,
        "name": org.name,
        "smtp_enabled": org.smtp_enabled,
        "created_at": spell_time(org.created_at),
        "created_by": org.created_by,
    }
