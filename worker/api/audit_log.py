"""``GET /event/v1/auditlog``: was it sent, and who changed what? In the documented spelling of ``filter.*`` parameters.

The asker's own scope is laid over every question (`worker.control.audit_scope`): whatever a filter
says, only records within it are found. Eight searches of one scope run at once, sixteen in a process; one whose
client has gone ends. Words are looked for in a range of time (`worker.control.audit_bounds`).
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from schemas.audit_filters import Format
from schemas.audit_query import PREFIX, AuditPage, AuditQuery, AuditQueryError, AuditRequest, parse_audit_request
from worker.api.audit_cursors import Cursors, expired
from worker.api.audit_export import Exports
from worker.api.auth import Asker, Gate
from worker.api.described import problems
from worker.api.leaving import while_awaited
from worker.api.ports import AuditSearch
from worker.api.problem import Problem
from worker.api.turns import Places, draw
from worker.control.audit_bounds import MAX_TEXT_RANGE, bounded, too_long
from worker.control.audit_rows import MEDIA_TYPES
from worker.control.audit_scope import scoped, shown_to
from worker.control.principals import Principal
from worker.control.throttle import PER_CLIENT, Throttle
from worker.errors import CursorExpired

# As many as an operator's dashboard asks for at once; OpenSearch works through about as many on a small node.
_OF_ONE = 8
_AT_ONCE = 16
_AGAIN_S = 1.0

FILTERS = {
    "timefrom": "Earliest time: now, now-1h, now-7d/d, ISO 8601 with a zone, or epoch seconds or milliseconds; with "
    "text 31 days before the latest unless given",
    "timeto": "Latest time, included; a rounded one (now/d) means its unit's end",
    "offset": "Records to pass over; with the limit 10,000 at most",
    "limit": "Records of one page, 1 to 1,000; 10 unless given",
    "category": "SYSTEMAUDIT",
    "type": "Record type, such as email.delivery or smtp_config.changed",
    "outcome": "accepted, refused, deferred, …; several with commas between them",
    "partner": "Partner's name",
    "org": "Organization's name",
    "recipient": "Mail address, in any case",
    "domain": "Mail domain of the recipient, in any case, without its subdomains",
    "eventid": "The event's CloudEvents id",
    "source": "The event's CloudEvents source",
    "config": "Name of the SMTP record that was used",
    "code": "SMTP reply code, such as 550, or a class of them: 5xx, 55x",
    "enhanced": "Enhanced status code, such as 5.1.1, or how it begins: 5.1",
    "duplicate": "true or false: whether the mail may be a second one",
    "text": "Words that all stand in the server's reply or in the reason; no wildcards, no operators",
    "sort": "-time (newest first, unless given) or time; with or without the prefix",
    "cursor": "Go on: `next` of the answer before, with the same filters; with or without the prefix",
    "format": "json, or csv or ndjson: a stream of all matches; with or without the prefix",
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    **problems(400, 401, 403, 410, 429, 503),
    200: {
        "description": (
            "One page: total, offset, limit, took_ms, records, where there are more next, and where words were looked "
            "for in less than all times timefrom"
        ),
        "content": {"application/json": {}, **{kind.partition(";")[0]: {} for kind in MEDIA_TYPES.values()}},
    },
}
ANSWERS[400]["description"] = "A filter is unknown, repeated or wrong: it is named"


class AuditDesk:
    """Answers the requests of both spellings over one audit."""

    def __init__(
        self,
        search: AuditSearch,
        *,
        cursors: Cursors | None = None,
        exports: Exports | None = None,
        places: Places | None = None,
    ) -> None:
        """Take the audit; without `cursors` of a shared key, no other process knows those given here.

        `places`: how many searches run at once.
        """
        self._search = search
        self._cursors = cursors or Cursors()
        self._exports = exports or Exports(search)
        self._openings = Throttle(PER_CLIENT)
        self._places = places or Places(at_once=_AT_ONCE, of_one=_OF_ONE, again_s=_AGAIN_S)

    async def answer(self, request: Request, principal: Principal, prefix: str) -> Response:
        """Answer one request; raises Problem for what is asked, AuditUnavailable where nothing is known."""
        try:
            asked = _read(request, prefix)
        except AuditQueryError as error:
            raise Problem(400, "Invalid filter", str(error), [(error.path, error.message)]) from None
        if asked.format is not Format.JSON:
            stream = self._exports.begin(scoped(asked.query, principal), asked.format, principal)
            return await while_awaited(request, stream)
        if asked.cursor is not None:
            asked = replace(asked, query=self._cursors.opened(asked, principal))
        with self._places.taken(str(principal.scope)):
            page = await while_awaited(request, self._page(asked.query, principal))
        shown = _shown(page, principal) | _bound_of(asked)
        if page.next is not None:
            shown["next"] = self._cursors.seal(page.next, asked, principal)
        return Response(orjson.dumps(shown), media_type="application/json")

    async def _page(self, wanted: AuditQuery, principal: Principal) -> AuditPage:
        if wanted.after is not None and wanted.after.snapshot is None:
            draw(self._openings, str(principal.scope))  # the store keeps something for each cursor that is begun
        query = scoped(wanted, principal)
        if query is None:
            return AuditPage(0, [], wanted.offset, wanted.limit, 0)
        try:
            return await self._search.search(query)
        except CursorExpired:
            raise expired() from None


def audit_router(desk: AuditDesk, gate: Gate) -> APIRouter:
    """Build the endpoint over `desk`; any principal may ask."""
    router = APIRouter(tags=["audit"])

    @router.get(
        "/event/v1/auditlog",
        summary="Search the audit",
        openapi_extra={"parameters": parameters(PREFIX)},
        responses=ANSWERS,
    )
    async def auditlog(request: Request, asker: Annotated[Asker, Depends(gate.reader)]) -> Response:
        return await desk.answer(request, asker.principal, PREFIX)

    return router


def parameters(prefix: str) -> list[dict[str, Any]]:
    """The filters as OpenAPI describes parameters."""
    return [
        {"name": f"{prefix}{name}", "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in FILTERS.items()
    ]


def _read(request: Request, prefix: str) -> AuditRequest:
    now = datetime.now(UTC)
    # Read from the pairs themselves: an unknown or repeated filter must be an error, not a wider answer.
    asked = parse_audit_request(request.query_params.multi_items(), now, prefix=prefix)
    query = bounded(asked.query, now)
    if query.time_from != asked.query.time_from and asked.format is not Format.JSON:
        # A file could not say that it holds the last weeks alone.
        raise AuditQueryError(f"{prefix}timefrom", "has to be given where words are looked for in a stream")
    if too_long(query, now):
        raise AuditQueryError(f"{prefix}timefrom", f"words are looked for in {MAX_TEXT_RANGE.days} days at most")
    return replace(asked, query=query)


def _bound_of(asked: AuditRequest) -> dict[str, Any]:
    """Where the asker did not say from when, and the answer is not about all times."""
    since = asked.query.time_from
    if since is None or "timefrom" in asked.question:
        return {}
    return {"timefrom": since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}


def _shown(page: AuditPage, principal: Principal) -> dict[str, Any]:
    return {
        "total": page.total,
        "offset": page.offset,
        "limit": page.limit,
        "took_ms": page.took_ms,
        "records": [shown_to(record, principal) for record in page.records],
    }
