"""``/v1/partners``: the controller's own; for everybody else there is no such path."""

from typing import Annotated, Self

from fastapi import APIRouter, Depends, Request
from pydantic import AwareDatetime

from schemas.smtp_config import ScopeLevel
from schemas.text import TenantName
from worker.api.auth import Asker, Gate
from worker.api.bodies import Body, read_body
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems, takes
from worker.control.people import Partner
from worker.control.ports import Directory
from worker.control.principals import Role


class NewPartner(Body):
    """A partner as it is wanted."""

    name: TenantName


class PartnerShown(Body):
    """One partner."""

    name: str
    created_at: AwareDatetime
    created_by: str

    @classmethod
    def of(cls, partner: Partner) -> Self:
        """As an answer shows it."""
        return cls(name=partner.name, created_at=partner.created_at, created_by=partner.created_by)


class PartnersShown(Body):
    """All partners by name."""

    partners: tuple[PartnerShown, ...]


def partners_router(gate: Gate, directory: Directory) -> APIRouter:
    """Build the endpoints."""
    router = APIRouter(prefix="/v1/partners", tags=["organizations"])
    reader = Annotated[Asker, Depends(gate.at(ScopeLevel.CONTROLLER))]
    admin = Annotated[Asker, Depends(gate.at(ScopeLevel.CONTROLLER, role=Role.ADMIN))]

    @router.get("", summary="All partners", responses=problems(404, *WITH_PRINCIPAL))
    async def partners(_asker: reader) -> PartnersShown:
        return PartnersShown(partners=tuple(map(PartnerShown.of, await directory.partners())))

    @router.post(
        "",
        status_code=201,
        summary="Make a partner",
        responses=problems(404, 409, *WITH_BODY, *WITH_PRINCIPAL),
        openapi_extra=takes(NewPartner),
    )
    async def create(request: Request, asker: admin) -> PartnerShown:
        body = await read_body(request, NewPartner)
        return PartnerShown.of(await directory.create_partner(body.name, asker.actor))

    return router
