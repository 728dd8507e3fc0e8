"""``GET /v1/events/{source}/{id}``: the whole story of one event, as far as its records tell it.

A source may hold slashes: ``/billing`` is ``%2Fbilling`` in the path. Some proxies decode that on the way,
so of a path with more parts than two the last one is the id and all before it the source. An id that
holds slashes itself, too, and either of them ``.`` or ``..``, which clients take for folders, is asked
for without any doubt by ``GET /v1/events/story?source=…&id=…``.
"""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Path, Request

from schemas.audit_story import Story
from schemas.smtp_config import Scope
from schemas.text import one_line
from worker.api.auth import Asker, Gate
from worker.api.described import problems
from worker.api.ports import AuditSearch
from worker.api.problem import Problem, not_found
from worker.control.stories import Wanted, read_stories

_MAX_CHARS = 512  # twice what an event may carry
_MAX_NAMED = 20
_PREFIX = "/v1/events/"
_IDENTITY = ("source", "id")
_SCOPE = {
    "scope": "Whose event, where several scopes have one of that name: controller, partner:NAME or org:PARTNER/NAME"
}
_QUERY = {"source": "The event's CloudEvents source", "id": "The event's CloudEvents id", **_SCOPE}

_ANSWERS: dict[int | str, dict[str, Any]] = problems(400, 401, 404, 409, 503)
_ANSWERS[400]["description"] = "A parameter is unknown, missing, repeated or wrong: it is named"
_ANSWERS[409]["description"] = "Several scopes have an event of this source and id: the answer names them for ?scope="


def stories_router(search: AuditSearch, gate: Gate) -> APIRouter:
    """Build both endpoints over `search`; any principal may ask, and is told of events that its scope reaches."""
    router = APIRouter(tags=["audit"])

    @router.get(
        "/v1/events/story",
        summary="The story of one event, named by parameters",
        openapi_extra={"parameters": _described(_QUERY)},
        responses=_ANSWERS,
    )
    async def story(request: Request, asker: Annotated[Asker, Depends(gate.reader)]) -> Story:
        given = _parameters(request, tuple(_QUERY))
        for name in _IDENTITY:
            if not given.get(name):
                raise _wrong(name, "is missing")
        return await _one(search, given["source"], given["id"], given, asker)

    # Both are of any characters here, so that nothing which a source or an id may hold leads elsewhere.
    @router.get(
        "/v1/events/{source:path}/{id:path}",
        summary="The story of one event: each recipient's attempts, and where it is now",
        openapi_extra={"parameters": _described(_SCOPE)},
        responses=_ANSWERS,
    )
    async def story_by_path(
        request: Request,
        asker: Annotated[Asker, Depends(gate.reader)],
        source: Annotated[str, Path(description="The event's CloudEvents source, percent-encoded")],
        event_id: Annotated[str, Path(alias="id", description="The event's CloudEvents id, percent-encoded")],
    ) -> Story:
        given = _parameters(request, tuple(_SCOPE))
        source, event_id = _as_sent(request) or (source, event_id)
        return await _one(search, source, event_id, given, asker)

    return router


def _as_sent(request: Request) -> tuple[str, str] | None:
    """Source and id by the slashes that the client sent as such; None where the server kept no raw path."""
    raw = request.scope.get("raw_path")
    if not isinstance(raw, bytes):
        return None
    _, prefix, rest = raw.decode("ascii", "replace").partition(_PREFIX)
    source, slash, event_id = rest.rpartition("/")
    return (unquote(source), unquote(event_id)) if prefix and slash else None


def _parameters(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if not name and not value:  # as in the audit's documented spelling, ``?&``
            continue
        if name not in known:
            raise _wrong(name[:100], f"is not a known parameter; known: {', '.join(known)}")
        if name in given:
            raise _wrong(name, "is given more than once")
        given[name] = value
    return given


async def _one(search: AuditSearch, source: str, event_id: str, given: dict[str, str], asker: Asker) -> Story:
    try:
        scope = Scope.parse(given["scope"]) if "scope" in given else None
    except ValueError as error:
        raise _wrong("scope", str(error)) from None
    if not (_possible(source) and _possible(event_id)):
        raise not_found()
    found = await read_stories(search, Wanted(event_id, source, scope), asker.principal, datetime.now(UTC))
    if not found:
        raise not_found()
    if len(found) > 1:
        errors = [("scope", f"{each.scope} has such an event") for each in found[:_MAX_NAMED]]
        raise Problem(409, "Several events", "this source and id exist in several scopes: name one by ?scope=", errors)
    return found[0]


def _possible(name: str) -> bool:
    """Whether an event can be called so; nobody is told more of one that cannot than that it is not there."""
    try:
        return 0 < len(one_line(name)) <= _MAX_CHARS
    except ValueError:
        return False


def _wrong(path: str, message: str) -> Problem:
    return Problem(400, "Invalid parameter", f"{path}: {message}", [(path, message)])


def _described(names: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": name in _IDENTITY,
            "description": text,
            "schema": {"type": "string"},
        }
        for name, text in names.items()
    ]
