"""Is this process alive, and is it ready? Two questions that an orchestrator asks differently.

``/healthz``: the event loop turns; failing it means "restart me". ``/readyz``: every part that
this process needs is there; failing it means "send me nothing for now", with the part named.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from worker.api.plain import Page

if TYPE_CHECKING:  # a worker without an API does without FastAPI, too
    from fastapi import APIRouter

Check = Callable[[], str | None]
"""Returns None where a part is ready, else a short sentence saying what is missing."""


def health_pages(checks: Mapping[str, Check]) -> dict[str, Callable[[], Page]]:
    """Both pages over `checks`, which must not block, by their paths."""

    def readyz() -> Page:
        ready, body = _readiness(checks)
        return Page(200 if ready else 503, orjson.dumps(body))

    return {"/healthz": lambda: Page(200, orjson.dumps(_ALIVE)), "/readyz": readyz}


def health_router(checks: Mapping[str, Check]) -> "APIRouter":
    """The same two as endpoints of an API."""
    from fastapi import APIRouter
    from fastapi.responses import JSONResponse

    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return _ALIVE

    @router.get("/readyz", summary="Every part that the process needs is there")
    async def readyz() -> JSONResponse:
        ready, body = _readiness(checks)
        return JSONResponse(body, status_code=200 if ready else 503)

    return router


_ALIVE = {"status": "ok"}


def _readiness(checks: Mapping[str, Check]) -> tuple[bool, dict[str, Any]]:
    found = {name: check() for name, check in checks.items()}
    ready = all(missing is None for missing in found.values())
    return ready, {"status": "ready" if ready else "not ready", "parts": {n: m or "ok" for n, m in found.items()}}
