"""The contract of sessions: how they begin and everything that ends one."""

import asyncio

import pytest
from sqlalchemy import event, func, select, update

from schemas.smtp_config import CONTROLLER
from tests.control.store_people.people_samples import ACME, HASH, OTHER_HASH, TESTS, add, deeds, session_of, told
from worker.control.errors import NotFound
from worker.control.people import UserState
from worker.control.principals import Actor, Kind, Principal, Role
from worker.store.models_people import sessions, users


async def stored(people) -> int:
    async with people.database.reading() as connection:
        return (await connection.execute(select(func.count()).select_from(sessions))).scalar_one()


@pytest.fixture
async def amara(people):
    await add(people, "other@acme.example")
    return await add(people)


async def test_a_session_says_who_it_is(people, clock, amara):
    value = await session_of(people, amara, clock)
    wanted = Principal(Kind.USER, amara.id, amara.email, ACME, Role.ADMIN)
    assert await people.principal_of_session(value) == wanted
    assert len(value) == 43


@pytest.mark.parametrize("value", ["", "made-up", "x" * 100_000, "\ud800"])
async def test_what_is_no_session_is_nobody(people, clock, amara, value):
    await session_of(people, amara, clock)
    assert await people.principal_of_session(value) is None


async def test_login_and_logout_are_told_with_their_origin(people, clock, amara):
    value = await session_of(people, amara, clock)
    await people.close_session(value, Actor(Kind.USER, amara.email, ACME, "192.0.2.8"))
    assert await people.principal_of_session(value) is None
    assert (await deeds(people))[2:] == [
        ("session.changed", "opened", amara.email), ("session.changed", "closed", amara.email),
    ]  # fmt: skip
    assert [record["actor"].get("origin") for record in (await told(people))[2:]] == ["192.0.2.7", "192.0.2.8"]


async def test_a_session_that_is_not_there_is_closed_without_a_word(people, amara):
    before = await deeds(people)
    await people.close_session("made-up", TESTS)
    assert await deeds(people) == before


async def test_a_session_ends_at_its_time_and_its_row_goes_when_it_is_met(people, clock, amara):
    value = await session_of(people, amara, clock, hours=12)
    clock.move(hours=12, seconds=-1)
    assert await people.principal_of_session(value) is not None
    clock.move(seconds=1)
    assert await people.principal_of_session(value) is None
    assert await stored(people) == 0


async def test_sessions_that_nobody_meets_go_at_somebody_elses_login(people, clock, amara):
    for _ in range(3):
        await session_of(people, amara, clock, hours=1)
    clock.move(hours=2)
    living = await session_of(people, amara, clock)
    assert await stored(people) == 1
    assert await people.principal_of_session(living) is not None


async def test_a_login_ends_the_session_that_it_replaces_and_no_other(people, clock, amara):
    first, second = [await session_of(people, amara, clock) for _ in range(2)]
    third = await session_of(people, amara, clock, replaces=first)
    found = [await people.principal_of_session(value) is not None for value in (first, second, third)]
    assert found == [False, True, True]


async def test_a_disabled_user_is_out_at_once_and_stays_out_when_enabled_again(people, clock, amara):
    value = await session_of(people, amara, clock)
    await people.change_user(ACME, amara.id, TESTS, state=UserState.DISABLED)
    assert await people.principal_of_session(value) is None
    with pytest.raises(NotFound):
        await session_of(people, amara, clock)
    await people.change_user(ACME, amara.id, TESTS, state=UserState.ACTIVE)
    assert await people.principal_of_session(value) is None


@pytest.mark.parametrize("state", ["disabled", "invited"])
async def test_a_session_lets_nobody_in_who_is_not_active_whatever_left_it_there(people, clock, amara, state):
    value = await session_of(people, amara, clock)
    async with people.database.writing() as connection:
        await connection.execute(update(users).where(users.c.id == amara.id).values(state=state))
    assert await people.principal_of_session(value) is None


async def test_nobody_gets_no_session(people, clock, amara):
    with pytest.raises(NotFound):
        await people.open_session("nobody", proven=HASH, expires_at=clock(), replaces=None, actor=TESTS)
    assert await stored(people) == 0


async def test_a_password_that_is_no_longer_the_users_opens_nothing(people, clock, amara):
    before = await people.credentials(amara.email)
    await people.set_password(amara.id, OTHER_HASH, TESTS)
    for proven in (before.password_hash, None, ""):
        with pytest.raises(NotFound):
            await session_of(people, amara, clock, proven=proven)
    assert await stored(people) == 0
    assert await people.principal_of_session(await session_of(people, amara, clock, proven=OTHER_HASH))


@pytest.mark.parametrize("first", ["login", "change"])
async def test_a_login_and_a_change_of_password_at_once_leave_no_session_of_the_old_one(people, clock, amara, first):
    login = session_of(people, amara, clock, proven=HASH)
    change = people.set_password(amara.id, OTHER_HASH, TESTS)
    both = (login, change) if first == "login" else (change, login)
    await asyncio.gather(*both, return_exceptions=True)
    assert await stored(people) == 0


async def statements_of(people, doing) -> list[str]:
    heard = []

    def hear(_connection, _cursor, statement, *_):
        heard.append(statement)

    engine = people.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", hear)
    await doing
    event.remove(engine, "before_cursor_execute", hear)
    return heard


@pytest.mark.parametrize(
    ("email", "scope", "subject"),
    [
        ("amara@acme.example", "partner:acme", "amara@acme.example"),
        ("AMARA@Acme.example", "partner:acme", "amara@acme.example"),
        ("root@controller.example", "controller", "root@controller.example"),
        ("nobody@acme.example", "controller", "unknown"),
        ("correct horse battery staple", "controller", "unknown"),
        ("", "controller", "unknown"),
        ("a\x00@acme.example", "controller", "unknown"),
    ],
)
async def test_a_refused_login_is_told_without_what_may_be_a_password(people, amara, email, scope, subject):
    await add(people, "root@controller.example", CONTROLLER)
    before = await told(people)
    await people.note_refused_login(email, "192.0.2.9")
    [record] = (await told(people))[len(before) :]
    assert (record["type"], record["action"], record["subject"]) == ("session.changed", "refused", subject)
    assert (record.get("partner"), record.get("org")) == ("acme" if scope != "controller" else None, None)
    actor = {"kind": "user", "name": "unknown", "scope": scope, "origin": "192.0.2.9"}
    assert record["actor"] == actor
    assert email == subject or not email or email not in str(record)


async def test_a_refused_login_is_the_same_statements_whether_there_is_such_a_user(people, amara):
    seen = {
        email: await statements_of(people, people.note_refused_login(email, "192.0.2.9"))
        for email in (amara.email, "nobody@acme.example", "nonsense")
    }
    assert seen[amara.email]
    assert all(each == seen[amara.email] for each in seen.values())


async def test_an_invited_user_gets_no_session(people, clock):
    invited = await add(people, "invited@acme.example", ACME, password_hash=None)
    with pytest.raises(NotFound):
        await session_of(people, invited, clock)


async def test_a_change_of_role_counts_in_a_session_that_is_open(people, clock, amara):
    value = await session_of(people, amara, clock)
    await people.change_user(ACME, amara.id, TESTS, role=Role.VIEWER)
    assert (await people.principal_of_session(value)).role is Role.VIEWER


async def test_a_new_password_ends_every_session_but_the_one_that_set_it(people, clock, amara):
    other = await add(people, "third@acme.example")
    mine, elsewhere, others = [await session_of(people, user, clock) for user in (amara, amara, other)]
    await people.set_password(amara.id, OTHER_HASH, TESTS, but=mine)
    found = [await people.principal_of_session(value) is not None for value in (mine, elsewhere, others)]
    assert found == [True, False, True]
    await people.set_password(amara.id, OTHER_HASH, TESTS)
    assert await people.principal_of_session(mine) is None


async def test_all_sessions_of_a_user_but_one_are_ended_and_counted(people, clock, amara):
    values = [await session_of(people, amara, clock) for _ in range(3)]
    assert await people.close_sessions_of(amara.id, but=values[1]) == 2
    assert [await people.principal_of_session(value) is not None for value in values] == [False, True, False]
    assert await people.close_sessions_of(amara.id) == 1
    assert await people.close_sessions_of(amara.id) == 0
    assert await people.close_sessions_of("nobody") == 0
    assert (await deeds(people)).count(("session.changed", "closed", amara.email)) == 2


async def test_a_session_of_the_controller_has_its_scope(people, clock):
    admin = await add(people, "root@controller.example", CONTROLLER)
    principal = await people.principal_of_session(await session_of(people, admin, clock))
    assert principal.scope == CONTROLLER
