"""What goes wrong behind an endpoint, as problem answers: one table from errors to statuses.

No answer quotes a value of the request, and none tells what broke inside.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from worker.api.bodies import faults, faults_of, invalid_fields
from worker.api.problem import Problem, not_found, problem
from worker.control.errors import InUse, NotFound, NotWorking, PasswordNeeded, Refused, Stale, Taken
from worker.errors import (
    AuditNotAllowed,
    AuditTooSlow,
    AuditUnavailable,
    BrokerUnavailable,
    PublishRefused,
    SecretKeyMissing,
    SecretUnreadable,
    StoreUnavailable,
)

_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_RETRY_AFTER = {"Retry-After": "5"}

# Status and title by what the control plane refuses; a class that is not named has its base's.
_REFUSALS: dict[type[Refused], tuple[int, str]] = {
    NotFound: (404, "Not found"),
    Taken: (409, "Name is taken"),
    InUse: (409, "In use"),
    NotWorking: (409, "No mail can be sent"),
    Stale: (412, "Changed meanwhile"),
    PasswordNeeded: (422, "Password needed"),
    Refused: (422, "Invalid request"),
}

# Title and detail by what is away. The store's own words name hosts and files, which are no asker's business.
_AWAY: dict[type[Exception], tuple[str, str]] = {
    StoreUnavailable: ("Store unavailable", "the database cannot be used now: nothing was changed"),
    AuditUnavailable: ("Audit unavailable", "the audit is away: nothing is known about the question"),
    AuditTooSlow: (
        "Audit took too long",
        "there is no whole answer within 10 s, and half of one would mislead: ask about less time, or add a filter",
    ),
    AuditNotAllowed: (
        "Audit unavailable",
        (
            "OpenSearch does not let the audit be read: the operator has to mend the user, password or role that "
            "POSTBOTE_OPENSEARCH_READER_USER names (POSTBOTE_OPENSEARCH_USER, where that is not set)"
        ),
    ),
    BrokerUnavailable: ("Not published", "the queue is away: nothing was published"),
    PublishRefused: ("Not published", "the queue did not take the event"),
}
_SECRETS: dict[type[Exception], str] = {
    SecretKeyMissing: "no key for secrets is set: the operator has to set POSTBOTE_SECRET_KEYS",
    SecretUnreadable: "a stored secret cannot be opened with the keys that are set: the operator has to add the key "
    "that sealed it to POSTBOTE_SECRET_KEYS, or the password has to be given again",
}

Handler = Callable[[Request, Any], Awaitable[Response]]


def answer_refusals(application: FastAPI) -> None:
    """Let `application` answer every error of the tables above, and the framework's own, as a problem."""
    handlers: dict[type[Exception], Handler] = {
        Problem: _raised,
        Refused: _refused,
        ValidationError: _invalid,
        RequestValidationError: _invalid_parameter,
        HTTPException: _framework,
        **dict.fromkeys(_AWAY, _away),
        **dict.fromkeys(_SECRETS, _secret),
    }
    for error, handler in handlers.items():
        application.add_exception_handler(error, handler)


async def _raised(_: Request, error: Problem) -> Response:
    return error.answer()


async def _refused(_: Request, error: Refused) -> Response:
    status, title = next(_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS)
    current = error.current if isinstance(error, Stale) else 0
    headers = {"ETag": f'"{current}"'} if current else {}
    return problem(status, title, str(error), [(error.path, error.message)], headers)


async def _invalid(_: Request, error: ValidationError) -> Response:
    return invalid_fields(faults(error)).answer()


async def _invalid_parameter(_: Request, error: RequestValidationError) -> Response:
    # Their places begin with where they stand: query, path, header.
    return invalid_fields(faults_of({**e, "loc": e["loc"][1:]} for e in error.errors())).answer()


async def _framework(request: Request, error: HTTPException) -> Response:
    match error.status_code:
        case 404:
            return not_found().answer()
        case 405:
            allow = {"Allow": ", ".join(sorted(_methods(request)))}
            detail = "this path does not answer that method; the header Allow names those it does"
            return problem(405, "Method not allowed", detail, headers=allow)
        case status:
            return problem(status, str(error.detail), str(error.detail), headers=error.headers)


def _methods(request: Request) -> set[str]:
    """What the path answers: each method is a route of its own, and the framework names the first one's only."""
    routes = request.app.routes
    asked = {method: {**request.scope, "method": method} for method in _METHODS}
    return {m for m, scope in asked.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)}


async def _away(_: Request, error: Exception) -> Response:
    title, detail = next(_AWAY[kind] for kind in type(error).__mro__ if kind in _AWAY)
    return problem(503, title, detail, headers=_RETRY_AFTER)


async def _secret(_: Request, error: Exception) -> Response:
    detail = next(_SECRETS[kind] for kind in type(error).__mro__ if kind in _SECRETS)
    return problem(503, "Secrets unavailable", detail)
