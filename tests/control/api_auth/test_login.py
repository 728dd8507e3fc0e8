"""Coming in, going out, and what login gives away: nothing."""

import asyncio
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher

from tests.control.api_auth.conftest import Town
from tests.control.api_auth.people import DEV, OTHER_PASSWORD, PASSWORD, TESTS
from worker.control.people import UserState
from worker.control.principals import Role

ADA = "ada@dev.example"


def cookie_of(answer: httpx.Response) -> Any:
    found = SimpleCookie(answer.headers["set-cookie"])
    assert list(found) == ["rsid"]
    return found["rsid"]


async def log_in(client: httpx.AsyncClient, email: str = ADA, password: str = PASSWORD, **rest: Any) -> httpx.Response:
    return await client.post("/auth/login", json={"email": email, "password": password}, **rest)


@pytest.fixture
async def ada(town: Town) -> str:
    return await town.user(ADA, DEV, Role.VIEWER, PASSWORD)


@pytest.mark.parametrize("secure", [False, True], ids=["on loopback", "off loopback"])
async def test_login_sets_the_cookie_with_its_attributes(town: Town, ada, secure: bool) -> None:
    town.secure_cookies = secure
    async with town.client() as client:
        answer = await log_in(client, "Ada@DEV.example")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["email"], body["scope"], body["role"]) == (ADA, "org:acme/dev", "viewer")
    assert set(body) == {"email", "scope", "role", "expires_at"}
    cookie = cookie_of(answer)
    assert (cookie["path"], cookie["max-age"], cookie["samesite"].lower()) == ("/", "43200", "strict")
    assert (cookie["httponly"], bool(cookie["secure"]), cookie["domain"]) == (True, secure, "")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    async with town.client() as client:
        me = await client.get("/auth/me", headers={"Cookie": f"rsid={cookie.value}"})
    assert (me.status_code, me.json()["name"]) == (200, ADA)


async def test_a_session_that_is_presented_ends_with_the_login(town: Town, ada) -> None:
    async with town.client() as client:
        first = cookie_of(await log_in(client)).value
        client.cookies.clear()
        second = cookie_of(await log_in(client, headers={"Cookie": f"rsid={first}"})).value
        client.cookies.clear()
        statuses = [
            (await client.get("/auth/me", headers={"Cookie": f"rsid={value}"})).status_code for value in (first, second)
        ]
    assert first != second
    assert statuses == [401, 200]


async def test_a_value_that_an_attacker_planted_becomes_no_session(town: Town, ada) -> None:
    async with town.client() as client:
        answer = await log_in(client, headers={"Cookie": "rsid=planted"})
        client.cookies.clear()
        assert cookie_of(answer).value != "planted"
        assert (await client.get("/auth/me", headers={"Cookie": "rsid=planted"})).status_code == 401


@pytest.fixture
async def people_who_may_not_come_in(town: Town, ada) -> dict[str, str]:
    """By what is the matter with them: address and the password that is tried."""
    gone = await town.user("gone@dev.example", DEV, Role.VIEWER, PASSWORD)
    await town.people.change_user(DEV, gone, TESTS, state=UserState.DISABLED)
    await town.user("new@dev.example", DEV, Role.VIEWER)
    return {
        "nobody": "nobody@dev.example",
        "disabled": "gone@dev.example",
        "invited": "new@dev.example",
        "no address at all": "nonsense",
        "a wrong password": ADA,
    }


async def test_whoever_may_not_come_in_gets_the_same_answer_for_the_same_work(
    town: Town, people_who_may_not_come_in
) -> None:
    seen = {}
    async with town.client() as client:
        for matter, email in people_who_may_not_come_in.items():
            before = town.passwords.verified
            password = OTHER_PASSWORD if matter == "a wrong password" else PASSWORD
            answer = await log_in(client, email, password)
            seen[matter] = (
                answer.status_code,
                answer.content,
                sorted(answer.headers.multi_items()),
                town.passwords.verified - before,
            )
    assert set(map(str, seen.values())) == {str(seen["nobody"])}, seen
    status, body, headers, runs = seen["nobody"]
    assert (status, runs) == (401, 1)
    assert b"wrong" in body
    assert "set-cookie" not in dict(headers)


async def test_whoever_may_not_come_in_is_throttled_alike(town: Town, people_who_may_not_come_in) -> None:
    seen = {}
    for number, (matter, email) in enumerate(people_who_may_not_come_in.items()):
        password = OTHER_PASSWORD if matter == "a wrong password" else PASSWORD
        async with town.client(ip=f"192.0.2.{number}") as client:
            answers = [await log_in(client, email, password) for _ in range(12)]
        seen[matter] = [(a.status_code, a.headers.get("retry-after"), a.content) for a in answers]
    assert all(each == seen["nobody"] for each in seen.values())
    assert [status for status, _, _ in seen["nobody"]] == [401] * 10 + [429] * 2
    assert seen["nobody"][-1][1] == "30"


async def test_a_throttled_try_does_no_work_and_time_lets_the_owner_in(town: Town, ada) -> None:
    async with town.client() as client:
        for _ in range(10):
            await log_in(client, password=OTHER_PASSWORD)
        before = town.passwords.verified
        refused = await log_in(client)
        assert (refused.status_code, town.passwords.verified) == (429, before)
        assert refused.headers["content-type"] == "application/problem+json"
        town.clock[0] += 30
        assert (await log_in(client)).status_code == 200
        # Coming in filled the bucket again.
        assert [(await log_in(client, password=OTHER_PASSWORD)).status_code for _ in range(10)] == [401] * 10


async def test_one_client_is_throttled_over_all_addresses(town: Town) -> None:
    async with town.client() as client:
        statuses = [(await log_in(client, f"{n}@dev.example")).status_code for n in range(31)]
    async with town.client(ip="192.0.2.99") as other:
        elsewhere = (await log_in(other, "30@dev.example")).status_code
    assert statuses == [401] * 30 + [429]
    assert elsewhere == 401


@pytest.mark.parametrize(
    ("name", "body", "status", "path"),
    [
        ("no password", {"email": ADA}, 422, "password"),
        ("an unknown field", {"email": ADA, "password": PASSWORD, "remember": True}, 422, "remember"),
        ("a password that is no text", {"email": ADA, "password": {"a": PASSWORD}}, 422, "password"),
        ("a password without end", {"email": ADA, "password": PASSWORD * 100}, 422, "password"),
        ("a control character", {"email": "a\x00@dev.example", "password": PASSWORD}, 422, "email"),
        ("a list", [PASSWORD], 422, "body"),
    ],
)
async def test_a_body_with_a_fault_names_it_and_repeats_nothing(town: Town, name, body, status, path) -> None:
    async with town.client() as client:
        answer = await client.post("/auth/login", json=body)
    assert answer.status_code == status
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert PASSWORD not in answer.text


async def test_a_body_that_nobody_needs_is_not_even_read(town: Town) -> None:
    async with town.client() as client:
        answer = await client.post("/auth/login", content=b'{"a":"' + b"x" * 16_384 + b'"}')
    assert answer.status_code == 413


async def test_logout_ends_the_session_and_clears_the_cookie(town: Town, ada) -> None:
    async with town.client() as client:
        value = cookie_of(await log_in(client)).value
        client.cookies.clear()
        answer = await client.post("/auth/logout", headers={"Cookie": f"rsid={value}"})
        after = await client.get("/auth/me", headers={"Cookie": f"rsid={value}"})
    assert (answer.status_code, answer.content, after.status_code) == (204, b"", 401)
    assert (cookie_of(answer).value, cookie_of(answer)["max-age"]) == ("", "0")


@pytest.mark.parametrize("headers", [{}, {"Cookie": "rsid=nonsense"}], ids=["no cookie", "a broken one"])
async def test_logout_needs_no_valid_session(town: Town, headers) -> None:
    async with town.client() as client:
        answer = await client.post("/auth/logout", headers=headers)
    assert answer.status_code == 204
    assert cookie_of(answer)["max-age"] == "0"


async def test_a_new_password_counts_and_ends_every_other_session(town: Town, ada) -> None:
    async with town.client() as client:
        values = []
        for _ in range(2):
            client.cookies.clear()
            values.append(cookie_of(await log_in(client)).value)
        client.cookies.clear()
        own, other = ({"Cookie": f"rsid={value}"} for value in values)
        change = {"current": PASSWORD, "new": OTHER_PASSWORD}
        assert (await client.post("/auth/password", json=change, headers=own)).status_code == 204
        assert [(await client.get("/auth/me", headers=h)).status_code for h in (own, other)] == [200, 401]
        assert (await log_in(client)).status_code == 401
        assert (await log_in(client, password=OTHER_PASSWORD)).status_code == 200


@pytest.mark.parametrize(
    ("name", "current", "new", "path"),
    [
        ("a wrong one", OTHER_PASSWORD, PASSWORD + "!", "current"),
        ("a short one", PASSWORD, "brief", "new"),
        ("the own address", PASSWORD, ADA, "new"),
    ],
)
async def test_a_password_that_cannot_be_is_named(town: Town, ada, name, current, new, path) -> None:
    async with town.client() as client:
        await log_in(client)
        answer = await client.post("/auth/password", json={"current": current, "new": new})
        assert answer.status_code == 422
        assert [error["path"] for error in answer.json()["errors"]] == [path]
        assert new not in answer.text
        client.cookies.clear()
        assert (await log_in(client)).status_code == 200


async def test_guessing_the_current_password_is_throttled_too(town: Town, ada) -> None:
    async with town.client() as client:
        await log_in(client)
        guess = {"current": OTHER_PASSWORD, "new": PASSWORD + "!"}
        statuses = [(await client.post("/auth/password", json=guess)).status_code for _ in range(11)]
    assert statuses == [422] * 10 + [429]


async def test_a_token_has_no_password_to_change(town: Town, dev) -> None:
    answer = await dev.post("/auth/password", json={"current": PASSWORD, "new": OTHER_PASSWORD})
    assert answer.status_code == 403


@pytest.mark.parametrize("password", [PASSWORD, "brief"], ids=["as rules are today", "older than the rules"])
async def test_a_hash_of_older_parameters_is_made_anew_where_it_can(town: Town, password) -> None:
    user_id = await town.user(ADA, DEV, Role.VIEWER, PASSWORD)
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(password)
    await town.people.set_password(user_id, old, TESTS)
    async with town.client() as client:
        assert (await log_in(client, password=password)).status_code == 200
        found = await town.people.credentials(ADA)
        assert found is not None
        assert (found.password_hash == old) is (password == "brief")
        client.cookies.clear()
        assert (await log_in(client, password=password)).status_code == 200


async def test_many_logins_at_once_each_get_a_session_of_their_own(town: Town, ada) -> None:
    async with town.client() as client:
        answers = await asyncio.gather(*(log_in(client) for _ in range(8)))
    values = {cookie_of(answer).value for answer in answers}
    assert len(values) == 8
