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
