"""The pages of a worker without an API: the same answers as the API's own, without its framework."""

import subprocess
import sys

import httpx
import pytest

from worker.api.health import health_pages, health_router
from worker.api.plain import plain_application
from worker.api.server import make_application

CHECKS = {"consumer": lambda: None, "audit": lambda: "OpenSearch is away"}
# What a worker on real servers has no use for, whatever it imports.
_NOT_LOADED = ("fastapi", "starlette", "alembic", "sqlalchemy", "dkim", "aiosmtpd", "cryptography")


def client(application: object) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=application)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://worker")


@pytest.mark.parametrize("checks", [CHECKS, {"consumer": lambda: None}], ids=["something missing", "all there"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/events"])
async def test_both_forms_answer_alike(path: str, checks) -> None:
    async with (
        client(plain_application(health_pages(checks))) as plain,
        client(make_application([health_router(checks)])) as api,
    ):
        ours, theirs = await plain.get(path), await api.get(path)
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    assert ours.headers["content-type"] == theirs.headers["content-type"]


async def test_head_has_no_body_and_post_is_refused() -> None:
    async with client(plain_application(health_pages(CHECKS))) as plain:
        head, post = await plain.head("/readyz"), await plain.post("/readyz")
    assert (head.status_code, head.content) == (503, b"")
    assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")


def test_composing_a_worker_loads_nothing_that_only_others_need() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, worker.app; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.split()
    assert "worker.delivery.pipeline" in loaded
    assert not {name for name in loaded if name.split(".")[0] in _NOT_LOADED}
