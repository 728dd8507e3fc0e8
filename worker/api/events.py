"""``POST /v1/events``: publish over HTTP, for those who have no AMQP client at hand.

An event is checked before it is published, so that its sender hears of a misspelt field at once
instead of finding it in the audit. 202 means that the broker has confirmed it.
"""

from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from schemas.cloudevents import InvalidEvent, parse_event
from schemas.event import EmailEvent
from worker.api.ports import EventIntake
from worker.api.problem import problem
from worker.delivery.ports import Lane
from worker.errors import BrokerUnavailable, PublishRefused

MAX_BODY_BYTES = 16 * 1024 * 1024  # what RabbitMQ 4 takes as one message unless told otherwise
_RETRY_AFTER_S = 5


def events_router(intake: EventIntake) -> APIRouter:
    """Build the endpoint over `intake`."""
    router = APIRouter(tags=["events"])

    @router.post(
        "/v1/events",
        status_code=202,
        summary="Publish one CloudEvent (structured, or binary with ce-* headers)",
        responses={
            202: {"description": "The broker has confirmed the event"},
            400: {"description": "The event cannot be mailed: every field at fault is named"},
            413: {"description": "Larger than one message may be"},
            503: {"description": "The broker is away: nothing was published"},
        },
    )
    async def publish(request: Request, lane: Lane = Lane.TRANSACTIONAL) -> Response:
        body = await _read(request)
        if body is None:
            return problem(413, "Event too large", f"an event may have {MAX_BODY_BYTES} bytes at most")
        headers = _binary_headers(request)
        content_type = request.headers.get("content-type", "") if headers else "application/cloudevents+json"
        try:
            event = parse_event(body, content_type, headers)
        except InvalidEvent as error:
            return problem(400, "Invalid event", str(error), [(e.path, e.message) for e in error.errors])
        try:
            kind = event.envelope.type
            await intake.submit(body, content_type=content_type, headers=headers, lane=lane, kind=kind)
        except (BrokerUnavailable, PublishRefused) as error:
            retry = {"Retry-After": str(_RETRY_AFTER_S)}
            return problem(503, "Not published", f"the queue did not take the event: {error}", headers=retry)
        return JSONResponse(_accepted(event), status_code=202)

    return router


async def _read(request: Request) -> bytes | None:
    """The body, or None as soon as it is known to be too large."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        return None
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > MAX_BODY_BYTES:
            return None
    return bytes(chunks)


def _binary_headers(request: Request) -> dict[str, str]:
    """Translate the HTTP binding's ``ce-*`` headers to the AMQP binding's; empty if structured."""
    if "ce-specversion" not in request.headers:
        return {}
    return {f"cloudEvents:{n.removeprefix('ce-')}": v for n, v in request.headers.items() if n.startswith("ce-")}


def _accepted(event: EmailEvent) -> dict[str, str]:
    envelope = event.envelope
    query = urlencode({"filter.source": envelope.source, "filter.eventid": envelope.id})
    return {"id": envelope.id, "source": envelope.source, "audit": f"/event/v1/auditlog?{query}"}
