"""The whole application as a process puts it together, in its embedded form, and everybody who may ask it."""

import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from argon2 import PasswordHasher
from fastapi import FastAPI

import worker.app
from schemas.audit import AuditRecord, ConfigUsed, Outcome, Reply
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from tests.support.events import body_of, make_event
from worker.backends import embedded_backend, open_embedded
from worker.configs import open_store
from worker.control.people import NewUser
from worker.control.principals import Actor, Kind, Role
from worker.embedding import with_embedded_defaults
from worker.reception import open_reception
from worker.settings import Settings, load_settings
from worker.store.configs import ConfigStore
from worker.store.people import PeopleStore

ACME, GLOBEX = Scope("acme"), Scope("globex")
DEV, OPS, LAB = Scope("acme", "dev"), Scope("acme", "ops"), Scope("globex", "lab")
FEATURE = {DEV: True, OPS: False, LAB: True}
TESTS = Actor(Kind.COMMAND, "tests", CONTROLLER)
PASSWORD = "correct horse battery staple"
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)

WHO = {
    "C": ("controller admin", CONTROLLER, Role.ADMIN),
    "c": ("controller viewer", CONTROLLER, Role.VIEWER),
    "P": ("partner admin", ACME, Role.ADMIN),
    "p": ("partner viewer", ACME, Role.VIEWER),
    "X": ("other partner's admin", GLOBEX, Role.ADMIN),
    "O": ("org admin", DEV, Role.ADMIN),
    "o": ("org viewer", DEV, Role.VIEWER),
    "L": ("other partner's org's admin", LAB, Role.ADMIN),
    "F": ("admin of an org with the feature off", OPS, Role.ADMIN),
}
"""Who has a session, by the letter of their column."""

OUTSIDERS = ("nobody", "a broken cookie", "an expired session", "a revoked token")
Headers = dict[str, str]


@dataclass(frozen=True)
class Furnished:
    """A data folder with everybody in it, to be copied, and what each of them presents."""

    settings: Settings
    presents: dict[str, Headers]


@dataclass
class Whole:
    """One running application."""

    application: FastAPI
    people: PeopleStore
    store: ConfigStore
    presents: dict[str, Headers]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def number(self) -> int:
        """One that no name has yet."""
        return next(self.numbers)

    async def ask(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request by whom this column, or this outsider, stands for."""
        transport = httpx.ASGITransport(self.application, client=("192.0.2.1", 4711))
        content: dict[str, Any] = {} if body is None else {"json": body}
        async with httpx.AsyncClient(transport=transport, base_url="http://postbote") as client:
            return await client.request(method, path, headers=self.presents[who], **content)

    async def fresh(self, scope: Scope) -> dict[str, str]:
        """New things of the scope, for one request to be about: a user, a token and a link."""
        n = self.number()
        values: list[str] = []

        def mail(value: str) -> bytes:
            values.append(value)
            return body_of(make_event("r@example.com"))

        user = await self.people.add_user(NewUser(f"u{n}@x.example", None, scope, Role.ADMIN, HASH), TESTS)
        invited = NewUser(f"i{n}@x.example", None, scope, Role.VIEWER)
        await self.people.add_user(invited, TESTS, mail=mail)
        token, _ = await self.people.create_token("t", scope, Role.VIEWER, TESTS, expires_at=None)
        return {"user": user.id, "token": token.id, "link": values[0]}


def settings_in(folder: Path, **given: Any) -> Settings:
    return with_embedded_defaults(load_settings({}, data_dir=folder, **given))


@contextlib.asynccontextmanager
async def running(settings: Settings, presents: dict[str, Headers]) -> AsyncIterator[Whole]:
    """The application of ``postbote api --embedded``, without its server."""
    async with contextlib.AsyncExitStack() as stack:
        files = await stack.enter_async_context(open_embedded(settings))
        backend = embedded_backend(settings, files)
        assert backend.front is not None
        reception = await stack.enter_async_context(open_reception(settings, backend.front))
        store = await stack.enter_async_context(open_store(settings))
        application = worker.app._application(backend.checks, None, reception)
        assert isinstance(application, FastAPI)
        yield Whole(application, PeopleStore(store.database), store, presents)


@contextlib.asynccontextmanager
async def a_copy(furnished: Furnished, folder: Path) -> AsyncIterator[Whole]:
    """The same in a folder of its own."""
    shutil.copytree(furnished.settings.data_dir, folder)
    settings = furnished.settings.model_copy(
        update={"data_dir": folder, "database_url": f"sqlite:///{folder / 'postbote.db'}"}
    )
    async with running(settings, furnished.presents) as whole:
        yield whole


async def furnish(folder: Path) -> Furnished:
    """Partners, orgs, records and secrets of each scope, and everybody with what they present."""
    settings = settings_in(folder)
    async with open_store(settings) as store:
        people = PeopleStore(store.database)
        await _make_tenants(people)
        for scope in (CONTROLLER, ACME, GLOBEX, *FEATURE):
            await _make_records(store, scope)
        presents = {"nobody": {}, "a broken cookie": {"Cookie": "rsid=broken"}}
        for letter, (_, scope, role) in WHO.items():
            presents[letter] = _cookie(await _session(people, f"{letter}{role}@who.example", scope, role))
        _, value = await people.create_token("revoked", DEV, Role.ADMIN, TESTS, expires_at=None)
        [token] = [each for each in await people.tokens(DEV) if each.name == "revoked"]
        await people.revoke_token(DEV, token.id, TESTS)
        presents["a revoked token"] = {"Authorization": f"Bearer {value}"}
        await people.add_user(NewUser("login@who.example", None, DEV, Role.VIEWER, HASH), TESTS)
        # Last of all: whoever logs in later sweeps the sessions that have ended.
        past = datetime.now(UTC) - timedelta(hours=1)
        people._now = lambda: past
        presents["an expired session"] = _cookie(await _session(people, "late@who.example", DEV, Role.ADMIN, past))
    async with open_embedded(settings) as files:
        await files.audit.write([_record_of("story", DEV), _record_of("story-of-lab", LAB)])
    return Furnished(settings, presents)


def _cookie(value: str) -> Headers:
    return {"Cookie": f"rsid={value}"}


async def _session(people: PeopleStore, email: str, scope: Scope, role: Role, began: datetime | None = None) -> str:
    user = await people.add_user(NewUser(email, None, scope, role, HASH), TESTS)
    ends = datetime.now(UTC) + timedelta(hours=12) if began is None else began + timedelta(minutes=1)
    return await people.open_session(user.id, proven=HASH, expires_at=ends, replaces=None, actor=TESTS)


async def _make_tenants(people: PeopleStore) -> None:
    for partner in (ACME, GLOBEX):
        await people.create_partner(str(partner.partner), TESTS)
    for org, on in FEATURE.items():
        admin = NewUser(f"first@{org.org}.example", None, org, Role.ADMIN, HASH)
        await people.create_organization(str(org.partner), str(org.org), admin, TESTS, smtp_enabled=on, mail=None)


async def _make_records(store: ConfigStore, scope: Scope) -> None:
    record = SmtpConfig(
        partner=scope.partner, org=scope.org, host="smtp.example.com", port=587, tls="starttls",
        username="relay@example.com", password=PASSWORD,
    )  # fmt: skip
    name = f"of-{scope.org or scope.partner or 'controller'}"
    for each in ("default", name):
        await store.put(record.model_copy(update={"display_name": each}), TESTS)
    for each in ("kept", name):
        await store.create_secret(scope, each, PASSWORD, TESTS, shared=False)


def _record_of(event_id: str, org: Scope) -> AuditRecord:
    """A mail of an org that went by the controller's record."""
    now = datetime.now(UTC)
    return AuditRecord(
        timestamp=now, outcome=Outcome.ACCEPTED, reason="accepted: The server took the message. (INTERNALWORDS)",
        partner=org.partner, org=org.org, event_id=event_id, event_source="/tests", event_time=now,
        recipient="r@example.com", remote_queue_id="INTERNALWORDS",
        config=ConfigUsed(
            scope="controller", name="of-controller", version=1, fingerprint="ab" * 8, host="smtp.controller.internal",
            port=587,
        ),
        reply=Reply(code=250, enhanced="2.0.0", text="2.0.0 Ok: queued as INTERNALWORDS", phase="final"),
    )  # fmt: skip
