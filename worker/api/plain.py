"""A few GET pages over ASGI without a framework, for a worker that serves no API.

FastAPI costs a process 7 MiB and a tenth of a second at its start; a worker alone answers
``/healthz``, ``/readyz`` and the like, none of which has a parameter.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Page:
    """One answer: HTTP status, body, and what the body is."""

    status: int
    body: bytes
    content_type: str = "application/json"


_PROBLEM = "application/problem+json"
_NOT_FOUND = Page(
    404, b'{"type":"about:blank","title":"Not found","status":404,"detail":"there is nothing here"}', _PROBLEM
)
_NOT_ALLOWED = Page(
    405, b'{"type":"about:blank","title":"Method Not Allowed","status":405,"detail":"GET and HEAD only"}', _PROBLEM
)


def plain_application(pages: Mapping[str, Callable[[], Page]]) -> Application:
    """Build an ASGI application that answers GET and HEAD of each path in `pages`; they must not block."""

    async def application(scope: Any, receive: Receive, send: Send) -> None:
        del receive  # a GET has no body that counts
        if scope["type"] != "http":
            msg = f"only HTTP is answered, not {scope['type']}"
            raise ValueError(msg)
        page = _page(pages, scope["method"], scope["path"])
        body = b"" if scope["method"] == "HEAD" else page.body
        headers = [
            (b"content-type", page.content_type.encode()),
            (b"content-length", str(len(page.body)).encode()),
        ]
        if page is _NOT_ALLOWED:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": page.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def _page(pages: Mapping[str, Callable[[], Page]], method: str, path: str) -> Page:
    answer = pages.get(path)
    if answer is None:
        return _NOT_FOUND
    return answer() if method in {"GET", "HEAD"} else _NOT_ALLOWED
