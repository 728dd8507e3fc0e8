"""Going on where a page ended: OpenSearch's points in time and ``search_after``.

The first page is an ordinary search and costs nothing more than one. Who goes on gets a point in time: from
there on nothing that arrives moves a record to another page. The position that it goes on from is what the last record
was sorted by; records that are equal in all of that (a mail that two workers had accepted in one millisecond)
are told apart by Lucene's number of the document, which a point in time keeps, and at the first step by their ids.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from schemas.audit_query import Continuation
from worker.audit.link import Call, OpenSearchLink, RequestRefused
from worker.audit.search_body import TIMEOUT_S
from worker.errors import CursorExpired

KEEP_ALIVE = "5m"
"""So long a point in time waits for the next page; OpenSearch keeps 300 of them at once unless told otherwise."""

_NOT_FOUND = 404
# What is said of a point in time over a month whose place its copy has taken since (see `migration`).
_MIGRATED = "matches an alias"
_POINT = "/_search/point_in_time"
_FIRST_DOC = -1  # below every number of a document
_EXPIRED = "the cursor has expired: begin again with the first page"


async def opened(link: OpenSearchLink, indices: str, after: Continuation) -> Continuation:
    """Fix the state of the index for what follows, unless that was done. Raises AuditUnavailable."""
    if after.snapshot is not None:
        return after
    params = {"keep_alive": KEEP_ALIVE, "allow_partial_pit_creation": "false"}
    answer = await link.request(Call("POST", f"/{indices}{_POINT}", params=params, timeout_s=TIMEOUT_S))
    # A place within a millisecond goes on among those that are equal to it, too.
    among = (_FIRST_DOC,) if len(after.position) > 1 else ()
    return replace(after, snapshot=str(answer["pit_id"]), position=(*after.position, *among))


async def closed(link: OpenSearchLink, after: Continuation) -> None:
    """Let go of the point in time, if there is one; one that is gone already is as good. Raises AuditUnavailable."""
    if after.snapshot is None:
        return
    try:
        await link.request(Call("DELETE", _POINT, orjson.dumps({"pit_id": [after.snapshot]}), timeout_s=TIMEOUT_S))
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise


async def ask_further(
    link: OpenSearchLink, here: Continuation, params: Mapping[str, str], body: Mapping[str, Any]
) -> Any:
    """Ask within the point in time. Raises CursorExpired where it is gone, or AuditUnavailable."""
    within = orjson.dumps({**body, "pit": {"id": here.snapshot, "keep_alive": KEEP_ALIVE}})
    try:
        return await link.request(Call("POST", "/_search", within, params, timeout_s=TIMEOUT_S + 2))
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND and _MIGRATED not in str(refusal):
            raise
        raise CursorExpired(_EXPIRED) from refusal
