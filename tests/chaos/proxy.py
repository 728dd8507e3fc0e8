"""An HTTP proxy in front of OpenSearch, in the driver, that answers as a troubled OpenSearch would.

It forwards what it lets through and changes nothing of it. A bulk of which it refuses a part is
really written in the other part, and one whose answer it swallows is really written whole.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from tests.services.processes import free_port

_MAX_BYTES = 64 * 1024 * 1024
_HOP_BY_HOP = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "content-encoding"}
_REFUSED_SHARE = 0.3
_UNMAPPABLE_SHARE = 0.02


class Trouble(StrEnum):
    """What OpenSearch is made to look like."""

    NONE = "none"
    BUSY = "429"
    UNAVAILABLE = "503"
    SLOW = "slow"
    SLOW_WRITES = "slow writes"
    PARTIAL = "partial"
    SWALLOWED = "swallowed"
    GONE = "gone"


@dataclass
class AuditProxy:
    """Between `with` and its end at `url`; `trouble` may be set at any time."""

    upstream: str
    rng: random.Random
    port: int = field(default_factory=free_port)
    trouble: Trouble = Trouble.NONE
    slow_s: float = 2.0

    @property
    def url(self) -> str:
        """Where the workers find it."""
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["AuditProxy"]:
        """Serve while the block runs."""
        application = web.Application(client_max_size=_MAX_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        async with aiohttp.ClientSession(auto_decompress=True) as self._session:
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        match self.trouble:
            case Trouble.GONE:
                return _hang_up(request)
            case Trouble.BUSY:
                return _refusal(429, "opensearch_rejected_execution_exception")
            case Trouble.UNAVAILABLE:
                return _refusal(503, "cluster_block_exception")
            case Trouble.SLOW:
                await asyncio.sleep(self.rng.uniform(0, self.slow_s))
            case Trouble.SLOW_WRITES if request.path.endswith("_bulk"):
                await asyncio.sleep(self.slow_s)
            case Trouble.PARTIAL if request.path.endswith("_bulk"):
                return await self._partial(request, body)
            case Trouble.SWALLOWED if self.rng.random() < _REFUSED_SHARE:
                await self._forward(request, body)
                return _hang_up(request)
            case _:
                pass
        return await self._forward(request, body)

    async def _forward(self, request: web.Request, body: bytes) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = f"{self.upstream}{request.path_qs}"
        try:
            async with self._session.request(request.method, url, data=body, headers=headers) as reply:
                content = await reply.read()
                kept = {n: v for n, v in reply.headers.items() if n.lower() not in _HOP_BY_HOP}
                return web.Response(status=reply.status, body=content, headers=kept)
        except aiohttp.ClientError:  # it was killed, and so this connection is lost, too
            return _hang_up(request)

    async def _partial(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Forward some items of a bulk of creates or updates, two lines each, and answer for the others."""
        lines = body.splitlines(keepends=True)
        items = [lines[start : start + 2] for start in range(0, len(lines), 2)]
        refusals = [self._refuse(item) for item in items]
        passed = b"".join(line for item, refused in zip(items, refusals, strict=True) if not refused for line in item)
        answered: list[dict[str, Any]] = []
        if passed:
            reply = await self._forward(request, passed)
            if not isinstance(reply, web.Response) or reply.status != 200:
                return reply
            answered = orjson.loads(bytes(reply.body or b""))["items"]  # type: ignore[arg-type]
        return _merged(refusals, answered)

    def _refuse(self, item: Sequence[bytes]) -> dict[str, Any] | None:
        ((action, target),) = orjson.loads(item[0]).items()
        chance = self.rng.random()
        if chance < _UNMAPPABLE_SHARE and action == "create" and not target["_index"].endswith("-deadletter"):
            return _item(action, target, 400, "mapper_parsing_exception")
        if chance < _REFUSED_SHARE:
            return _item(action, target, self.rng.choice((429, 503)), "opensearch_rejected_execution_exception")
        return None


def _merged(refusals: Sequence[dict[str, Any] | None], answered: Sequence[dict[str, Any]]) -> web.Response:
    rest = iter(answered)
    items = [refused if refused is not None else next(rest) for refused in refusals]
    return web.json_response({"took": 1, "errors": True, "items": items})


def _item(action: str, target: dict[str, str], status: int, kind: str) -> dict[str, Any]:
    error = {"type": kind, "reason": "chaos"}
    return {action: {"_index": target["_index"], "_id": target["_id"], "status": status, "error": error}}


def _refusal(status: int, kind: str) -> web.Response:
    return web.json_response({"error": {"type": kind, "reason": "chaos"}, "status": status}, status=status)


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)
