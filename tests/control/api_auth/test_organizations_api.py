"""Partners, organizations with their first admin by either strategy, and tokens."""

from datetime import UTC, datetime, timedelta

import pytest

from schemas.smtp_config import CONTROLLER, Scope
from tests.control.api_auth.conftest import Town
from tests.control.api_auth.people import ACME, DEV, PASSWORD
from worker.control.principals import Role

ADMIN = {"email": "first@new.example", "name": "First"}
ORG = {"name": "new", "admin": ADMIN}
WITH_PASSWORD = {"name": "new", "admin": {**ADMIN, "password": PASSWORD}}


async def test_verify_mails_the_first_admin_a_link_that_lets_them_in(town: Town, acme) -> None:
    town.working(CONTROLLER)
    answer = await acme.post("/v1/organizations", json=ORG)
    assert answer.status_code == 201
    assert (answer.json()["partner"], answer.json()["name"], answer.json()["smtp_enabled"]) == ("acme", "new", False)
    [event] = await town.mails()
    assert (event["type"], event["data"]["to"][0]["email"]) == ("user.registered.v1", "first@new.example")
    path = "/auth/links/" + event["data"]["activation_url"].rpartition("/")[2]
    async with town.client() as client:
        assert (await client.post(path, json={"password": PASSWORD})).status_code == 200
        came_in = await client.post("/auth/login", json={"email": ADMIN["email"], "password": PASSWORD})
    assert (came_in.json()["scope"], came_in.json()["role"]) == ("org:acme/new", "admin")


async def test_auto_takes_the_password_and_mails_nothing(town: Town, acme) -> None:
    town.strategy = "AUTO"
    async with town.client(await town.token(ACME)) as partner:
        answer = await partner.post("/v1/organizations", json={**WITH_PASSWORD, "smtp_enabled": True})
        assert answer.status_code == 201
        assert answer.json()["smtp_enabled"] is True
        assert PASSWORD not in answer.text
        came_in = await partner.post("/auth/login", json={"email": ADMIN["email"], "password": PASSWORD})
    assert came_in.status_code == 200
    assert await town.mails() == []


@pytest.mark.parametrize(
    ("strategy", "working", "body", "status", "path"),
    [
        pytest.param("VERIFY", True, WITH_PASSWORD, 422, "admin.password", id="VERIFY with a password"),
        pytest.param("VERIFY", False, ORG, 409, "smtp_config", id="VERIFY without a record"),
        pytest.param("AUTO", True, ORG, 422, "admin.password", id="AUTO without a password"),
        pytest.param("AUTO", True, {"name": "new", "admin": {**ADMIN, "password": "brief"}}, 422, "admin.password", id="AUTO with a short one"),
        pytest.param("VERIFY", True, {**ORG, "name": "a b"}, 422, "name", id="a name that cannot be"),
        pytest.param("VERIFY", True, {**ORG, "admin": {**ADMIN, "passwort": PASSWORD}}, 422, "admin.passwort", id="an unknown field"),
        pytest.param("VERIFY", True, {"name": "new"}, 422, "admin", id="no admin"),
        pytest.param("VERIFY", True, {**ORG, "name": "dev"}, 409, "name", id="a name that is taken"),
        pytest.param("VERIFY", True, {"name": "new", "admin": {"email": "admin@dev.example"}}, 409, "admin.email", id="an admin who is there"),
    ],
)  # fmt: skip
async def test_an_organization_that_cannot_be_made_is_not_there(
    town: Town, strategy, working, body, status, path
) -> None:
    town.strategy = strategy
    if working:
        town.working(ACME)
    before = await town.people.organizations("acme")
    async with town.client(await town.token(ACME)) as client:
        answer = await client.post("/v1/organizations", json=body)
    assert answer.status_code == status
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert PASSWORD not in answer.text
    assert await town.people.organizations("acme") == before
    assert await town.mails() == []


async def test_the_controller_makes_partners_and_their_organizations(town: Town, controller) -> None:
    town.working(CONTROLLER)
    assert (await controller.post("/v1/partners", json={"name": "initech"})).status_code == 201
    again = await controller.post("/v1/partners", json={"name": "initech"})
    assert (again.status_code, again.json()["errors"][0]["path"]) == (409, "name")
    names = [p["name"] for p in (await controller.get("/v1/partners")).json()["partners"]]
    assert names == ["acme", "globex", "initech"]
    made = await controller.post("/v1/organizations", json={**ORG, "partner": "initech"})
    assert made.status_code == 201
    missing = await controller.post("/v1/organizations", json={**ORG, "partner": "nobody"})
    assert missing.status_code == 404
    every = (await controller.get("/v1/organizations")).json()["organizations"]
    assert [(o["partner"], o["name"]) for o in every] == [
        ("acme", "dev"),
        ("acme", "ops"),
        ("globex", "lab"),
        ("initech", "new"),
    ]


async def test_each_sees_the_organizations_it_reaches(town: Town, acme, dev) -> None:
    by_partner, by_org = [(await c.get("/v1/organizations")).json()["organizations"] for c in (acme, dev)]
    assert [o["name"] for o in by_partner] == ["dev", "ops"]
    assert [o["name"] for o in by_org] == ["dev"]


async def test_an_org_learns_of_the_smtp_feature_only_while_it_is_on(town: Town, acme, dev) -> None:
    path = "/v1/organizations/dev"
    assert (await acme.get(path)).json()["smtp_enabled"] is False
    assert "smtp_enabled" not in (await dev.get(path)).json()
    switched = await acme.patch(path, json={"smtp_enabled": True})
    assert (switched.status_code, switched.json()["smtp_enabled"]) == (200, True)
    assert (await dev.get(path)).json()["smtp_enabled"] is True


async def test_a_tokens_value_is_shown_once_and_works(town: Town, dev) -> None:
    answer = await dev.post("/v1/tokens", json={"name": "ci", "role": "admin", "expires_in_days": 30})
    assert answer.status_code == 201
    made = answer.json()
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)
    async with town.client(made["token"]) as client:
        me = (await client.get("/auth/me")).json()
    assert (me["name"], me["scope"], me["role"]) == ("ci", "org:acme/dev", "admin")
    listed = await dev.get("/v1/tokens")
    assert made["id"] in {t["id"] for t in listed.json()["tokens"]}
    assert made["token"] not in listed.text
    assert (await dev.delete(f"/v1/tokens/{made['id']}")).status_code == 204
    assert (await dev.delete(f"/v1/tokens/{made['id']}")).status_code == 404
    async with town.client(made["token"]) as client:
        assert (await client.get("/auth/me")).status_code == 401


@pytest.mark.parametrize(
    ("name", "body", "path"),
    [
        ("no name", {}, "name"),
        ("a blank one", {"name": " "}, "name"),
        ("two ends", {"name": "t", "expires_in_days": 1, "expires_at": "2030-01-01T00:00:00Z"}, "body"),
        ("an end that is past", {"name": "t", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ("an end without a zone", {"name": "t", "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ("no day", {"name": "t", "expires_in_days": 0}, "expires_in_days"),
        ("days beyond the calendar", {"name": "t", "expires_in_days": 10**12}, "expires_in_days"),
        ("another scope", {"name": "t", "scope": "controller"}, "scope"),
    ],
)
async def test_a_token_that_cannot_be_names_the_field(town: Town, dev, name, body, path) -> None:
    answer = await dev.post("/v1/tokens", json=body)
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == [path]


async def test_a_token_of_a_scope_below_is_the_partners_to_make(town: Town, acme) -> None:
    answer = await acme.post("/v1/tokens?org=dev", json={"name": "t", "role": "viewer"})
    async with town.client(answer.json()["token"]) as client:
        assert (await client.get("/auth/me")).json()["scope"] == str(DEV)
    assert [t.role for t in await town.people.tokens(Scope("acme", "dev"))] == [Role.VIEWER]
