"""Error answers of the HTTP API: problem details (RFC 9457), each error with the path at fault."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import Response

MEDIA_TYPE = "application/problem+json"


def problem(
    status: int,
    title: str,
    detail: str,
    errors: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Build the answer; `errors` are (path, message) pairs, left out where there are none.

    `type` is ``about:blank`` (RFC 9457 section 4.2.1): the status says what kind of problem it is.
    """
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    found = [{"path": path, "message": message} for path, message in errors]
    if found:
        body["errors"] = found
    return Response(orjson.dumps(body), status, dict(headers or {}), MEDIA_TYPE)


class Problem(Exception):
    """An error answer raised from wherever the endpoint stands; `make_application` sends it as `problem` builds it."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take what `problem` takes."""
        super().__init__(f"{status} {title}: {detail}")
        self._said = (status, title, detail, tuple(errors), dict(headers or {}))

    def answer(self) -> Response:
        """The answer, made anew for each request."""
        return problem(*self._said)


def not_found() -> Problem:
    """What is not there and what lies outside the asker's reach: one answer, also that of an unknown path."""
    return Problem(404, "Not found", "there is nothing here")


def forbidden(detail: str) -> Problem:
    """The principal is known, and may not do this."""
    return Problem(403, "Forbidden", detail)


def invalid(path: str, message: str) -> Problem:
    """One field of the request breaks a rule."""
    return Problem(422, "Invalid request", f"{path}: {message}", [(path, message)])
