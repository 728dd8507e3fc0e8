"""Whose address the audit names: the client's, by the word of proxies that are known, and of nobody else.

The real server on loopback; what connects to it here is the proxy, at 127.0.0.1.
"""

import asyncio
from ipaddress import ip_network

import httpx
import pytest

from tests.control.api_whole.whole import PASSWORD, Whole
from worker.api.server import serving

KNOWN, OTHERS, BEFORE = ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("192.0.2.0/24")
CASES = [
    # the networks of proxies, X-Forwarded-For as it arrives, and the origin in the audit
    ("no proxy is known", (), "203.0.113.9", "127.0.0.1"),
    ("another one is", (OTHERS,), "203.0.113.9", "127.0.0.1"),
    ("this one is", (KNOWN,), "203.0.113.9", "203.0.113.9"),
    ("this one says nothing", (KNOWN,), None, "127.0.0.1"),
    ("the client made something up before it", (KNOWN,), "198.51.100.1, 203.0.113.9", "203.0.113.9"),
    ("there is one before it, known as well", (KNOWN, BEFORE), "203.0.113.9, 192.0.2.5", "203.0.113.9"),
    ("there is one before it that nobody knows", (KNOWN, OTHERS), "203.0.113.9, 192.0.2.5", "192.0.2.5"),
    ("an IPv6 client", (KNOWN,), "2001:db8::9", "2001:db8::9"),
]


async def origin_of(whole: Whole, action: str) -> str | None:
    """The origin in the audit's record of a session, once the change is shipped."""
    async with asyncio.timeout(10):
        while True:
            answer = await whole.ask("C", "GET", "/event/v1/auditlog?filter.type=session.changed&filter.limit=1000")
            found = [record for record in answer.json()["records"] if record["action"] == action]
            for record in found:
                if record["actor"].get("origin") is not None:
                    return str(record["actor"]["origin"])
            await asyncio.sleep(0.02)  # it is shipped from another task, which nobody outside can wait for


async def log_in(whole: Whole, proxies: tuple[object, ...], forwarded: str | None, password: str = PASSWORD) -> None:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    body = {"email": "login@who.example", "password": password}
    async with serving(whole.application, "127.0.0.1", 0, proxies) as port, httpx.AsyncClient() as client:
        await client.post(f"http://127.0.0.1:{port}/auth/login", json=body, headers=headers)


@pytest.mark.parametrize(("name", "proxies", "forwarded", "origin"), CASES, ids=[case[0] for case in CASES])
async def test_the_audit_names_the_client_and_believes_known_proxies_alone(
    whole: Whole, name: str, proxies: tuple[object, ...], forwarded: str | None, origin: str
) -> None:
    await log_in(whole, proxies, forwarded)
    assert await origin_of(whole, "opened") == origin, name


async def test_so_it_does_where_somebody_was_not_let_in(whole: Whole) -> None:
    await log_in(whole, (KNOWN,), "203.0.113.9", f"not {PASSWORD}")
    assert await origin_of(whole, "refused") == "203.0.113.9"
