"""Is this process alive, and is it ready? Two questions that an orchestrator asks differently.

``/healthz``: the event loop turns; failing it means "restart me". ``/readyz``: every part that
this process needs is there; failing it means "send me nothing for now", with the part named.
"""

from collections.abc import Callable, Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse

Check = Callable[[], str | None]
"""Returns None where a part is ready, else a short sentence saying what is missing."""


def health_router(checks: Mapping[str, Check]) -> APIRouter:
    """Build both endpoints over `checks`, which must not block."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Every part that the process needs is there")
    async def readyz() -> JSONResponse:
        found = {name: check() for name, check in checks.items()}
        ready = all(missing is None for missing in found.values())
        body = {"status": "ready" if ready else "not ready", "parts": {n: m or "ok" for n, m in found.items()}}
        return JSONResponse(body, status_code=200 if ready else 503)

    return router
