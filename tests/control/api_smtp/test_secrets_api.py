"""/v1/secrets: names come out, values never."""

from typing import Any

import pytest

from tests.control.api_smtp.site import (
    ACME,
    CONFIGS,
    DEV,
    GLOBEX,
    OTHER_PASSWORD,
    PASSWORD,
    SECRETS,
    Site,
    native,
    paths,
)


async def listed(site: Site, scope: Any = ACME) -> list[tuple[str, int, list[str]]]:
    found = (await site.ask(scope, "GET", SECRETS)).json()["secrets"]
    return [(each["name"], each["version"], each["used_by"]) for each in found]


async def test_a_secret_is_made_used_rotated_and_deleted(site: Site) -> None:
    made = await site.ask(ACME, "POST", SECRETS, {"name": "relay key", "value": PASSWORD, "shared": True})
    assert (made.status_code, made.headers["location"]) == (201, f"{SECRETS}/relay%20key")
    assert (made.json()["shared"], made.json()["version"]) == (True, 1)
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(password=None, secret="relay key"))
    assert await listed(site) == [("relay key", 1, ["relay"])]
    used = await site.ask(ACME, "DELETE", f"{SECRETS}/relay%20key")
    assert (used.status_code, paths(used)) == (409, ["name"])
    assert "relay" in used.json()["detail"]
    rotated = await site.ask(ACME, "PUT", f"{SECRETS}/relay%20key", {"value": OTHER_PASSWORD})
    assert (rotated.status_code, rotated.json()["version"]) == (200, 2)
    config = await site.store.opened(ACME, "relay")
    assert config is not None
    assert config.password is not None
    assert (config.version, config.password.get_secret_value()) == (2, OTHER_PASSWORD)
    await site.ask(ACME, "DELETE", f"{CONFIGS}/relay")
    gone = await site.ask(ACME, "DELETE", f"{SECRETS}/relay%20key")
    assert (gone.status_code, gone.json()["deleted"]["name"]) == (200, "relay key")
    assert await listed(site) == []
    assert site.broadcast.count == 5


REFUSED = [
    ({"name": "a"}, "value"),
    ({"value": "v"}, "name"),
    ({"name": "a", "value": ""}, "value"),
    ({"name": "a", "value": f"{PASSWORD}\n"}, "value"),
    ({"name": "a", "value": 7}, "value"),
    ({"name": "a/b", "value": PASSWORD}, "name"),
    ({"name": "", "value": PASSWORD}, "name"),
    ({"name": "a\r\n", "value": PASSWORD}, "name"),
    ({"name": "config:default", "value": PASSWORD}, "name"),
    ({"name": "a", "value": PASSWORD, "shard": True}, "shard"),
    ({"name": "a", "value": PASSWORD * 200}, "value"),
]


@pytest.mark.parametrize(("body", "path"), REFUSED, ids=[f"{p}-{i}" for i, (_, p) in enumerate(REFUSED)])
async def test_what_can_be_no_secret_is_named(site: Site, body: dict[str, Any], path: str) -> None:
    answer = await site.ask(ACME, "POST", SECRETS, body)
    assert (answer.status_code, paths(answer)) == (422, [path])
    assert PASSWORD not in answer.text
    assert await listed(site) == []


async def test_a_name_is_taken_once(site: Site) -> None:
    body = {"name": "relay", "value": PASSWORD}
    assert [(await site.ask(scope, "POST", SECRETS, body)).status_code for scope in (ACME, DEV, ACME)] == [
        201,
        201,
        409,
    ]


@pytest.mark.parametrize("name", ["relay", "config:relay", "nope", "a%00b"])
async def test_not_there_not_yours_and_given_with_a_record_are_one_answer(site: Site, name: str) -> None:
    await site.ask(ACME, "POST", SECRETS, {"name": "relay", "value": PASSWORD, "shared": True})
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native())
    asker = GLOBEX if name == "relay" else ACME
    nothing = await site.ask(asker, "DELETE", f"{SECRETS}/never-was")
    for scope in {asker, DEV}:
        for method, body in (("PUT", {"value": OTHER_PASSWORD}), ("DELETE", None)):
            answer = await site.ask(scope, method, f"{SECRETS}/{name}", body)
            assert (answer.status_code, answer.content) == (404, nothing.content)
    config = await site.store.opened(ACME, "relay")
    assert config is not None
    assert config.password is not None
    assert config.password.get_secret_value() == PASSWORD
