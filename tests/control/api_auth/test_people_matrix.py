"""Every endpoint of people and organizations x every role and scope."""

from typing import Any

import pytest

from schemas.smtp_config import CONTROLLER
from tests.control.api_auth.conftest import Town
from tests.control.api_auth.people import ACME, DEV, GLOBEX, LAB, OPS, PASSWORD, TESTS
from worker.control.principals import Role

PRINCIPALS = {
    "controller admin": (CONTROLLER, Role.ADMIN),
    "controller viewer": (CONTROLLER, Role.VIEWER),
    "partner admin": (ACME, Role.ADMIN),
    "partner viewer": (ACME, Role.VIEWER),
    "org admin": (DEV, Role.ADMIN),
    "org viewer": (DEV, Role.VIEWER),
    "sister org's admin": (OPS, Role.ADMIN),
    "other partner's admin": (GLOBEX, Role.ADMIN),
    "other partner's viewer": (GLOBEX, Role.VIEWER),
    "other org's admin": (LAB, Role.ADMIN),
}
NEW = {"email": "new{n}@x.example"}
FIRST = {"email": "first{n}@x.example"}
ORG = {"name": "org{n}", "admin": FIRST}
TOKEN = {"name": "t"}

# In the order of the principals above; without one it is always 401.
CELLS = [
    # method, path and body                                       C    c    P    p    O    o    S    X    x    L
    ("GET", "/auth/me", None, "200 200 200 200 200 200 200 200 200 200"),
    ("GET", "/v1/users", None, "200 200 200 200 200 200 200 200 200 200"),
    ("GET", "/v1/users?partner=acme", None, "200 200 200 200 404 404 404 404 404 404"),
    ("GET", "/v1/users?partner=acme&org=dev", None, "200 200 200 200 200 200 404 404 404 404"),
    ("GET", "/v1/users?org=dev", None, "422 422 200 200 200 200 404 404 404 404"),
    ("GET", "/v1/users?org=nowhere", None, "422 422 404 404 404 404 404 404 404 404"),
    ("GET", "/v1/users?partner=nobody&org=dev", None, "404 404 404 404 404 404 404 404 404 404"),
    ("POST", "/v1/users", NEW, "201 403 201 403 201 403 201 201 403 201"),
    ("POST", "/v1/users?partner=acme&org=dev", NEW, "201 403 201 403 201 403 404 404 403 404"),
    ("POST", "/v1/users?partner=acme", NEW, "201 403 201 403 404 403 404 404 403 404"),
    ("PATCH", "/v1/users/{dev}", {"role": "viewer"}, "404 403 404 403 200 403 404 404 403 404"),
    ("PATCH", "/v1/users/{dev}?partner=acme&org=dev", {"role": "viewer"}, "200 403 200 403 200 403 404 404 403 404"),
    ("PATCH", "/v1/users/{dev}", {"email": "n{n}@x.example"}, "404 403 404 403 202 403 404 404 403 404"),
    ("PATCH", "/v1/users/nobody", {"role": "viewer"}, "404 403 404 403 404 403 404 404 403 404"),
    ("DELETE", "/v1/users/{dev}", None, "404 403 404 403 204 403 404 404 403 404"),
    ("DELETE", "/v1/users/{dev}?partner=acme&org=dev", None, "204 403 204 403 204 403 404 404 403 404"),
    ("GET", "/v1/tokens", None, "200 403 200 403 200 403 200 200 403 200"),
    ("GET", "/v1/tokens?partner=acme&org=dev", None, "200 403 200 403 200 403 404 404 403 404"),
    ("POST", "/v1/tokens", TOKEN, "201 403 201 403 201 403 201 201 403 201"),
    ("POST", "/v1/tokens?partner=acme&org=dev", TOKEN, "201 403 201 403 201 403 404 404 403 404"),
    ("DELETE", "/v1/tokens/{token}", None, "404 403 404 403 204 403 404 404 403 404"),
    ("DELETE", "/v1/tokens/{token}?partner=acme&org=dev", None, "204 403 204 403 204 403 404 404 403 404"),
    ("GET", "/v1/partners", None, "200 200 404 404 404 404 404 404 404 404"),
    ("POST", "/v1/partners", {"name": "p{n}"}, "201 403 404 404 404 404 404 404 404 404"),
    ("GET", "/v1/organizations", None, "200 200 200 200 200 200 200 200 200 200"),
    ("GET", "/v1/organizations?partner=acme", None, "200 200 200 200 404 404 404 404 404 404"),
    ("GET", "/v1/organizations/dev", None, "422 422 200 200 200 200 404 404 404 404"),
    ("GET", "/v1/organizations/dev?partner=acme", None, "200 200 200 200 200 200 404 404 404 404"),
    ("POST", "/v1/organizations", ORG, "422 403 201 403 404 404 404 201 403 404"),
    ("POST", "/v1/organizations", {**ORG, "partner": "acme"}, "201 403 422 403 404 404 404 422 403 404"),
    ("PATCH", "/v1/organizations/dev", {"smtp_enabled": True}, "422 403 200 403 404 404 404 404 403 404"),
    ("PATCH", "/v1/organizations/dev?partner=acme", {"smtp_enabled": True}, "200 403 200 403 404 404 404 404 403 404"),
    ("GET", "/v1/unknown", None, "404 404 404 404 404 404 404 404 404 404"),
]


@pytest.fixture
async def stocked(town: Town) -> Town:
    for scope in (CONTROLLER, ACME, GLOBEX):
        town.working(scope)
    await town.user("standing@dev.example", DEV, Role.ADMIN, PASSWORD)  # so that no target is the last admin
    return town


def filled(what: Any, values: dict[str, str]) -> Any:
    if isinstance(what, dict):
        return {key: filled(value, values) for key, value in what.items()}
    return what.format(**values) if isinstance(what, str) else what


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"), CELLS, ids=[f"{c[0]} {c[1]} {list(c[2] or [])}" for c in CELLS]
)
async def test_who_may_do_what(stocked: Town, method, path, body, expected) -> None:
    seen = {}
    for number, (who, (scope, role)) in enumerate(PRINCIPALS.items()):
        values = {
            "n": str(number),
            "dev": await stocked.user(f"target{number}@dev.example", DEV, Role.ADMIN, PASSWORD),
            "token": (await stocked.people.create_token("target", DEV, Role.VIEWER, TESTS, expires_at=None))[0].id,
        }
        async with stocked.client(await stocked.token(scope, role)) as client:
            answer = await client.request(method, path.format(**values), json=filled(body, values))
        seen[who] = answer.status_code
    assert seen == dict(zip(PRINCIPALS, map(int, expected.split()), strict=True))
    async with stocked.client() as client:
        nobody = await client.request(method, path.format(**values), json=filled(body, values))
    assert nobody.status_code == (404 if "unknown" in path else 401)


def test_each_endpoint_that_asks_for_a_principal_has_its_row() -> None:
    described = Town.application(EMPTY).openapi()["paths"]
    guarded = {
        (method.upper(), path) for path, each in described.items() for method, o in each.items() if "security" in o
    }
    names = {"{dev}": "{user_id}", "{token}": "{token_id}", "/organizations/dev": "/organizations/{name}"}
    rows = set()
    for method, path, _, _ in CELLS:
        plain = path.partition("?")[0]
        for ours, theirs in names.items():
            plain = plain.replace(ours, theirs)
        rows.add((method, plain))
    # A password is the asker's own whatever the scope: test_login.
    assert guarded - rows == {("POST", "/auth/password")}


EMPTY: Any = Town(people=None, passwords=None)  # type: ignore[arg-type] # describes itself, nothing is called


PAIRS = [
    # what is another tenant's, and what is not there at all
    ("GET", "/v1/users?org=ops", "/v1/users?org=nowhere"),
    ("GET", "/v1/users?partner=globex", "/v1/users?partner=nobody"),
    ("GET", "/v1/users?partner=globex&org=lab", "/v1/users?partner=globex&org=nowhere"),
    ("POST", "/v1/users?org=ops", "/v1/users?org=nowhere"),
    ("PATCH", "/v1/users/{ops}", "/v1/users/00000000-0000-0000-0000-000000000000"),
    ("DELETE", "/v1/users/{ops}", "/v1/users/00000000-0000-0000-0000-000000000000"),
    ("DELETE", "/v1/tokens/{token}", "/v1/tokens/00000000-0000-0000-0000-000000000000"),
    ("GET", "/v1/organizations/ops", "/v1/organizations/nowhere"),
    ("PATCH", "/v1/organizations/ops", "/v1/unknown"),
    ("GET", "/v1/partners", "/v1/unknown"),
    ("POST", "/v1/partners", "/v1/unknown"),
    ("GET", "/v1/users?org=%00", "/v1/users?org=nowhere"),
    ("GET", "/v1/users?org=", "/v1/users?org=nowhere"),
    ("GET", "/v1/users?partner=", "/v1/users?partner=nobody"),
    ("GET", "/v1/users?partner=&org=dev", "/v1/users?partner=nobody&org=dev"),
    ("DELETE", "/v1/users/%00", "/v1/users/nobody"),
    ("DELETE", "/v1/tokens/%00", "/v1/tokens/nobody"),
    ("GET", "/v1/organizations/%00", "/v1/organizations/nowhere"),
]


@pytest.mark.parametrize(("method", "theirs", "nothing"), PAIRS, ids=[f"{p[0]} {p[1]}" for p in PAIRS])
async def test_what_is_anothers_looks_like_what_is_not_there(stocked: Town, method, theirs, nothing) -> None:
    ids = {
        "ops": await stocked.user("target@ops.example", OPS, Role.VIEWER, PASSWORD),
        "token": (await stocked.people.create_token("target", OPS, Role.VIEWER, TESTS, expires_at=None))[0].id,
    }
    async with stocked.client(await stocked.token(DEV)) as client:
        answers = [await client.request(method, path.format(**ids), json={}) for path in (theirs, nothing)]
    assert [a.status_code for a in answers] == [404, 404]
    assert answers[0].content == answers[1].content
    assert answers[0].headers == answers[1].headers
