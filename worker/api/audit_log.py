"""``GET /event/v1/auditlog``: was it sent? In the documented spelling of ``filter.*`` parameters."""

from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from schemas.audit_query import AuditPage, AuditQueryError, parse_audit_query
from worker.api.ports import AuditSearch
from worker.api.problem import problem
from worker.errors import AuditUnavailable

_RETRY_AFTER_S = 5

_FILTERS = {
    "timefrom": "Earliest time: now, now-1h, now-7d/d, ISO 8601 with a zone, or epoch seconds or milliseconds",
    "timeto": "Latest time, included; a rounded one (now/d) means its unit's end",
    "offset": "Records to pass over; with the limit 10,000 at most",
    "limit": "Records of one page, 1 to 1,000; 10 unless given",
    "category": "SYSTEMAUDIT",
    "type": "Record type, such as email.delivery",
    "outcome": "accepted, refused, deferred, …",
    "partner": "Partner's name",
    "org": "Organization's name",
    "recipient": "Mail address, in any case",
    "eventid": "The event's CloudEvents id",
    "source": "The event's CloudEvents source",
}
_PARAMETERS = [
    {"name": f"filter.{name}", "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
    for name, text in _FILTERS.items()
]


def audit_router(search: AuditSearch) -> APIRouter:
    """Build the endpoint over `search`."""
    router = APIRouter(tags=["audit"])

    @router.get(
        "/event/v1/auditlog",
        summary="Search the audit, newest first",
        openapi_extra={"parameters": _PARAMETERS},
        responses={
            200: {"description": "One page: total, offset, limit, took_ms, records"},
            400: {"description": "A filter is unknown, repeated or wrong: it is named"},
            503: {"description": "The audit is away; nothing is known about the question"},
        },
    )
    async def auditlog(request: Request) -> Response:
        try:
            # Read from the pairs themselves: an unknown or repeated filter must be an error, not a wider answer.
            query = parse_audit_query(request.query_params.multi_items(), datetime.now(UTC))
        except AuditQueryError as error:
            return problem(400, "Invalid filter", str(error), [(error.path, error.message)])
        try:
            page = await search.search(query)
        except AuditUnavailable as error:
            headers = {"Retry-After": str(_RETRY_AFTER_S)}
            return problem(503, "Audit unavailable", str(error), headers=headers)
        return Response(orjson.dumps(_shown(page)), media_type="application/json")

    return router


def _shown(page: AuditPage) -> dict[str, Any]:
    return {
        "total": page.total,
        "offset": page.offset,
        "limit": page.limit,
        "took_ms": page.took_ms,
        "records": page.records,
    }
