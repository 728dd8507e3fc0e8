"""/v1/smtp-configs: named records, conditional changes, history, order, and who may ask about whom."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from schemas.smtp_config import CONTROLLER, Scope
from tests.control.api_smtp.site import (
    ACME,
    CONFIGS,
    DEV,
    GLOBEX,
    LAB,
    OTHER_PASSWORD,
    PASSWORD,
    SECRETS,
    Site,
    native,
    paths,
)


async def names_of(site: Site, scope: Scope = ACME) -> list[tuple[str, bool, int | None]]:
    listed = (await site.ask(scope, "GET", CONFIGS)).json()["smtp_configs"]
    return [(each["display_name"], each["is_default"], each["fallback"]) for each in listed]


async def test_a_record_is_made_and_its_place_is_told(site: Site) -> None:
    answer = await site.ask(ACME, "POST", CONFIGS, native(display_name="Relay for ümläute & co"))
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{CONFIGS}/{quote('Relay for ümläute & co', safe='')}"
    assert answer.headers["etag"] == '"1"'
    shown = answer.json()
    assert (shown["password_set"], shown["secret"], shown["read_only"]) == (True, None, False)
    found = await site.ask(ACME, "GET", answer.headers["location"])
    assert (found.status_code, found.json(), found.headers["etag"]) == (200, shown, '"1"')
    assert site.broadcast.count == 1


async def test_a_name_is_taken_once_in_its_scope(site: Site) -> None:
    for scope in (CONTROLLER, ACME, DEV, LAB):
        assert (await site.ask(scope, "POST", CONFIGS, native(display_name="relay"))).status_code == 201
    answer = await site.ask(ACME, "POST", CONFIGS, native(display_name="relay", host="other.example"))
    assert (answer.status_code, paths(answer)) == (409, ["display_name"])
    assert (await site.ask(ACME, "GET", f"{CONFIGS}/relay")).json()["host"] == "smtp.example.com"


async def test_a_name_that_is_taken_is_said_where_it_was_written(site: Site) -> None:
    body = {"email_config": {"smtp_config": {"display_name": "relay", "host": "h", "port": 25, "use_tls": False}}}
    await site.ask(ACME, "POST", CONFIGS, body)
    answer = await site.ask(ACME, "POST", CONFIGS, body)
    assert (answer.status_code, paths(answer)) == (409, ["email_config.smtp_config.display_name"])


@pytest.mark.parametrize("name", ["check", "effective", "order", "a/b", "..", "tab\there", " x", ""])
async def test_a_name_that_cannot_stand_in_a_path_is_refused(site: Site, name: str) -> None:
    answer = await site.ask(ACME, "POST", CONFIGS, {**native(), "display_name": name})
    if name == "":  # like none: the record is called default
        assert answer.json()["display_name"] == "default"
        return
    assert (answer.status_code, paths(answer)) == (422, ["display_name"])
    assert await names_of(site) == []


async def test_put_replaces_the_whole_record(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIGS, native(display_name="relay", reply_to="a@example.com", retries=9))
    answer = await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(password=None, retries=1), if_match='"1"')
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == '"2"'
    shown = answer.json()
    assert (shown["retries"], shown["reply_to"], shown["password_set"]) == (1, None, True)


async def test_put_makes_what_is_not_there(site: Site) -> None:
    answer = await site.ask(ACME, "PUT", f"{CONFIGS}/new%20one", native(), if_none_match="*")
    assert (answer.status_code, answer.headers["location"]) == (201, f"{CONFIGS}/new%20one")
    again = await site.ask(ACME, "PUT", f"{CONFIGS}/new%20one", native(), if_none_match="*")
    assert (again.status_code, again.headers["etag"], paths(again)) == (412, '"1"', ["If-None-Match"])
    reserved = await site.ask(ACME, "PUT", f"{CONFIGS}/check", native())
    assert (reserved.status_code, paths(reserved)) == (422, ["display_name"])


async def test_a_record_keeps_its_name(site: Site) -> None:
    await site.ask(ACME, "POST", CONFIGS, native(display_name="relay"))
    answer = await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(display_name="other"))
    assert (answer.status_code, paths(answer)) == (422, ["display_name"])
    same = await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(display_name="relay"))
    assert same.status_code == 200


CONDITIONS = [
    # version 2 is there
    ("no condition", {}, 200),
    ("the version that is there", {"if_match": '"2"'}, 200),
    ("any version", {"if_match": "*"}, 200),
    ("one of a list", {"if_match": '"1", "2"'}, 200),
    ("the version before", {"if_match": '"1"'}, 412),
    ("a version to come", {"if_match": '"3"'}, 412),
    ("a weak tag, which is none for a change", {"if_match": 'W/"2"'}, 412),
    ("nonsense", {"if_match": "2"}, 412),
    ("none may be there", {"if_none_match": "*"}, 412),
    ("another version than this", {"if_none_match": '"2"'}, 412),
    ("another version than the one before", {"if_none_match": '"1"'}, 200),
]


@pytest.mark.parametrize(("headers", "status"), [row[1:] for row in CONDITIONS], ids=[row[0] for row in CONDITIONS])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "rollback"])
async def test_conditions_hold_for_every_change(site: Site, method: str, headers: dict[str, str], status: int) -> None:
    for retries in (1, 2):
        await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(retries=retries))
    asked = {
        "PUT": ("PUT", f"{CONFIGS}/relay", native(retries=3)),
        "DELETE": ("DELETE", f"{CONFIGS}/relay", None),
        "rollback": ("POST", f"{CONFIGS}/relay/rollback", {"version": 1}),
    }[method]
    answer = await site.ask(ACME, *asked, **headers)
    assert answer.status_code == status, answer.text
    if status == 412:
        assert answer.headers["etag"] == '"2"'
        assert (await site.ask(ACME, "GET", f"{CONFIGS}/relay")).json()["retries"] == 2
    assert site.broadcast.count == (2 if status == 412 else 3)


async def test_if_match_wants_a_record_to_be_there(site: Site) -> None:
    for header in ("*", '"1"'):
        answer = await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(), if_match=header)
        assert (answer.status_code, "etag" in answer.headers) == (412, False)
    assert await names_of(site) == []


async def test_of_two_writers_who_read_the_same_version_one_is_told(site: Site) -> None:
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native())
    writes = [site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(retries=n), if_match='"1"') for n in range(5)]
    statuses = sorted([answer.status_code for answer in await asyncio.gather(*writes)])
    assert statuses == [200, 412, 412, 412, 412]


async def test_history_says_who_and_what_and_no_secret(site: Site) -> None:
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native())
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(retries=7, password=OTHER_PASSWORD))
    await site.ask(ACME, "DELETE", f"{CONFIGS}/relay")
    answer = await site.ask(ACME, "GET", f"{CONFIGS}/relay/history")
    versions = answer.json()["versions"]
    assert [(each["version"], each["action"]) for each in versions] == [(2, "deleted"), (2, "updated"), (1, "created")]
    assert set(versions[1]["changed"]) == {"retries", "password"}
    assert versions[0]["actor"] == {"kind": "token", "name": "admin-partner", "scope": "partner:acme"}
    assert PASSWORD not in answer.text
    assert OTHER_PASSWORD not in answer.text


async def test_a_version_comes_back(site: Site) -> None:
    for retries in (1, 2):
        await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(retries=retries))
    answer = await site.ask(ACME, "POST", f"{CONFIGS}/relay/rollback", {"version": 1})
    assert (answer.status_code, answer.headers["etag"], answer.json()["retries"]) == (200, '"3"', 1)
    missing = await site.ask(ACME, "POST", f"{CONFIGS}/relay/rollback", {"version": 99})
    assert (missing.status_code, paths(missing)) == (422, ["version"])
    unknown = await site.ask(ACME, "POST", f"{CONFIGS}/other/rollback", {"version": 1})
    assert unknown.status_code == 404


async def test_a_password_does_not_come_back_to_another_server(site: Site) -> None:
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native())
    await site.ask(ACME, "PUT", f"{CONFIGS}/relay", native(host="new.example.com", password=OTHER_PASSWORD))
    answer = await site.ask(ACME, "POST", f"{CONFIGS}/relay/rollback", {"version": 1})
    assert (answer.status_code, paths(answer)) == (422, ["password"])


async def test_the_order_says_who_sends(site: Site) -> None:
    for name in ("a", "b", "c"):
        await site.ask(ACME, "POST", CONFIGS, native(display_name=name))
    assert await names_of(site) == [("a", True, None), ("b", False, None), ("c", False, None)]
    answer = await site.ask(ACME, "PUT", f"{CONFIGS}/order", {"names": ["c", "a"]})
    assert answer.status_code == 200
    expected = [("c", True, None), ("a", False, 1), ("b", False, None)]
    assert [(e["display_name"], e["is_default"], e["fallback"]) for e in answer.json()["smtp_configs"]] == expected
    assert await names_of(site) == expected


@pytest.mark.parametrize("names", [[], ["a", "a"], ["nope"], "a", [""], ["a\0"], [1]], ids=str)
async def test_an_order_of_what_is_not_there_is_refused(site: Site, names: Any) -> None:
    await site.ask(ACME, "POST", CONFIGS, native(display_name="a"))
    answer = await site.ask(ACME, "PUT", f"{CONFIGS}/order", {"names": names})
    assert answer.status_code == 422
    assert all(path.startswith("names") for path in paths(answer))


async def test_a_named_secret_is_shown_by_its_name(site: Site) -> None:
    await site.ask(ACME, "POST", SECRETS, {"name": "relay-password", "value": PASSWORD})
    body = native(display_name="relay", password=None, secret="relay-password")
    made = await site.ask(ACME, "POST", CONFIGS, body)
    assert (made.status_code, made.json()["secret"]) == (201, "relay-password")
    config = await site.store.opened(ACME, "relay")
    assert config is not None
    assert config.password is not None
    assert config.password.get_secret_value() == PASSWORD


async def test_a_partners_secret_is_an_orgs_only_where_it_is_shared(site: Site) -> None:
    await site.ask(ACME, "POST", SECRETS, {"name": "own", "value": PASSWORD})
    await site.ask(ACME, "POST", SECRETS, {"name": "lent", "value": PASSWORD, "shared": True})
    own, lent, none = [
        await site.ask(DEV, "PUT", f"{CONFIGS}/relay", native(password=None, secret=name))
        for name in ("own", "lent", "nope")
    ]
    assert (own.status_code, paths(own)) == (422, ["secret"])
    assert own.text.replace("own", "nope") == none.text, "not yours and not there are no different"
    assert lent.status_code == 201
    other = await site.ask(LAB, "PUT", f"{CONFIGS}/relay", native(password=None, secret="lent"))
    assert other.status_code == 422


async def test_a_reference_is_the_controllers(site: Site) -> None:
    body = native(password=None, password_ref="env:RELAY_PASSWORD")
    made = await site.ask(CONTROLLER, "PUT", f"{CONFIGS}/relay", body)
    assert (made.status_code, made.json()["reference"]) == (201, "env:RELAY_PASSWORD")
    again = await site.ask(CONTROLLER, "PUT", f"{CONFIGS}/relay", made.json() | {"retries": 1})
    assert (again.status_code, again.json()["reference"]) == (200, "env:RELAY_PASSWORD")


EFFECTIVE = [
    (ACME, "", 200, "partner:acme"),
    (ACME, "?org=dev", 200, "org:acme/dev"),
    (ACME, "?org=ops", 200, "org:acme/ops"),
    (ACME, "?org=nope", 404, None),
    (ACME, "?partner=globex&org=lab", 404, None),
    (ACME, "?partner=globex", 404, None),
    (DEV, "?org=dev", 200, "org:acme/dev"),
    (DEV, "?org=ops", 404, None),
    (CONTROLLER, "?partner=globex&org=lab", 200, "org:globex/lab"),
    (CONTROLLER, "?partner=nope", 404, None),
    (CONTROLLER, "?org=lab", 422, None),
]


@pytest.mark.parametrize(("asker", "query", "status", "scope"), EFFECTIVE, ids=[f"{r[0]} {r[1]}" for r in EFFECTIVE])
async def test_who_may_ask_whose_record_applies(
    site: Site, asker: Scope, query: str, status: int, scope: str | None
) -> None:
    answer = await site.ask(asker, "GET", f"{CONFIGS}/effective{query}")
    assert answer.status_code == status, answer.text
    if scope is not None:
        assert answer.json() == {"scope": scope, "asker": str(asker)}


async def test_no_scope_reaches_anothers_records(site: Site) -> None:
    for scope in (CONTROLLER, ACME, DEV, LAB):
        await site.ask(scope, "PUT", f"{CONFIGS}/of-{scope.level}", native())
    reaching = [
        (asker, owner) for asker in (CONTROLLER, ACME, DEV, LAB, GLOBEX) for owner in ("controller", "partner", "org")
    ]
    for asker, owner in reaching:
        own = str(asker.level) == owner and asker != GLOBEX
        path = f"{CONFIGS}/of-{owner}"
        statuses = [
            (await site.ask(asker, "GET", path)).status_code,
            (await site.ask(asker, "GET", f"{path}/history")).status_code,
        ]
        assert statuses == ([200, 200] if own else [404, 404]), (asker, owner)
    missing = await site.ask(GLOBEX, "DELETE", f"{CONFIGS}/of-partner")
    nothing = await site.ask(GLOBEX, "DELETE", f"{CONFIGS}/of-nobody")
    assert (missing.status_code, missing.content) == (404, nothing.content)
    assert len(await site.store.records(ACME)) == 1


@pytest.mark.parametrize("name", ["a%00b", "%0d%0a", "%ff", "x" * 3000, "%2e%2e", "a%2Fb"])
async def test_what_can_be_no_name_is_not_there(site: Site, name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/history")):
        assert (await site.ask(ACME, method, f"{CONFIGS}/{name}{path}")).status_code == 404
