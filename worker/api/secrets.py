"""``/v1/secrets``: passwords by name, which SMTP records refer to. A value goes in and never comes out."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator

from schemas.smtp_checks import check_password, check_secret_name
from worker.api.auth import Asker, Gate
from worker.api.bodies import Body, read_body
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems, takes
from worker.api.problem import not_found
from worker.api.smtp_access import named_in_path, smtp_admissions
from worker.api.smtp_shown import FLAG, MAYBE_TEXT, NUMBER, TEXT, TEXTS, a_list, an_object, answers
from worker.control.errors import NotFound
from worker.control.ports import Records
from worker.control.records import StoredSecret
from worker.control.trials import Broadcast

_PATH = "/v1/secrets"

SecretValue = Annotated[str, AfterValidator(check_password)]


class NewSecret(Body):
    """A secret; `shared`: records of scopes below may use it, too."""

    name: Annotated[str, AfterValidator(check_secret_name)]
    value: SecretValue
    shared: bool = False


class NewValue(Body):
    """What a secret is from now on, for every record that uses it."""

    value: SecretValue


def secrets_router(gate: Gate, records: Records, broadcast: Broadcast) -> APIRouter:
    """Build the endpoints over `records`."""
    router = APIRouter(prefix=_PATH, tags=["secrets"])
    admitted = smtp_admissions(gate, records)
    reader, admin = (Annotated[Asker, Depends(each)] for each in (admitted.reader, admitted.admin))
    _add_list(router, records, reader)
    _add_create(router, records, broadcast, admin)
    _add_rotate(router, records, broadcast, admin)
    _add_delete(router, records, broadcast, admin)
    return router


def _add_list(router: APIRouter, records: Records, reader: Any) -> None:
    @router.get(
        "",
        summary="The named secrets of the asker's scope, without their values",
        responses={**answers(200, "All of them", a_list("secrets", _SECRET)), **problems(404, *WITH_PRINCIPAL)},
    )
    async def secrets(asker: reader) -> JSONResponse:
        return JSONResponse({"secrets": [_shown(each) for each in await records.secrets(asker.scope)]})


def _add_create(router: APIRouter, records: Records, broadcast: Broadcast, admin: Any) -> None:
    @router.post(
        "",
        status_code=201,
        summary="Store a secret under a name",
        responses={
            **answers(201, "The secret, without its value", _SECRET),
            **problems(404, 409, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra=takes(NewSecret),
    )
    async def create(request: Request, asker: admin) -> JSONResponse:
        new = await read_body(request, NewSecret)
        made = await records.create_secret(asker.scope, new.name, new.value, asker.actor, shared=new.shared)
        broadcast.nudge()
        place = {"Location": f"{_PATH}/{quote(made.name, safe='')}"}
        return JSONResponse(_shown(made), status_code=201, headers=place)


def _add_rotate(router: APIRouter, records: Records, broadcast: Broadcast, admin: Any) -> None:
    @router.put(
        "/{name}",
        summary="Replace a secret's value, for every record that uses it",
        responses={
            **answers(200, "The secret, without its value", _SECRET),
            **problems(404, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra=takes(NewValue),
    )
    async def rotate(request: Request, name: str, asker: admin) -> JSONResponse:
        named_in_path(name)
        value = (await read_body(request, NewValue)).value
        try:
            rotated = await records.rotate_secret(asker.scope, name, value, asker.actor)
        except NotFound:
            raise not_found() from None
        broadcast.nudge()
        return JSONResponse(_shown(rotated))


def _add_delete(router: APIRouter, records: Records, broadcast: Broadcast, admin: Any) -> None:
    @router.delete(
        "/{name}",
        summary="Delete a secret that no record uses",
        responses={**answers(200, "It is deleted", _DELETED), **problems(404, 409, *WITH_PRINCIPAL)},
    )
    async def delete(name: str, asker: admin) -> JSONResponse:
        try:
            await records.delete_secret(asker.scope, named_in_path(name), asker.actor)
        except NotFound:
            raise not_found() from None
        broadcast.nudge()
        return JSONResponse({"deleted": {"scope": str(asker.scope), "name": name}})


def _shown(secret: StoredSecret) -> dict[str, Any]:
    return {
        "scope": str(secret.scope),
        "name": secret.name,
        "shared": secret.shared,
        "version": secret.version,
        "updated_at": secret.updated_at.isoformat(),
        "updated_by": secret.updated_by,
        "used_by": list(secret.used_by),
    }


_SECRET = an_object(
    {
        "scope": TEXT,
        "name": TEXT,
        "shared": FLAG,
        "version": NUMBER,
        "updated_at": TEXT,
        "updated_by": MAYBE_TEXT,
        "used_by": TEXTS,
    }
)
_DELETED = an_object({"deleted": an_object({"scope": TEXT, "name": TEXT})})
