"""``/v1/organizations``: a partner's organizations, each made together with its first admin.

How the admin gets a password is the operator's choice, ACCOUNT_CREATION_STRATEGY: by a mailed link
(VERIFY), or from whoever makes the organization (AUTO).
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import AwareDatetime

from schemas.address import Address
from schemas.smtp_config import Scope, ScopeLevel
from schemas.text import TenantName
from worker.api.auth import Asker, Gate, PartnerName
from worker.api.bodies import Body, read_body
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems, takes
from worker.api.login import TypedPassword
from worker.api.problem import invalid, not_found
from worker.api.sending import require_working
from worker.api.users import PersonName
from worker.control.errors import Taken
from worker.control.mails import Mails
from worker.control.passwords import Passwords
from worker.control.people import NewUser, Organization
from worker.control.ports import Directory, MakeMail
from worker.control.principals import Role
from worker.delivery.ports import ConfigSource

Strategy = Literal["VERIFY", "AUTO"]
"""ACCOUNT_CREATION_STRATEGY: how an organization's first admin gets a password."""

_PATHS = {"admin_email": "admin.email"}  # how the store and a body's reader call the same field
_ABOVE = (ScopeLevel.CONTROLLER, ScopeLevel.PARTNER)


class FirstAdmin(Body):
    """Who is to run the organization; `password` where the strategy is AUTO, and only there."""

    email: Address
    name: PersonName | None = None
    password: TypedPassword | None = None


class NewOrganization(Body):
    """An organization as it is wanted; the controller says of which partner."""

    name: TenantName
    partner: TenantName | None = None
    admin: FirstAdmin
    smtp_enabled: bool = False


class OrganizationChange(Body):
    """Whether the organization's own SMTP records count and can be set."""

    smtp_enabled: bool


class OrganizationShown(Body):
    """One organization. To itself `smtp_enabled` is shown while it is on only: off, there is no such thing."""

    partner: str
    name: str
    created_at: AwareDatetime
    created_by: str
    smtp_enabled: bool | None = None


class OrganizationsShown(Body):
    """Organizations by partner and name."""

    organizations: tuple[OrganizationShown, ...]


@dataclass(frozen=True, slots=True)
class Accounts:
    """How first admins get in: the strategy, and what it takes."""

    strategy: Strategy
    passwords: Passwords
    configs: ConfigSource
    mails: Mails

    async def prepare(self, admin: FirstAdmin, scope: Scope) -> tuple[NewUser, MakeMail | None]:
        """The admin to be made, and the mail that brings the link; raises Problem 422, NotWorking, Refused."""
        new = NewUser(admin.email, admin.name, scope, Role.ADMIN)
        match self.strategy:
            case "VERIFY":
                if admin.password is not None:
                    raise invalid("admin.password", "is not taken here: the admin sets it by a link that is mailed")
                await require_working(self.configs, scope)
                return new, self.mails.registered(new)
            case "AUTO":
                if admin.password is None:
                    raise invalid("admin.password", "is missing: no mail asks the admin for it")
                typed = admin.password.get_secret_value()
                hashed = await self.passwords.hash(typed, email=admin.email, path="admin.password")
                return replace(new, password_hash=hashed), None


def organizations_router(gate: Gate, directory: Directory, accounts: Accounts) -> APIRouter:
    """Build the endpoints; `accounts` decides how first admins get in."""
    router = APIRouter(prefix="/v1/organizations", tags=["organizations"])
    _add_reading(router, gate, directory)
    _add_making(router, gate, directory, accounts)
    return router


def _add_reading(router: APIRouter, gate: Gate, directory: Directory) -> None:
    reader = Annotated[Asker, Depends(gate.reader)]

    @router.get(
        "",
        summary="The organizations that the asker reaches",
        response_model_exclude_none=True,
        responses=problems(404, 422, *WITH_PRINCIPAL),
    )
    async def organizations(asker: reader, partner: PartnerName = None) -> OrganizationsShown:
        found = await _reached(gate, directory, asker, partner)
        return OrganizationsShown(organizations=tuple(_shown(each, asker) for each in found))

    @router.get(
        "/{name}",
        summary="One organization",
        response_model_exclude_none=True,
        responses=problems(404, 422, *WITH_PRINCIPAL),
    )
    async def organization(name: str, asker: reader, partner: PartnerName = None) -> OrganizationShown:
        return _shown(await _one(gate, directory, asker, partner, name), asker)


def _add_making(router: APIRouter, gate: Gate, directory: Directory, accounts: Accounts) -> None:
    admin = Annotated[Asker, Depends(gate.at(*_ABOVE, role=Role.ADMIN))]

    @router.post(
        "",
        status_code=201,
        summary="Make an organization and its first admin",
        responses=problems(404, 409, *WITH_BODY, *WITH_PRINCIPAL),
        openapi_extra=takes(NewOrganization),
    )
    async def create(request: Request, asker: admin) -> OrganizationShown:
        body = await read_body(request, NewOrganization)
        partner = _partner_for(asker, body.partner)
        await gate.reached(asker, partner)
        first, mail = await accounts.prepare(body.admin, Scope(partner, body.name))
        try:
            made = await directory.create_organization(
                partner, body.name, first, asker.actor, smtp_enabled=body.smtp_enabled, mail=mail
            )
        except Taken as error:
            raise Taken(_PATHS.get(error.path, error.path), error.message) from None
        return _shown(made, asker)

    @router.patch(
        "/{name}",
        summary="Switch the organization's own SMTP records on or off",
        responses=problems(404, *WITH_BODY, *WITH_PRINCIPAL),
        openapi_extra=takes(OrganizationChange),
    )
    async def switch(request: Request, name: str, asker: admin, partner: PartnerName = None) -> OrganizationShown:
        found = await _one(gate, directory, asker, partner, name)
        body = await read_body(request, OrganizationChange)
        switched = await directory.switch_org_smtp(found.partner, found.name, asker.actor, on=body.smtp_enabled)
        return _shown(switched, asker)


async def _reached(gate: Gate, directory: Directory, asker: Asker, partner: str | None) -> list[Organization]:
    scope = await gate.reached(asker, partner)
    if scope.partner is None:
        return [each for p in await directory.partners() for each in await directory.organizations(p.name)]
    if scope.org is None:
        return list(await directory.organizations(scope.partner))
    own = await directory.organization(scope.partner, scope.org)
    return [own] if own is not None else []


async def _one(gate: Gate, directory: Directory, asker: Asker, partner: str | None, name: str) -> Organization:
    scope = await gate.reached(asker, partner, name)
    found = await directory.organization(scope.partner or "", scope.org or "")
    if found is None:
        raise not_found()
    return found


def _partner_for(asker: Asker, named: str | None) -> str:
    own = asker.scope.partner
    if own is None:
        if named is None:
            raise invalid("partner", "is missing: the controller says whose organization it is")
        return named
    if named is not None:
        raise invalid("partner", "is the controller's to say: leave it out")
    return own


def _shown(found: Organization, asker: Asker) -> OrganizationShown:
    hidden = asker.scope.org is not None and not found.smtp_enabled
    return OrganizationShown(
        partner=found.partner,
        name=found.name,
        created_at=found.created_at,
        created_by=found.created_by,
        smtp_enabled=None if hidden else found.smtp_enabled,
    )
