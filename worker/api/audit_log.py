"""``GET /event/v1/auditlog``: was it sent, and who changed what? In the documented spelling of ``filter.*`` parameters.

The asker's own scope is laid over every question (`worker.control.audit_scope`): whatever a filter
says, only records within it are found.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from schemas.audit_query import PREFIX, AuditPage, AuditQueryError, parse_audit_query
from worker.api.auth import Asker, Gate
from worker.api.described import problems
from worker.api.ports import AuditSearch
from worker.api.problem import Problem
from worker.control.audit_scope import scoped, shown_to
from worker.control.principals import Principal

FILTERS = {
    "timefrom": "Earliest time: now, now-1h, now-7d/d, ISO 8601 with a zone, or epoch seconds or milliseconds",
    "timeto": "Latest time, included; a rounded one (now/d) means its unit's end",
    "offset": "Records to pass over; with the limit 10,000 at most",
    "limit": "Records of one page, 1 to 1,000; 10 unless given",
    "category": "SYSTEMAUDIT",
    "type": "Record type, such as email.delivery or smtp_config.changed",
    "outcome": "accepted, refused, deferred, …",
    "partner": "Partner's name",
    "org": "Organization's name",
    "recipient": "Mail address, in any case",
    "eventid": "The event's CloudEvents id",
    "source": "The event's CloudEvents source",
    "config": "Name of the SMTP record that was used",
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    **problems(400, 401, 403, 503),
    200: {"description": "One page: total, offset, limit, took_ms, records"},
}
ANSWERS[400]["description"] = "A filter is unknown, repeated or wrong: it is named"


def audit_router(search: AuditSearch, gate: Gate) -> APIRouter:
    """Build the endpoint over `search`; any principal may ask."""
    router = APIRouter(tags=["audit"])

    @router.get(
        "/event/v1/auditlog",
        summary="Search the audit, newest first",
        openapi_extra={"parameters": parameters(PREFIX)},
        responses=ANSWERS,
    )
    async def auditlog(request: Request, asker: Annotated[Asker, Depends(gate.reader)]) -> Response:
        return await answer(search, request, asker.principal, PREFIX)

    return router


def parameters(prefix: str) -> list[dict[str, Any]]:
    """The filters as OpenAPI describes parameters."""
    return [
        {"name": f"{prefix}{name}", "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in FILTERS.items()
    ]


async def answer(search: AuditSearch, request: Request, principal: Principal, prefix: str) -> Response:
    """Answer one request; raises Problem 400 for a filter, AuditUnavailable where nothing is known."""
    try:
        # Read from the pairs themselves: an unknown or repeated filter must be an error, not a wider answer.
        asked = parse_audit_query(request.query_params.multi_items(), datetime.now(UTC), prefix=prefix)
    except AuditQueryError as error:
        raise Problem(400, "Invalid filter", str(error), [(error.path, error.message)]) from None
    query = scoped(asked, principal)
    page = await search.search(query) if query else AuditPage(0, [], asked.offset, asked.limit, 0)
    return Response(orjson.dumps(_shown(page, principal)), media_type="application/json")


def _shown(page: AuditPage, principal: Principal) -> dict[str, Any]:
    return {
        "total": page.total,
        "offset": page.offset,
        "limit": page.limit,
        "took_ms": page.took_ms,
        "records": [shown_to(record, principal) for record in page.records],
    }
