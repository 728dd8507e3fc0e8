"""``GET /v1/stats``: how many mails were accepted, refused, deferred; by whom, with which codes, how fast.

The asker's own scope is laid over the question as it is over a search. To a tenant, SMTP records of a
wider scope are one number (``foreign``): neither their hosts nor their names are its to know.

A count reads every record of its range: four of one scope run at once, eight in a process, two a second begin in
the long run, and one whose client has gone ends.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

import orjson
from fastapi import APIRouter, Depends, Request, Response

from schemas.audit_query import AuditQueryError
from schemas.audit_stats import (
    FILTERS,
    By,
    Counted,
    Latency,
    Percentiles,
    StatsQuery,
    parse_stats_query,
    stats_document,
)
from worker.api.audit_log import FILTERS as SEARCHED
from worker.api.auth import Asker, Gate
from worker.api.described import problems
from worker.api.leaving import while_awaited
from worker.api.problem import Problem
from worker.api.turns import Turns
from worker.control.audit_scope import scoped
from worker.control.principals import Principal
from worker.control.throttle import PER_DASHBOARD, Throttle

PARAMETERS = {
    "by": f"What to group by: {', '.join(By)}; outcome unless given",
    "interval": "Length of a time bucket in minutes, hours or days, such as 5m, 1h or 1d; no buckets unless given",
    "limit": "Groups to name, the largest first, 1 to 100; 20 unless given. The others are counted together",
    "percentiles": f"Timings to give percentiles of: some of {','.join(Latency)} (all, unless given), or none",
    **{name: text for name, text in SEARCHED.items() if name in FILTERS},
    "timefrom": f"{SEARCHED['timefrom']}; now-7d unless given",
    "timeto": f"{SEARCHED['timeto']}; now unless given",
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    **problems(400, 401, 403, 429, 503),
    200: {"description": "Counts of records of type email.delivery: total, outcomes, groups, buckets, percentiles"},
}
_ANSWERS[400]["description"] = "A parameter is unknown, repeated or wrong, or asks for too many buckets: it is named"


_AT_ONCE, _OF_ONE = 8, 4


class AuditStats(Protocol):
    """Counts in the audit."""

    async def count(self, query: StatsQuery) -> Counted:
        """Count what the question is about; raises AuditUnavailable."""
        ...


def stats_router(stats: AuditStats, gate: Gate, *, turns: Turns | None = None) -> APIRouter:
    """Build the endpoint over `stats`; any principal may ask, and counts what its scope reaches.

    `turns`: how many counts run at once, and how often they begin.
    """
    router = APIRouter(tags=["audit"])
    bound = turns or Turns(Throttle(PER_DASHBOARD), at_once=_AT_ONCE, of_one=_OF_ONE)

    @router.get(
        "/v1/stats",
        summary="Count deliveries by outcome, tenant, provider, reply code and time, with latency percentiles",
        openapi_extra={"parameters": _described()},
        responses=_ANSWERS,
    )
    async def count(request: Request, asker: Annotated[Asker, Depends(gate.reader)]) -> Response:
        try:
            asked = parse_stats_query(request.query_params.multi_items(), datetime.now(UTC))
        except AuditQueryError as error:
            raise Problem(400, "Invalid parameter", str(error), [(error.path, error.message)]) from None
        query = _narrowed(asked, asker.principal)
        if query is None:
            counted = _nothing(asked)
        else:
            with bound.taken(str(asker.scope)):
                counted = await while_awaited(request, stats.count(query))
        return Response(orjson.dumps(stats_document(query or asked, counted)), media_type="application/json")

    return router


def _narrowed(asked: StatsQuery, principal: Principal) -> StatsQuery | None:
    records = scoped(asked.records, principal)
    if records is None:
        return None
    return replace(asked, records=records, within=None if principal.scope.partner is None else principal.scope)


def _nothing(asked: StatsQuery) -> Counted:
    return Counted(latencies={each: Percentiles(0, {}) for each in asked.latencies})


def _described() -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in PARAMETERS.items()
    ]
