"""Inviting, changing and disabling users, and the mails that go with it."""

import pytest

from schemas.cloudevents import parse_event
from tests.control.api_auth.conftest import PUBLIC_URL, Town
from tests.control.api_auth.people import ACME, DEV, OTHER_PASSWORD, PASSWORD
from worker.control.principals import Role
from worker.store.outgoing import OutgoingKind, OutgoingShelf

NEW = {"email": "Grace@Dev.example", "name": "Grace", "role": "admin"}


def link_in(event: dict) -> str:
    data = event["data"]
    url = data.get("accept_url") or data.get("activation_url") or data["confirm_url"]
    assert url.startswith(PUBLIC_URL + "/auth/links/")
    return url.removeprefix(PUBLIC_URL)


async def test_an_invited_user_gets_a_mail_sets_a_password_and_comes_in(town: Town, dev) -> None:
    town.working(ACME)
    answer = await dev.post("/v1/users", json=NEW)
    assert answer.status_code == 201
    shown = answer.json()
    assert {k: shown[k] for k in ("email", "name", "scope", "role", "state")} == {
        "email": "grace@dev.example",
        "name": "Grace",
        "scope": "org:acme/dev",
        "role": "admin",
        "state": "invited",
    }
    [event] = await town.mails()
    assert event["type"] == "tenant.invited.v1"
    assert event["data"]["scope"] == {"partner": "acme", "org": "dev"}
    async with town.client() as client:
        path = link_in(event)
        looked = await client.get(path)
        assert (looked.json()["purpose"], looked.json()["email"]) == ("set_password", "grace@dev.example")
        used = await client.post(path, json={"password": PASSWORD})
        assert (used.status_code, used.json()) == (200, {"purpose": "set_password", "email": "grace@dev.example"})
        came_in = await client.post("/auth/login", json={"email": "grace@dev.example", "password": PASSWORD})
        assert came_in.status_code == 200
        again = await client.post(path, json={"password": OTHER_PASSWORD})
        assert (again.status_code, (await client.get(path)).status_code) == (404, 404)
    assert town.nudges


@pytest.mark.parametrize(
    ("name", "record", "path", "words"),
    [
        ("no record applies", None, "smtp_config", "no SMTP record applies"),
        ("it names no sender", {"from_address": None}, "smtp_config.from_address", "set its from_address"),
    ],
)
async def test_without_a_working_record_nobody_is_invited_and_no_address_changes(
    town: Town, dev, name, record, path, words
) -> None:
    user_id = await town.user("ada@dev.example", DEV, Role.VIEWER, PASSWORD)
    if record is not None:
        town.working(ACME, **record)
    before = await town.people.users(DEV)
    invited = await dev.post("/v1/users", json=NEW)
    changed = await dev.patch(f"/v1/users/{user_id}", json={"email": "lovelace@dev.example"})
    for answer in (invited, changed):
        assert answer.status_code == 409
        assert [e["path"] for e in answer.json()["errors"]] == [path]
        assert words in answer.json()["detail"]
    assert await town.people.users(DEV) == before
    assert await town.mails() == []


async def test_an_orgs_own_record_does_not_count_while_its_feature_is_off(town: Town, dev) -> None:
    town.working(DEV)
    town.configs.org_enabled = False
    assert (await dev.post("/v1/users", json=NEW)).status_code == 409
    town.configs.org_enabled = True
    assert (await dev.post("/v1/users", json=NEW)).status_code == 201


async def test_an_address_that_is_taken_is_a_409_at_its_field(town: Town, dev) -> None:
    town.working(ACME)
    assert (await dev.post("/v1/users", json=NEW)).status_code == 201
    again = await dev.post("/v1/users", json={"email": "GRACE@dev.example"})
    assert (again.status_code, again.json()["errors"][0]["path"]) == (409, "email")
    assert len(await town.mails()) == 1


async def test_a_new_address_counts_once_it_is_confirmed(town: Town, dev) -> None:
    town.working(ACME)
    user_id = await town.user("ada@dev.example", DEV, Role.VIEWER, PASSWORD)
    answer = await dev.patch(f"/v1/users/{user_id}", json={"email": "lovelace@dev.example"})
    assert answer.status_code == 202
    assert answer.json() == {"id": user_id, "email": "ada@dev.example", "requested_email": "lovelace@dev.example"}
    old, new = await town.mails()
    assert [e["data"]["to"][0]["email"] for e in (old, new)] == ["ada@dev.example", "lovelace@dev.example"]
    assert "confirm_url" not in old["data"]
    async with town.client() as client:
        login = {"email": "lovelace@dev.example", "password": PASSWORD}
        assert (await client.post("/auth/login", json=login)).status_code == 401
        path = link_in(new)
        assert (await client.get(path)).json()["email"] == "lovelace@dev.example"
        assert (await client.post(path, json={"password": OTHER_PASSWORD})).status_code == 422
        assert (await client.post(path, json={})).json() == {
            "purpose": "confirm_email",
            "email": "lovelace@dev.example",
        }
        assert (await client.post("/auth/login", json=login)).status_code == 200


async def test_every_mail_of_the_control_plane_is_an_event_that_can_be_mailed(town: Town, dev) -> None:
    town.working(ACME)
    await dev.post("/v1/users", json={"email": "grace@dev.example", "name": "Grace, “Amazing” <x@y>"})
    user_id = await town.user("ada@dev.example", DEV, Role.VIEWER, PASSWORD)
    await dev.patch(f"/v1/users/{user_id}", json={"email": "lovelace@dev.example"})
    bodies = [e.body for e in await OutgoingShelf(town.people.database).oldest(99) if e.kind is OutgoingKind.EVENT]
    events = [parse_event(body, "application/cloudevents+json", {}) for body in bodies]
    assert [e.envelope.type for e in events] == ["tenant.invited.v1"] + ["admin.email_changed.v1"] * 2


@pytest.mark.parametrize(
    ("name", "body", "path"),
    [
        ("nothing", {}, "body"),
        ("an unknown field", {"rôle": "admin"}, "rôle"),
        ("an unknown role", {"role": "root"}, "role"),
        ("back to invited", {"state": "invited"}, "state"),
        ("an address with something else", {"email": "a@b.example", "role": "admin"}, "body"),
        ("no address", {"email": "nonsense"}, "email"),
    ],
)
async def test_a_change_that_cannot_be_names_its_field(town: Town, dev, name, body, path) -> None:
    user_id = await town.user("ada@dev.example", DEV, Role.VIEWER, PASSWORD)
    answer = await dev.patch(f"/v1/users/{user_id}", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == path


async def test_role_and_state_change_at_once(town: Town, dev) -> None:
    user_id = await town.user("ada@dev.example", DEV, Role.VIEWER, PASSWORD)
    await town.user("bob@dev.example", DEV, Role.ADMIN, PASSWORD)  # else she would be the last one
    changed = await dev.patch(f"/v1/users/{user_id}", json={"role": "admin", "state": "disabled"})
    assert (changed.json()["role"], changed.json()["state"]) == ("admin", "disabled")
    back = await dev.patch(f"/v1/users/{user_id}", json={"state": "active"})
    assert back.json()["state"] == "active"
    assert (await dev.delete(f"/v1/users/{user_id}")).status_code == 204
    listed = {u["email"]: u["state"] for u in (await dev.get("/v1/users")).json()["users"]}
    assert listed["ada@dev.example"] == "disabled"


async def test_a_scopes_last_admin_stays(town: Town, dev) -> None:
    user_id = await town.user("ada@dev.example", DEV, Role.ADMIN, PASSWORD)
    for answer in (
        await dev.delete(f"/v1/users/{user_id}"),
        await dev.patch(f"/v1/users/{user_id}", json={"role": "viewer"}),
    ):
        assert answer.status_code == 422
        assert "last active admin" in answer.json()["detail"]


async def test_links_are_throttled_by_client_and_tell_nothing_of_those_that_are_none(town: Town) -> None:
    async with town.client() as client:
        answers = [await client.get("/auth/links/nonsense") for _ in range(31)]
        unknown = await client.get("/v1/unknown")
    assert [a.status_code for a in answers] == [404] * 30 + [429]
    assert answers[0].content == unknown.content
    assert answers[0].headers["referrer-policy"] == "no-referrer"
    assert answers[0].headers["cache-control"] == "no-store"


async def test_a_link_that_sets_a_password_needs_one_that_can_be(town: Town, dev) -> None:
    town.working(ACME)
    await dev.post("/v1/users", json=NEW)
    path = link_in((await town.mails())[0])
    async with town.client() as client:
        for body, field in (({}, "password"), ({"password": "brief"}, "password"), ({"pass": PASSWORD}, "pass")):
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, field)
        assert (await client.post(path, json={"password": PASSWORD})).status_code == 200
