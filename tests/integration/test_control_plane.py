"""Records set over the API decide, through the config topic, at which of three servers a mail arrives."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Site
from tests.support.access import request, token_for
from tests.support.events import make_event
from tests.support.process import Postbote
from worker.embedded.certificates import ensure_certificates
from worker.embedded.sink import SmtpSink

PARTNER, ORG = "partner:acme", "org:acme/tools"
NAMES = {"controller": "controller", PARTNER: "partner", ORG: "org"}
PASSWORDS = {name: f"s3cret-of-the-{name}" for name in NAMES.values()}
# A change has a second to reach every worker; the machine may be busy.
PATIENCE_S = 15.0
# Before anything is stored for it, an event is parked as unconfigured.
ARRIVAL_S = 3.0

CASES = [
    # whose records are stored; which server an org's mail reaches with its feature on, and with it off
    (("controller",), "controller", "controller"),
    (("controller", PARTNER), "partner", "partner"),
    (("controller", PARTNER, ORG), "org", "partner"),
    (("controller", ORG), "org", "controller"),
    ((PARTNER,), "partner", "partner"),
]


@dataclass
class Plane:
    """The API, one worker that knows the topic alone, and three servers that each take one account."""

    site: Site
    api: str
    tokens: dict[str, str]
    sinks: dict[str, SmtpSink]
    numbers: int = 0

    async def ask(self, method: str, path: str, scope: str, body: Any = None) -> tuple[int, Any]:
        answer = await asyncio.to_thread(request, method, self.api + path, self.tokens[scope], body)
        return answer[0], answer[1]

    async def store(self, scope: str) -> None:
        """POST the scope's record in the documented spelling."""
        name = NAMES[scope]
        record = {
            "username": f"{name}@postbote.example",
            "password": PASSWORDS[name],
            "host": "localhost",
            "port": self.sinks[name].starttls_port,
            "use_tls": True,
            "use_insecure": True,
            "retries": 1,
        }
        body = {"email_config": {"smtp_config": record}}
        status, told = await self.ask("POST", "/event/v1/email/config", scope, body)
        assert status == 200, told

    async def switch(self, *, on: bool) -> None:
        body = {"smtp_enabled": on}
        status, told = await self.ask("PATCH", "/v1/organizations/tools", PARTNER, body)
        assert status == 200, told

    async def where_a_mail_arrives(self) -> str | None:
        """Publish one event of the org over the API, and see which server has it; None: it was too early for any."""
        self.numbers += 1
        recipient = f"r{self.numbers}@example.com"
        event = make_event(recipient, scope={"partner": "acme", "org": "tools"}, subject="Where?")
        status, told = await self.ask("POST", "/v1/events", "controller", event)
        assert status == 202, told
        until = time.monotonic() + ARRIVAL_S
        while time.monotonic() < until:
            for name, sink in self.sinks.items():
                if any(recipient in mail.rcpt_tos for mail in sink.mails):
                    return name
            await asyncio.sleep(0.02)  # three servers, and nobody knows which one to wait for
        return None

    async def arrives_at(self, expected: str) -> float:
        """Send until a mail arrives where the last change says; returns the seconds that took."""
        began = time.monotonic()
        found = await self.where_a_mail_arrives()
        while found != expected and time.monotonic() - began < PATIENCE_S:
            found = await self.where_a_mail_arrives()
        assert found == expected
        return time.monotonic() - began


@pytest.fixture
async def plane(site: Site, tmp_path: Path) -> AsyncIterator[Plane]:
    site.env_extra["POSTBOTE_CONFIG_SOURCE"] = "topic"
    database = site.env["POSTBOTE_DATABASE_URL"]
    nowhere = {"POSTBOTE_DATABASE_URL": "sqlite:////nowhere/at/all.db"}
    certificates = ensure_certificates(tmp_path / "tls")
    async with contextlib.AsyncExitStack() as stack:
        sinks = {}
        for name in NAMES.values():
            account = {f"{name}@postbote.example": PASSWORDS[name]}
            sinks[name] = await stack.enter_async_context(SmtpSink(certificates, accounts=account))
        tokens = {scope: await asyncio.to_thread(token_for, database, scope) for scope in NAMES}
        api = stack.enter_context(Postbote("api", env=site.env))
        worker = stack.enter_context(Postbote("worker", env=site.env | nowhere))
        base = await asyncio.to_thread(lambda: api.base_url)
        await asyncio.to_thread(worker.wait_for, "consuming")
        await asyncio.to_thread(api.wait_for, "publisher is connected")
        made = Plane(site, base, tokens, sinks)
        for method, path, body in [
            ("POST", "/v1/partners", {"name": "acme"}),
            ("POST", "/v1/organizations", {"partner": "acme", "name": "tools", "admin": ADMIN}),
        ]:
            status, told = await made.ask(method, path, "controller", body)
            assert status == 201, told
        yield made


ADMIN = {"email": "admin@tools.example", "name": "Ada", "password": "correct horse battery staple"}


@pytest.fixture
def site_of_auto(site: Site) -> Site:
    site.env_extra["ACCOUNT_CREATION_STRATEGY"] = "AUTO"
    return site


@pytest.mark.parametrize(("stored", "with_feature", "without"), CASES, ids=["+".join(case[0]) for case in CASES])
async def test_the_most_specific_record_that_counts_decides_where_mail_arrives(
    site_of_auto: Site, plane: Plane, stored: tuple[str, ...], with_feature: str, without: str
) -> None:
    await plane.switch(on=True)
    for scope in stored:
        await plane.store(scope)
    took = await plane.arrives_at(with_feature)
    await plane.switch(on=False)
    took = max(took, await plane.arrives_at(without))
    if ORG in stored:
        assert (await plane.ask("GET", "/event/v1/email/config", ORG))[0] == 404
    await plane.switch(on=True)
    took = max(took, await plane.arrives_at(with_feature))
    print(f"{'+'.join(stored)}: a change was in effect after at most {took:.2f} s")
    sent = [mail for sink in plane.sinks.values() for mail in sink.mails]
    assert all(mail.tls for mail in sent)
    for name, sink in plane.sinks.items():
        assert {mail.account for mail in sink.mails} <= {f"{name}@postbote.example"}, "each server its own login only"


async def test_what_is_deleted_falls_back_to_the_next_scope(site_of_auto: Site, plane: Plane) -> None:
    await plane.switch(on=True)
    for scope in NAMES:
        await plane.store(scope)
    await plane.arrives_at("org")
    for scope, next_scope in [(ORG, "partner"), (PARTNER, "controller")]:
        status, told = await plane.ask("DELETE", "/event/v1/email/config", scope)
        assert (status, told["now_applies"]["scope"]) == (200, next_scope)
        await plane.arrives_at(next_scope)
