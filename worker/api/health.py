"""Is this process alive, and is it ready? Two questions that an orchestrator asks differently.

``/healthz``: the event loop turns; failing it means "restart me". ``/readyz``: every part that
this process needs is there; failing it means "send me nothing for now", with the part named.

Both are open to everybody who reaches the port. So of what a part says only the sentence is shown, and
what explains it (after a colon, or in parentheses: addresses, users, words of servers and libraries)
goes to the log when the part ceases to be ready.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from worker.api.plain import Page

if TYPE_CHECKING:  # a worker without an API does without FastAPI, too
    from fastapi import APIRouter

log = structlog.get_logger(__name__)

Check = Callable[[], str | None]
"""Returns None where a part is ready, else a short fixed sentence, with what explains it after a colon."""

_EXPLANATION = re.compile(r": .*| ?\([^)]*\)", re.DOTALL)


def health_pages(checks: Mapping[str, Check]) -> dict[str, Callable[[], Page]]:
    """Both pages over `checks`, which must not block, by their paths."""
    readiness = _Readiness(checks)

    def readyz() -> Page:
        ready, body = readiness.ask()
        return Page(200 if ready else 503, orjson.dumps(body))

    return {"/healthz": lambda: Page(200, orjson.dumps(_ALIVE)), "/readyz": readyz}


def health_router(checks: Mapping[str, Check]) -> "APIRouter":
    """The same two as endpoints of an API."""
    from fastapi import APIRouter
    from fastapi.responses import JSONResponse

    router = APIRouter(tags=["health"])
    readiness = _Readiness(checks)

    @router.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return _ALIVE

    @router.get("/readyz", summary="Every part that the process needs is there")
    async def readyz() -> JSONResponse:
        ready, body = readiness.ask()
        return JSONResponse(body, status_code=200 if ready else 503)

    return router


_ALIVE = {"status": "ok"}


class _Readiness:
    """Asks the parts, and logs what one says in full when it ceases to be ready."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._said: dict[str, str | None] = dict.fromkeys(checks)

    def ask(self) -> tuple[bool, dict[str, Any]]:
        found = {name: check() for name, check in self._checks.items()}
        shown = {name: None if said is None else _EXPLANATION.sub("", said) for name, said in found.items()}
        for name, sentence in shown.items():
            if sentence is not None and self._said[name] is None:
                log.warning("not ready", part=name, reason=found[name])
        self._said = shown
        ready = all(sentence is None for sentence in shown.values())
        parts = {name: sentence or "ok" for name, sentence in shown.items()}
        return ready, {"status": "ready" if ready else "not ready", "parts": parts}
