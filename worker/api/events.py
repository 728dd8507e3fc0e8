"""``POST /v1/events``: publish over HTTP, for those who have no AMQP client at hand.

An event is checked before it is published, so that its sender hears of a misspelt field at once
instead of finding it in the audit. 202 means that the broker has confirmed it.

An event is sent with the server of its scope: so its sender has to reach that scope, as an admin. An
event without a scope is the controller's.
"""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from schemas.cloudevents import InvalidEvent, parse_event
from schemas.event import EmailEvent
from worker.api.auth import Asker, Gate
from worker.api.bodies import read_bytes
from worker.api.described import problems
from worker.api.ports import EventIntake
from worker.api.problem import Problem
from worker.delivery.ports import Lane

MAX_BODY_BYTES = 16 * 1024 * 1024  # what RabbitMQ 4 takes as one message unless told otherwise

_ANSWERS: dict[int | str, dict[str, Any]] = {
    **problems(400, 401, 403, 413, 422, 503),
    202: {"description": "The broker has confirmed the event"},
}
_ANSWERS[400]["description"] = "The event cannot be mailed: every field at fault is named"
_ANSWERS[403]["description"] = "A viewer, or an event of a scope that is out of the asker's reach"
_ANSWERS[503]["description"] = "The broker is away: nothing was published"


def events_router(intake: EventIntake, gate: Gate) -> APIRouter:
    """Build the endpoint over `intake`, for admins."""
    router = APIRouter(tags=["events"])

    @router.post(
        "/v1/events",
        status_code=202,
        summary="Publish one CloudEvent (structured, or binary with ce-* headers)",
        responses=_ANSWERS,
    )
    async def publish(
        request: Request, asker: Annotated[Asker, Depends(gate.admin)], lane: Lane = Lane.TRANSACTIONAL
    ) -> Response:
        body = await read_bytes(request, MAX_BODY_BYTES)
        headers = _binary_headers(request)
        content_type = request.headers.get("content-type", "") if headers else "application/cloudevents+json"
        try:
            event = parse_event(body, content_type, headers)
        except InvalidEvent as error:
            raise Problem(400, "Invalid event", str(error), [(e.path, e.message) for e in error.errors]) from None
        _require_reach(asker, event)
        await intake.submit(body, content_type=content_type, headers=headers, lane=lane, kind=event.envelope.type)
        return JSONResponse(_accepted(event), status_code=202)

    return router


def _require_reach(asker: Asker, event: EmailEvent) -> None:
    if not asker.principal.reaches(event.scope):
        message = f"is not within {asker.scope}, for which alone you may send"
        raise Problem(403, "Forbidden", f"data.scope: {message}", [("data.scope", message)])


def _binary_headers(request: Request) -> dict[str, str]:
    """Translate the HTTP binding's ``ce-*`` headers to the AMQP binding's; empty if structured."""
    if "ce-specversion" not in request.headers:
        return {}
    return {f"cloudEvents:{n.removeprefix('ce-')}": v for n, v in request.headers.items() if n.startswith("ce-")}


def _accepted(event: EmailEvent) -> dict[str, str]:
    envelope = event.envelope
    query = urlencode({"filter.source": envelope.source, "filter.eventid": envelope.id})
    return {"id": envelope.id, "source": envelope.source, "audit": f"/event/v1/auditlog?{query}"}
