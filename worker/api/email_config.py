"""``/event/v1/email/config``: the asker's own SMTP record, as the documented systems spell it.

The principal's scope decides which record is meant: that scope's default one. It is stored under the
name ``default`` where there is none yet. A change tells the workers, and its answer what applies then.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from worker.api.auth import Asker, Gate
from worker.api.bodies import read_json
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems
from worker.api.preconditions import PARAMETERS, expected_version, tag
from worker.api.problem import Problem, invalid
from worker.api.smtp_access import owned_by_environment, refuse_if_from_environment, smtp_admissions
from worker.api.smtp_described import WRAPPED_EXAMPLE, body, wrapped
from worker.api.smtp_drafts import DEFAULT, draft_of, read_spelled, refusals_at
from worker.api.smtp_shown import DELETED, DOCUMENTED, answers, documented, flat, flat_from_environment
from worker.control.ports import Records
from worker.control.records import StoredRecord
from worker.control.trials import Broadcast

_PATH = "/event/v1/email/config"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the endpoints work with."""

    records: Records
    environment: SmtpConfig | None
    broadcast: Broadcast


def email_config_router(
    gate: Gate, records: Records, environment: SmtpConfig | None, broadcast: Broadcast
) -> APIRouter:
    """Build the endpoints; `environment`: the controller's record where the process's environment sets it."""
    router = APIRouter(tags=["smtp"])
    admitted = smtp_admissions(gate, records)
    parts = _Parts(records, environment, broadcast)
    _add_get(router, parts, Annotated[Asker, Depends(admitted.reader)])
    _add_post(router, parts, Annotated[Asker, Depends(admitted.admin)])
    _add_delete(router, parts, Annotated[Asker, Depends(admitted.admin)])
    return router


def _add_get(router: APIRouter, parts: _Parts, reader: Any) -> None:
    @router.get(
        _PATH,
        summary="The SMTP record of the asker's scope: everything but its password",
        responses={
            **answers(200, "The record", DOCUMENTED, tagged=True),
            **problems(404, *WITH_PRINCIPAL),
        },
    )
    async def show(asker: reader) -> JSONResponse:
        if owned_by_environment(asker.scope, parts.environment) and parts.environment is not None:
            shown = flat_from_environment(parts.environment)
            return JSONResponse(documented(shown), headers=tag(shown["version"]))
        found = await default_of(parts.records, asker.scope)
        if found is None:
            raise await _nothing(parts, asker.scope)
        return _answer(found)


def _add_post(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.post(
        _PATH,
        summary="Store the SMTP record of the asker's scope; without a password the stored one is kept",
        responses={
            **answers(200, "The record as it is stored", DOCUMENTED, tagged=True),
            **problems(404, 409, 412, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra=body(wrapped(), WRAPPED_EXAMPLE, parameters=PARAMETERS),
    )
    async def store(request: Request, asker: admin) -> JSONResponse:
        refuse_if_from_environment(asker.scope, parts.environment)
        spelled = await read_spelled(await read_json(request), asker.scope)
        found = await default_of(parts.records, asker.scope)
        name = found.name if found else DEFAULT
        if spelled.name not in {None, name}:
            message = f"the scope's record is named {name!r}: others are stored by /v1/smtp-configs"
            raise invalid(spelled.path("display_name"), message)
        expected = expected_version(request, found.version if found else 0)
        with refusals_at(spelled):
            draft = draft_of(spelled, asker.scope, name)
            saved = await parts.records.save(draft, asker.actor, expected=expected)
        parts.broadcast.nudge()
        return _answer(saved, spelled.notices)


def _add_delete(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.delete(
        _PATH,
        summary="Delete the SMTP record of the asker's scope, and say whose applies now",
        responses={
            **answers(200, "It is deleted", DELETED),
            **problems(404, 409, 412, *WITH_PRINCIPAL),
        },
        openapi_extra={"parameters": PARAMETERS},
    )
    async def delete(request: Request, asker: admin) -> JSONResponse:
        refuse_if_from_environment(asker.scope, parts.environment)
        found = await default_of(parts.records, asker.scope)
        if found is None:
            raise await _nothing(parts, asker.scope)
        return await delete_record(request, asker, found, parts.records, parts.environment, parts.broadcast)


async def delete_record(
    request: Request,
    asker: Asker,
    found: StoredRecord,
    records: Records,
    environment: SmtpConfig | None,
    broadcast: Broadcast,
) -> JSONResponse:
    """Delete `found` if the request's preconditions hold, and answer whose record applies then."""
    expected = expected_version(request, found.version)
    if not await records.remove(asker.scope, found.name, asker.actor, expected=expected):
        raise await _nothing(_Parts(records, environment, broadcast), asker.scope)
    broadcast.nudge()
    applies = await applying(records, asker.scope, environment)
    return JSONResponse(
        {
            "deleted": {"scope": str(asker.scope), "display_name": found.name},
            "now_applies": {"scope": applies and applies.level.value},
        }
    )


async def default_of(records: Records, scope: Scope) -> StoredRecord | None:
    """The scope's default record."""
    return next((record for record in await records.records(scope) if record.is_default), None)


async def applying(records: Records, scope: Scope, environment: SmtpConfig | None) -> Scope | None:
    """Whose record sends the scope's mail, be its password readable or not; None where nobody's does.

    An org's own counts: whoever asks has the feature.
    """
    for owner in scope.lineage():
        if owner == CONTROLLER and environment is not None:
            return owner
        if await default_of(records, owner) is not None:
            return owner
    return None


async def _nothing(parts: _Parts, scope: Scope) -> Problem:
    # Whether there is a wider one is the asker's to know, for its mail goes by it; what it says is not.
    applies = await applying(parts.records, scope, parts.environment)
    rest = "a wider scope's record applies" if applies else "none applies"
    return Problem(404, "Not found", f"this scope has no SMTP record of its own: {rest}")


def _answer(record: StoredRecord, notices: tuple[str, ...] = ()) -> JSONResponse:
    return JSONResponse(documented(flat(record, notices)), headers=tag(record.version))
