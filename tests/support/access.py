"""Ways into the API for tests: tokens made in the store that the process under test reads."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from schemas.smtp_config import CONTROLLER, Scope
from tests.support.databases import upgraded
from worker.control.principals import Actor, Kind, Role
from worker.store.database import Store
from worker.store.people import PeopleStore

TESTS = Actor(Kind.COMMAND, "tests", CONTROLLER)


def token_for(database_url: str, scope: str = "controller", role: Role = Role.ADMIN) -> str:
    """A bearer token of that scope and role; a SQLite file is made where there is none."""

    async def make() -> str:
        database = Store(database_url)
        try:
            if database.is_sqlite:
                await upgraded(database)
            people = PeopleStore(database)
            _, value = await people.create_token("tests", Scope.parse(scope), role, TESTS, expires_at=None)
            return value
        finally:
            await database.close()

    return asyncio.run(make())


def bearer(token: str) -> dict[str, str]:
    """The header that carries it."""
    return {"Authorization": f"Bearer {token}"}


def request(
    method: str, url: str, token: str | None = None, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any, Mapping[str, str]]:
    """Ask, and return status, JSON body (None where there is none) and headers; an error's status is an answer, too."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {**(bearer(token) if token else {}), **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, _json(answer.read()), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _json(error.read()), error.headers


def _json(body: bytes) -> Any:
    return json.loads(body) if body else None
