"""``/v1/smtp-configs``: the named SMTP records of the asker's scope, their order, and their history.

One of them is the default, which sends; those that stand behind it in the order send while it rests.
"""

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from schemas.smtp_checks import check_display_name
from schemas.smtp_config import SmtpConfig
from schemas.text import RequiredText
from worker.api.auth import Asker, Gate
from worker.api.bodies import Body, read_body, read_json
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems, takes
from worker.api.email_config import delete_record
from worker.api.preconditions import PARAMETERS, expected_version, tag
from worker.api.problem import invalid, not_found
from worker.api.smtp_access import (
    named_in_path,
    owned_by_environment,
    refuse_if_from_environment,
    smtp_admissions,
)
from worker.api.smtp_described import EXAMPLE, body, spelled_fields
from worker.api.smtp_drafts import DEFAULT, draft_of, read_spelled, refusals_at
from worker.api.smtp_shown import (
    ANYTHING,
    DELETED,
    RECORD,
    VERSION,
    a_list,
    answers,
    flat,
    flat_from_environment,
    past,
)
from worker.control.errors import NotFound
from worker.control.ports import Records
from worker.control.records import StoredRecord
from worker.control.trials import Broadcast, Explainer

_PATH = "/v1/smtp-configs"
_LATEST = 2**31 - 1


class RollBack(Body):
    """Which version the record is to be again."""

    version: Annotated[int, Field(ge=1, le=_LATEST)]


class Order(Body):
    """The default's name, then those of its fallbacks in their order."""

    names: Annotated[tuple[RequiredText, ...], Field(min_length=1, max_length=100)]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the endpoints work with."""

    gate: Gate
    records: Records
    environment: SmtpConfig | None
    broadcast: Broadcast
    explainer: Explainer


def smtp_configs_router(
    gate: Gate, records: Records, environment: SmtpConfig | None, broadcast: Broadcast, explainer: Explainer
) -> APIRouter:
    """Build the endpoints; `environment`: the controller's record where the process's environment sets it."""
    router = APIRouter(prefix=_PATH, tags=["smtp"])
    admitted = smtp_admissions(gate, records)
    reader, admin = (Annotated[Asker, Depends(each)] for each in (admitted.reader, admitted.admin))
    parts = _Parts(gate, records, environment, broadcast, explainer)
    _add_list(router, parts, reader)
    _add_create(router, parts, admin)
    _add_effective(router, parts, reader)
    _add_order(router, parts, admin)  # before those whose path is a name
    _add_get(router, parts, reader)
    _add_put(router, parts, admin)
    _add_delete(router, parts, admin)
    _add_history(router, parts, reader)
    _add_roll_back(router, parts, admin)
    return router


def _add_list(router: APIRouter, parts: _Parts, reader: Any) -> None:
    @router.get(
        "",
        summary="The SMTP records of the asker's scope: the default, its fallbacks, the others",
        responses={**answers(200, "All of them", a_list("smtp_configs", RECORD)), **problems(404, *WITH_PRINCIPAL)},
    )
    async def records(asker: reader) -> JSONResponse:
        shown = [flat(each) for each in await parts.records.records(asker.scope)]
        if owned_by_environment(asker.scope, parts.environment) and parts.environment is not None:
            shown.insert(0, flat_from_environment(parts.environment))
        return JSONResponse({"smtp_configs": shown})


def _add_create(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.post(
        "",
        status_code=201,
        summary="Store another SMTP record of the asker's scope",
        responses={
            **answers(201, "The record as it is stored", RECORD, tagged=True),
            **problems(404, 409, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra=body(spelled_fields(), {"display_name": "second", **EXAMPLE}),
    )
    async def create(request: Request, asker: admin) -> JSONResponse:
        refuse_if_from_environment(asker.scope, parts.environment)
        spelled = await read_spelled(await read_json(request), asker.scope)
        draft = draft_of(spelled, asker.scope, spelled.name or DEFAULT)
        with refusals_at(spelled):
            saved = await parts.records.save(draft, asker.actor, create=True)
        parts.broadcast.nudge()
        return _made(saved, spelled.notices)


def _add_effective(router: APIRouter, parts: _Parts, reader: Any) -> None:
    @router.get(
        "/effective",
        summary="Which record sends a scope's mail, and why no other one does",
        responses={**answers(200, "The explanation", ANYTHING), **problems(404, 422, *WITH_PRINCIPAL)},
    )
    async def effective(
        asker: reader,
        partner: str | None = None,
        org: str | None = None,
    ) -> JSONResponse:
        scope = await parts.gate.reached(asker, partner, org)
        return JSONResponse(dict(await parts.explainer.explain(scope, asker.scope)))


def _add_order(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.put(
        "/order",
        summary="Say which record is the default, and which ones send in its place while it rests",
        responses={
            **answers(200, "All of them in their new order", a_list("smtp_configs", RECORD)),
            **problems(404, 409, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra=takes(Order),
    )
    async def order(request: Request, asker: admin) -> JSONResponse:
        refuse_if_from_environment(asker.scope, parts.environment)
        names = (await read_body(request, Order)).names
        try:
            ordered = await parts.records.order(asker.scope, names, asker.actor)
        except NotFound as error:  # a name in the body: the path of the request is there
            raise invalid(error.path, error.message) from None
        parts.broadcast.nudge()
        return JSONResponse({"smtp_configs": [flat(each) for each in ordered]})


def _add_get(router: APIRouter, parts: _Parts, reader: Any) -> None:
    @router.get(
        "/{name}",
        summary="One SMTP record of the asker's scope",
        responses={**answers(200, "The record", RECORD, tagged=True), **problems(404, *WITH_PRINCIPAL)},
    )
    async def show(name: str, asker: reader) -> JSONResponse:
        found = await parts.records.record(asker.scope, named_in_path(name))
        if found is not None:
            return JSONResponse(flat(found), headers=tag(found.version))
        if owned_by_environment(asker.scope, parts.environment) and parts.environment is not None:
            shown = flat_from_environment(parts.environment)
            if shown["display_name"] == name:
                return JSONResponse(shown, headers=tag(shown["version"]))
        raise not_found()


def _add_put(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.put(
        "/{name}",
        summary="Store the whole record of that name, be there one or not",
        responses={
            **answers(200, "The record as it is stored", RECORD, tagged=True),
            **answers(201, "There was none of that name", RECORD, tagged=True),
            **problems(404, 409, 412, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra=body(spelled_fields(), EXAMPLE, parameters=PARAMETERS),
    )
    async def put(request: Request, name: str, asker: admin) -> JSONResponse:
        refuse_if_from_environment(asker.scope, parts.environment)
        found = await parts.records.record(asker.scope, named_in_path(name))
        spelled = await read_spelled(await read_json(request), asker.scope)
        if spelled.name not in {None, name}:
            raise invalid(spelled.path("display_name"), "is another name than the path's: a record keeps its name")
        if found is None:
            _check_new(name)
        expected = expected_version(request, found.version if found else 0)
        with refusals_at(spelled):
            draft = draft_of(spelled, asker.scope, name)
            saved = await parts.records.save(draft, asker.actor, expected=expected)
        parts.broadcast.nudge()
        if found is None:
            return _made(saved, spelled.notices)
        return JSONResponse(flat(saved, spelled.notices), headers=tag(saved.version))


def _add_delete(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.delete(
        "/{name}",
        summary="Delete a record, and say whose applies now",
        responses={**answers(200, "It is deleted", DELETED), **problems(404, 409, 412, *WITH_PRINCIPAL)},
        openapi_extra={"parameters": PARAMETERS},
    )
    async def delete(request: Request, name: str, asker: admin) -> JSONResponse:
        refuse_if_from_environment(asker.scope, parts.environment)
        found = await parts.records.record(asker.scope, named_in_path(name))
        if found is None:
            raise not_found()
        return await delete_record(request, asker, found, parts.records, parts.environment, parts.broadcast)


def _add_history(router: APIRouter, parts: _Parts, reader: Any) -> None:
    @router.get(
        "/{name}/history",
        summary="Every version of a record, newest first, also of one that was deleted",
        responses={**answers(200, "Its versions", a_list("versions", VERSION)), **problems(404, *WITH_PRINCIPAL)},
    )
    async def history(name: str, asker: reader) -> JSONResponse:
        found = await parts.records.history(asker.scope, named_in_path(name))
        if not found:
            raise not_found()
        return JSONResponse({"versions": [past(entry) for entry in found]})


def _add_roll_back(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.post(
        "/{name}/rollback",
        summary="Store what a version was as the next one",
        responses={
            **answers(200, "The record as it is stored", RECORD, tagged=True),
            **problems(404, 409, 412, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra={**takes(RollBack), "parameters": PARAMETERS},
    )
    async def roll_back(request: Request, name: str, asker: admin) -> JSONResponse:
        refuse_if_from_environment(asker.scope, parts.environment)
        if not await parts.records.history(asker.scope, named_in_path(name)):
            raise not_found()
        version = (await read_body(request, RollBack)).version
        found = await parts.records.record(asker.scope, name)
        expected = expected_version(request, found.version if found else 0)
        try:
            saved = await parts.records.roll_back(asker.scope, name, version, asker.actor, expected=expected)
        except NotFound as error:
            raise invalid(error.path, error.message) from None
        parts.broadcast.nudge()
        return JSONResponse(flat(saved), headers=tag(saved.version))


def _check_new(name: str) -> None:
    try:
        check_display_name(name)
    except ValueError as error:
        raise invalid("display_name", str(error)) from None


def _made(record: StoredRecord, notices: tuple[str, ...]) -> JSONResponse:
    place = {"Location": f"{_PATH}/{quote(record.name, safe='')}"}
    return JSONResponse(flat(record, notices), status_code=201, headers={**tag(record.version), **place})
