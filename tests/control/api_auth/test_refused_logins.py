"""What a refused login leaves in the audit, and logins under way while the password changes."""

from typing import Any

import orjson
import pytest
from argon2 import PasswordHasher
from sqlalchemy import event

from tests.control.api_auth.conftest import Town
from tests.control.api_auth.people import DEV, OTHER_PASSWORD, PASSWORD, TESTS
from worker.control.people import UserState
from worker.control.principals import Role
from worker.store.outgoing import OutgoingKind, OutgoingShelf

ADA = "ada@dev.example"


async def audited(town: Town) -> list[dict[str, Any]]:
    """What the audit will have of sessions."""
    waiting = await OutgoingShelf(town.people.database).oldest(1000, kind=OutgoingKind.AUDIT)
    records = [orjson.loads(each.body.partition(b" ")[2]) for each in waiting]
    return [record for record in records if record["type"] == "session.changed"]


async def log_in(town: Town, email: str, password: str, ip: str = "192.0.2.1") -> int:
    async with town.client(ip=ip) as client:
        return (await client.post("/auth/login", json={"email": email, "password": password})).status_code


@pytest.fixture
async def ada(town: Town) -> str:
    return await town.user(ADA, DEV, Role.VIEWER, PASSWORD)


@pytest.mark.parametrize(
    ("email", "password", "subject", "org"),
    [
        (ADA, OTHER_PASSWORD, ADA, "dev"),
        ("Ada@DEV.example", OTHER_PASSWORD, ADA, "dev"),
        ("gone@dev.example", PASSWORD, "gone@dev.example", "dev"),
        ("nobody@dev.example", PASSWORD, "unknown", None),
        (PASSWORD, PASSWORD, "unknown", None),
    ],
    ids=["a wrong password", "the address in other letters", "disabled", "nobody", "a password in the wrong field"],
)
async def test_a_refused_login_is_in_the_audit(town: Town, ada, email, password, subject, org) -> None:
    gone = await town.user("gone@dev.example", DEV, Role.VIEWER, PASSWORD)
    await town.people.change_user(DEV, gone, TESTS, state=UserState.DISABLED)
    assert await log_in(town, email, password, "192.0.2.77") == 401
    [record] = await audited(town)
    assert (record["action"], record["subject"], record.get("org")) == ("refused", subject, org)
    assert (record["actor"]["name"], record["actor"]["origin"]) == ("unknown", "192.0.2.77")
    assert PASSWORD not in str(record)


async def test_whoever_is_throttled_writes_nothing(town: Town, ada) -> None:
    assert [await log_in(town, ADA, OTHER_PASSWORD) for _ in range(40)] == [401] * 10 + [429] * 30
    statuses = [await log_in(town, f"{n}@dev.example", OTHER_PASSWORD, "192.0.2.2") for n in range(40)]
    assert statuses == [401] * 30 + [429] * 10
    assert [record["action"] for record in await audited(town)] == ["refused"] * 40


async def test_whoever_is_let_in_is_not_refused(town: Town, ada) -> None:
    assert await log_in(town, ADA, PASSWORD) == 200
    assert [record["action"] for record in await audited(town)] == ["opened"]


async def test_the_statements_of_a_refused_login_are_the_same_whether_there_is_such_a_user(town: Town, ada) -> None:
    heard: list[str] = []
    engine = town.people.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda _c, _u, statement, *_: heard.append(statement))
    seen = {}
    for email in (ADA, "nobody@dev.example"):
        heard.clear()
        assert await log_in(town, email, OTHER_PASSWORD) == 401
        seen[email] = list(heard)
    assert seen[ADA] == seen["nobody@dev.example"] != []


class Meanwhile:
    """The town's passwords, during whose first comparison something happens."""

    def __init__(self, town: Town, happens: Any) -> None:
        self.inner, self.happens = town.passwords, [happens]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def verify(self, stored: str | None, text: str) -> bool:
        found = await self.inner.verify(stored, text)
        while self.happens:
            await self.happens.pop()()
        return found


async def test_a_login_under_way_while_the_password_is_changed_is_refused(town: Town, ada) -> None:
    async def change() -> None:
        await town.people.set_password(ada, await town.passwords.hash(OTHER_PASSWORD), TESTS)

    hasher, town.passwords = town.passwords, Meanwhile(town, change)  # type: ignore[assignment]
    assert await log_in(town, ADA, PASSWORD) == 401
    assert [record["action"] for record in await audited(town)] == ["refused"]
    assert hasher.verified == 2
    assert await log_in(town, ADA, OTHER_PASSWORD) == 200


async def test_a_login_under_way_while_the_user_is_disabled_is_refused(town: Town, ada) -> None:
    async def disable() -> None:
        await town.people.change_user(DEV, ada, TESTS, state=UserState.DISABLED)

    town.passwords = Meanwhile(town, disable)  # type: ignore[assignment]
    assert await log_in(town, ADA, PASSWORD) == 401


async def test_a_login_while_another_one_makes_the_hash_anew_is_let_in(town: Town) -> None:
    ada = await town.user(ADA, DEV, Role.VIEWER, PASSWORD)
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    await town.people.set_password(ada, old, TESTS)

    async def rehash() -> None:
        await town.people.rehash_password(ada, old, await town.passwords.hash(PASSWORD))

    town.passwords = Meanwhile(town, rehash)  # type: ignore[assignment]
    assert await log_in(town, ADA, PASSWORD) == 200
    assert [record["action"] for record in await audited(town)] == ["opened"]
