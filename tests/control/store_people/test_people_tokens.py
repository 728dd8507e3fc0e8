"""The contract of bearer tokens."""

from datetime import timedelta

import pytest
from sqlalchemy import event

from tests.control.store_people.people_samples import ACME, DEV, OTHER, TESTS, add, deeds, session_of
from worker.control.errors import Refused
from worker.control.principals import Kind, Principal, Role


async def create(people, scope=ACME, role=Role.ADMIN, name="ci", expires_at=None):
    return await people.create_token(name, scope, role, TESTS, expires_at=expires_at)


async def test_a_token_says_who_it_is_and_is_shown_without_its_value(people, clock):
    token, value = await create(people, DEV, Role.VIEWER)
    assert value.startswith("pbt_")
    assert len(value) == 47
    assert await people.principal_of_token(value) == Principal(Kind.TOKEN, token.id, "ci", DEV, Role.VIEWER)
    [listed] = await people.tokens(DEV)
    assert (listed.id, listed.created_by, listed.created_at, listed.used_at) == (token.id, "tests", clock(), clock())
    assert value not in repr((token, listed))
    assert await deeds(people) == [("token.changed", "created", "ci")]


@pytest.mark.parametrize("value", ["", "pbt_", "pbt_made-up", "\ud800"])
async def test_what_is_no_token_is_nobody(people, value):
    await create(people)
    assert await people.principal_of_token(value) is None


async def test_a_token_is_no_session_and_a_session_no_token(people, clock):
    _, value = await create(people)
    assert await people.principal_of_session(value) is None
    user = await add(people)
    session = await session_of(people, user, clock)
    assert await people.principal_of_token(session) is None


async def test_a_token_ends_at_its_time_and_is_listed_for_a_month_more(people, clock):
    token, value = await create(people, expires_at=clock() + timedelta(hours=12))
    clock.move(hours=12, seconds=-1)
    assert await people.principal_of_token(value) is not None
    clock.move(seconds=1)
    assert await people.principal_of_token(value) is None
    assert [each.id for each in await people.tokens(ACME)] == [token.id]
    clock.move(days=31)
    later, _ = await create(people)
    assert [each.id for each in await people.tokens(ACME)] == [later.id]


async def test_a_token_is_revoked_by_its_own_scope_only(people):
    token, value = await create(people)
    for scope in (DEV, OTHER):
        assert not await people.revoke_token(scope, token.id, TESTS)
    assert await people.principal_of_token(value) is not None
    assert await people.revoke_token(ACME, token.id, TESTS)
    assert await people.principal_of_token(value) is None
    assert await people.tokens(ACME) == []
    assert not await people.revoke_token(ACME, token.id, TESTS)
    assert (await deeds(people))[1:] == [("token.changed", "deleted", "ci")]


async def test_tokens_are_listed_by_scope(people, clock):
    made = []
    for scope in (ACME, DEV, ACME):
        made.append((await create(people, scope))[0].id)
        clock.move(seconds=1)
    assert [token.id for token in await people.tokens(ACME)] == [made[0], made[2]]
    assert [token.id for token in await people.tokens()] == made


async def test_the_last_use_is_written_once_a_minute(people, clock):
    _, value = await create(people)
    written = []

    def keep(connection, cursor, statement, *_):
        if statement.startswith("UPDATE"):
            written.append(clock())

    event.listen(people.database._engine.sync_engine, "before_cursor_execute", keep)
    for _ in range(12):
        assert await people.principal_of_token(value)
        clock.move(seconds=10)
    assert [moment.minute for moment in written] == [0, 1]
    assert (await people.tokens(ACME))[0].used_at == written[-1]


async def test_an_end_in_the_past_and_a_name_of_two_lines_are_refused(people, clock):
    with pytest.raises(Refused, match="expires_at"):
        await create(people, expires_at=clock())
    with pytest.raises(Refused, match="name"):
        await create(people, name="a\nb")
    assert await people.tokens() == []
