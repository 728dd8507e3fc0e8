"""What holds for every answer: its headers, and that there is one whatever happens inside."""

import traceback
from collections.abc import Callable
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.api.problem import problem

log = structlog.get_logger(__name__)

_FRAMES = 8
_ALWAYS = [(b"x-content-type-options", b"nosniff")]
_PRIVATE = (b"cache-control", b"no-store")
_NO_REFERRER = (b"referrer-policy", b"no-referrer")  # the path of a one-time link is a secret
_AUTH = "/auth/"
_NOT_FOUND = 404
_FIRST_ERROR = 400
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Answers:
    """ASGI middleware around the endpoints.

    Answers that depend on who asks are kept by no cache. What nobody expected is a 500 that says
    nothing, and a log line that does.
    """

    def __init__(self, app: ASGIApp, *, changed: Callable[[], None] | None = None) -> None:
        """Take what it stands around; `changed` is called after each request that may have changed something."""
        self._app = app
        self._changed = changed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._tell_of_changes(scope["method"], message["status"])
                message = {**message, "headers": _completed(message, scope)}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            return  # nobody is left to be answered
        except Exception as error:
            _log(scope, error)
            if begun:
                raise  # half an answer is out: the connection has to break
            await _unexpected()(scope, receive, send_with_headers)

    def _tell_of_changes(self, method: str, status: int) -> None:
        if self._changed is not None and method not in _READING and status < _FIRST_ERROR:
            self._changed()


def _completed(start: Message, scope: Scope) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = start["headers"]
    added = list(_ALWAYS)
    at_auth = scope["path"].startswith(_AUTH)
    # Every 404, since that of an unknown path must look like that of one that is not the asker's to know of.
    if at_auth or "principal" in scope.get("state", {}) or start["status"] == _NOT_FOUND:
        added.append(_PRIVATE)
    if at_auth:
        added.append(_NO_REFERRER)
    present = {name.lower() for name, _ in headers}
    return [*headers, *(each for each in added if each[0] not in present)]


def _log(scope: Scope, error: Exception) -> None:
    # Not the error's own words: they may quote what was sent, and that may be a password.
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    route: Any = scope.get("route")
    path = getattr(route, "path", None)  # the pattern: a link's own path lets its reader in
    log.error("a request failed", method=scope["method"], path=path, error=type(error).__name__, where=where)


def _unexpected() -> ASGIApp:
    return problem(500, "Internal error", "something went wrong here; the log says what")
