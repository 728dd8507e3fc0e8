"""``GET /opsauditlogs/``: the same audit, in the spelling of those who operate: parameters without ``filter.``.

``/opsauditlogs/?timefrom=now-7d&category=SYSTEMAUDIT``, with or without the slash before the question mark.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from worker.api.audit_log import ANSWERS, AuditDesk, parameters
from worker.api.auth import Asker, Gate

_NO_PREFIX = ""


def ops_audit_router(desk: AuditDesk, gate: Gate) -> APIRouter:
    """Build both endpoints over `desk`; any principal may ask, and sees what its scope reaches."""
    router = APIRouter(tags=["audit"])

    # Two paths instead of a redirect: a client that follows none would read an empty answer.
    @router.get("/opsauditlogs", include_in_schema=False)
    @router.get(
        "/opsauditlogs/",
        summary="Search the audit by filters without a prefix",
        openapi_extra={"parameters": parameters(_NO_PREFIX)},
        responses=ANSWERS,
    )
    async def opsauditlogs(request: Request, asker: Annotated[Asker, Depends(gate.reader)]) -> Response:
        return await desk.answer(request, asker.principal, _NO_PREFIX)

    return router
