"""What the tests of the SMTP endpoints share: scopes, bodies, fakes of the trials, and the API itself."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from schemas.audit import Outcome
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from worker.api.auth import Gate
from worker.api.email_config import email_config_router
from worker.api.secrets import secrets_router
from worker.api.server import make_application
from worker.api.smtp_configs import smtp_configs_router
from worker.api.smtp_trials import trials_router
from worker.api.turns import Turns
from worker.control.principals import Actor, Kind, Role
from worker.control.throttle import Rate, Throttle
from worker.control.trials import TestMail, Verification
from worker.store.configs import ConfigStore
from worker.store.controller import ControllerFromEnvironment
from worker.store.people import PeopleStore
from worker.store.secrets import SecretBox

ACME, GLOBEX = Scope("acme"), Scope("globex")
DEV, OPS, LAB = Scope("acme", "dev"), Scope("acme", "ops"), Scope("globex", "lab")
PARTNERS = ("acme", "globex")
ORGS = {DEV: True, OPS: False, LAB: True}
TESTS = Actor(Kind.COMMAND, "tests", CONTROLLER)
PASSWORD = "hunter2-correct-horse"
OTHER_PASSWORD = "tr0ub4dor-and-3"

CONFIG = "/event/v1/email/config"
VERIFICATION = f"{CONFIG}/verification"
CONFIGS = "/v1/smtp-configs"
SECRETS = "/v1/secrets"


def rafay(**fields: Any) -> dict[str, Any]:
    """The documented body; a field that is None is left out."""
    given = {
        "username": "relay@example.com",
        "password": PASSWORD,
        "host": "smtp.example.com",
        "port": 587,
        "use_tls": True,
        "use_insecure": False,
        "retries": 3,
        **fields,
    }
    return {"email_config": {"smtp_config": {name: value for name, value in given.items() if value is not None}}}


def native(**fields: Any) -> dict[str, Any]:
    """A record under our own names."""
    given = {
        "host": "smtp.example.com",
        "port": 587,
        "tls": "starttls",
        "username": "relay@example.com",
        "password": PASSWORD,
        **fields,
    }
    return {name: value for name, value in given.items() if value is not None}


def test_mail(**fields: Any) -> dict[str, Any]:
    """The documented test mail."""
    given = {"sender_email": "noreply@example.com", "recipient_email": "ops@example.net"}
    return {**given, "subject": "SMTP test", "body": "It works.", **fields}


test_mail.__test__ = False  # type: ignore[attr-defined] # no test, whatever its name begins with


@dataclass
class FakeVerifier:
    """Keeps what it was asked to send, and tells what it was told to tell."""

    answer: Verification = field(
        default_factory=lambda: Verification(
            Outcome.ACCEPTED, None, {"code": 250, "text": "2.0.0 Ok"}, None, "<1@postbote>", 12.5, "a" * 40, "e-1"
        )
    )
    asked: list[tuple[SmtpConfig, Scope, TestMail]] = field(default_factory=list)
    before: Any = None

    async def verify(self, config: SmtpConfig, scope: Scope, mail: TestMail) -> Verification:
        self.asked.append((config, scope, mail))
        if self.before is not None:
            await self.before()
        return self.answer


@dataclass
class FakeProber:
    """The same for checks."""

    asked: list[tuple[SmtpConfig, Scope, str | None]] = field(default_factory=list)

    async def probe(self, config: SmtpConfig, asker: Scope, *, recipient: str | None) -> Mapping[str, Any]:
        self.asked.append((config, asker, recipient))
        return {"stages": [{"name": "dns", "ok": True}]}


@dataclass
class FakeExplainer:
    """Says whose question it was."""

    async def explain(self, scope: Scope, asker: Scope) -> Mapping[str, Any]:
        return {"scope": str(scope), "asker": str(asker)}


@dataclass
class Nudges:
    """Counts nudges."""

    count: int = 0

    def nudge(self) -> None:
        self.count += 1


@dataclass
class Site:
    """The SMTP endpoints as an application puts them together."""

    people: PeopleStore
    store: ConfigStore
    environment: SmtpConfig | None
    path: Path
    verifier: FakeVerifier = field(default_factory=FakeVerifier)
    prober: FakeProber = field(default_factory=FakeProber)
    broadcast: Nudges = field(default_factory=Nudges)
    clock: list[float] = field(default_factory=lambda: [0.0])
    rate: Rate = field(default_factory=lambda: Rate(1000, 0.01))
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    clients: dict[tuple[Scope, Role], httpx.AsyncClient] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self.application = self.make_application()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    def with_keys(self, *keys: str) -> None:
        """From now on the process has these keys for secrets."""
        self.store = ConfigStore(self.people.database, SecretBox(keys))
        self.application = self.make_application()
        self.clients.clear()

    def make_application(self) -> Any:
        gate = Gate(self.people)
        source = ControllerFromEnvironment(self.store, self.environment) if self.environment else self.store
        self.turns = Turns(Throttle(self.rate, clock=lambda: self.clock[0]))
        return make_application(
            [
                email_config_router(gate, self.store, self.environment, self.broadcast),
                smtp_configs_router(gate, self.store, self.environment, self.broadcast, FakeExplainer()),
                trials_router(
                    gate,
                    self.store,
                    source,
                    self.verifier,
                    self.prober,
                    environment=self.environment,
                    turns=self.turns,
                ),
                secrets_router(gate, self.store, self.broadcast),
            ]
        )

    async def client(self, scope: Scope, role: Role = Role.ADMIN) -> httpx.AsyncClient:
        """A client with a token of that scope and role."""
        if (scope, role) not in self.clients:
            name = f"{role}-{scope.level}"
            _, value = await self.people.create_token(name, scope, role, TESTS, expires_at=None)
            transport = httpx.ASGITransport(self.application, client=("192.0.2.1", 4711))
            made = httpx.AsyncClient(
                transport=transport, base_url="http://postbote", headers={"Authorization": f"Bearer {value}"}
            )
            self.clients[scope, role] = await self.stack.enter_async_context(made)
        return self.clients[scope, role]

    async def ask(
        self, scope: Scope, method: str, path: str, body: Any = None, *, role: Role = Role.ADMIN, **headers: str
    ) -> httpx.Response:
        """One request; names of headers have _ for -."""
        client = await self.client(scope, role)
        spelled = {name.replace("_", "-"): value for name, value in headers.items()}
        content: dict[str, Any] = {} if body is None else {"json": body}
        return await client.request(method, path, headers=spelled, **content)


def paths(answer: httpx.Response) -> list[str]:
    """Which fields an error answer names."""
    return [error["path"] for error in answer.json().get("errors", [])]
