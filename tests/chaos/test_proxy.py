"""A bulk that is refused in part: who was refused is told so, and the rest is really done."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pytest
from aiohttp import web

from tests.chaos.proxy import AuditProxy, Trouble

ITEMS = 400


@asynccontextmanager
async def upstream(done: list[str]) -> AsyncIterator[str]:
    """An OpenSearch that notes what it was asked to do, and does it."""

    async def bulk(request: web.Request) -> web.Response:
        actions = [orjson.loads(line) for line in (await request.read()).splitlines()[::2]]
        done.extend(target["_id"] for action in actions for target in action.values())
        return web.json_response(
            {"items": [{name: {**t, "status": 200}} for each in actions for name, t in each.items()]}
        )

    application = web.Application()
    application.router.add_post("/_bulk", bulk)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("action", "refusals"), [("create", {400, 429, 503}), ("update", {429, 503})])
async def test_a_bulk_is_refused_in_part_whatever_it_asks_for(action: str, refusals: set[int]) -> None:
    done: list[str] = []
    lines = [orjson.dumps(each) for n in range(ITEMS) for each in ({action: {"_index": "i", "_id": str(n)}}, {"n": n})]
    async with (
        upstream(done) as url,
        AuditProxy(url, random.Random(1), trouble=Trouble.PARTIAL).serving() as proxy,
        aiohttp.ClientSession() as session,
        session.post(f"{proxy.url}/_bulk", data=b"\n".join(lines)) as reply,
    ):
        items = [item[action] for item in (await reply.json())["items"]]
    assert [item["_id"] for item in items] == [str(n) for n in range(ITEMS)]
    assert {item["status"] for item in items} == {200, *refusals}
    assert done == [item["_id"] for item in items if item["status"] == 200]
