"""The endpoints of people over the real store on a SQLite file, and principals of every kind."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from tests.control.api_auth.people import ACME, DEV, GLOBEX, OPS, TESTS, Counted
from tests.support.databases import upgraded
from worker.api.auth import Gate
from worker.api.links import links_router
from worker.api.login import login_router
from worker.api.organizations import Accounts, Strategy, organizations_router
from worker.api.partners import partners_router
from worker.api.server import make_application
from worker.api.tokens import tokens_router
from worker.api.users import users_router
from worker.control.mails import Mails
from worker.control.people import NewUser
from worker.control.principals import Role
from worker.control.throttle import PER_CLIENT, LoginThrottle, Throttle
from worker.store.database import Store
from worker.store.outgoing import OutgoingKind, OutgoingShelf
from worker.store.people import PeopleStore
from worker.testing import StaticConfigs

PUBLIC_URL = "https://mail.example.com"


@dataclass
class Town:
    """Partners acme (orgs dev and ops) and globex, their people, and the API in front of them."""

    people: PeopleStore
    passwords: Counted
    clock: list[float] = field(default_factory=lambda: [0.0])
    configs: StaticConfigs = field(default_factory=StaticConfigs)
    strategy: Strategy = "VERIFY"
    secure_cookies: bool = False
    nudges: list[None] = field(default_factory=list)
    numbers: Any = field(default_factory=itertools.count)

    def application(self) -> FastAPI:
        gate = Gate(self.people, public_origin=PUBLIC_URL, secure_cookies=self.secure_cookies, session_h=12.0)
        mails = Mails(PUBLIC_URL)
        logins = LoginThrottle(clock=lambda: self.clock[0])
        clients = Throttle(PER_CLIENT, clock=lambda: self.clock[0])
        accounts = Accounts(self.strategy, self.passwords, self.configs, mails)
        routers = [
            login_router(gate, self.people, self.passwords, logins),
            links_router(gate, self.people, self.passwords, clients),
            users_router(gate, self.people, self.configs, mails),
            tokens_router(gate, self.people),
            partners_router(gate, self.people),
            organizations_router(gate, self.people, accounts),
        ]
        return make_application(routers, changed=lambda: self.nudges.append(None))

    def client(self, token: str | None = None, ip: str = "192.0.2.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self._app(), client=(ip, 4711), raise_app_exceptions=True)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(transport=transport, base_url="http://postbote", headers=headers)

    def _app(self) -> FastAPI:
        key = (self.strategy, self.secure_cookies)
        if getattr(self, "_made", (None, None))[0] != key:
            self._made = (key, self.application())
        return self._made[1]

    async def token(self, scope: Scope, role: Role = Role.ADMIN, name: str = "robot") -> str:
        _, value = await self.people.create_token(name, scope, role, TESTS, expires_at=None)
        return value

    async def user(self, email: str, scope: Scope, role: Role = Role.ADMIN, password: str | None = None) -> str:
        hashed = await self.passwords.hash(password) if password else None
        made = await self.people.add_user(NewUser(email, None, scope, role, hashed), TESTS)
        return made.id

    async def session(self, user_id: str, email: str, expires_at: datetime) -> str:
        found = await self.people.credentials(email)
        proven = found.password_hash if found else None
        return await self.people.open_session(user_id, proven=proven, expires_at=expires_at, replaces=None, actor=TESTS)

    def working(self, scope: Scope, **fields: Any) -> None:
        """Give the scope an SMTP record that names a sender."""
        given = {"host": "smtp.example.com", "port": 25, "tls": "none", "from_address": "no-reply@example.com"}
        self.configs.records[scope] = SmtpConfig(partner=scope.partner, org=scope.org, **{**given, **fields})

    async def mails(self) -> list[dict[str, Any]]:
        """The events that wait to be mailed."""
        waiting = await OutgoingShelf(self.people.database).oldest(1000)
        return [orjson.loads(each.body) for each in waiting if each.kind is OutgoingKind.EVENT]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables and nothing in them, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "postbote.db"

    async def make() -> None:
        database = Store(f"sqlite:///{path}")
        await upgraded(database)
        await database.close()

    asyncio.run(make())
    return path


@pytest.fixture
async def town(empty_database: Path, tmp_path: Path) -> AsyncIterator[Town]:
    path = tmp_path / "postbote.db"
    shutil.copy(empty_database, path)
    database = Store(f"sqlite:///{path}")
    people = PeopleStore(database)
    for name in (ACME.partner, GLOBEX.partner):
        await people.create_partner(name, TESTS)
    for scope in (DEV, OPS, Scope("globex", "lab")):
        admin = NewUser(f"admin@{scope.org}.example", None, scope, Role.ADMIN)
        await people.create_organization(scope.partner, scope.org, admin, TESTS, smtp_enabled=False, mail=None)
    yield Town(people, Counted(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)))
    await database.close()


@pytest.fixture
async def controller(town: Town) -> AsyncIterator[httpx.AsyncClient]:
    async with town.client(await town.token(CONTROLLER)) as client:
        yield client


@pytest.fixture
async def acme(town: Town) -> AsyncIterator[httpx.AsyncClient]:
    async with town.client(await town.token(ACME)) as client:
        yield client


@pytest.fixture
async def dev(town: Town) -> AsyncIterator[httpx.AsyncClient]:
    async with town.client(await town.token(DEV)) as client:
        yield client
