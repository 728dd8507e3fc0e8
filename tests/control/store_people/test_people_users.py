"""The contract of users: made, changed, never without an admin."""

import asyncio

import pytest

from tests.control.store_people.people_samples import (
    ACME,
    DEV,
    HASH,
    OTHER,
    OTHER_HASH,
    TESTS,
    Mailed,
    add,
    deeds,
    new_user,
    session_of,
)
from worker.control.errors import NotFound, Refused, Taken
from worker.control.people import UserState
from worker.control.ports import Directory
from worker.control.principals import Role
from worker.store.outgoing import OutgoingShelf

EMAIL = "amara@acme.example"


def test_the_store_fulfils_the_directory(people):
    directory: Directory = people
    wanted = {name for name in vars(Directory) if not name.startswith("_")}
    assert wanted <= set(dir(directory))


async def test_a_user_comes_back_as_made_and_is_told(people, clock):
    made = await people.add_user(new_user(), TESTS)
    assert (made.email, made.name, made.scope, made.role, made.state, made.created_at) == (
        EMAIL, "Amara", ACME, Role.ADMIN, UserState.ACTIVE, clock(),
    )  # fmt: skip
    assert await people.user(ACME, made.id) == made
    found = await people.credentials(EMAIL)
    assert found is not None
    assert (found.user, found.password_hash) == (made, HASH)
    assert await deeds(people) == [("user.changed", "created", EMAIL)]
    assert await people.any_user()


async def test_in_the_beginning_there_is_nobody(people):
    assert not await people.any_user()
    assert await people.users(ACME) == []


@pytest.mark.parametrize("spelled", ["AMARA@acme.example", "amara@ACME.EXAMPLE", "Amara@Acme.Example"])
async def test_an_address_is_the_same_in_any_case_of_its_letters(people, spelled):
    made = await add(people, spelled)
    assert made.email == EMAIL
    assert (await people.credentials(spelled.swapcase())).user == made
    with pytest.raises(Taken) as caught:
        await add(people, EMAIL, OTHER)
    assert caught.value.path == "email"
    assert EMAIL not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", ["", "amara", "amara@acme.example\r\nBcc: x@example.org", "a@b@c", "\ud800@acme.example"]
)
async def test_what_is_no_address_is_nobodys_and_cannot_be_added(people, wrong):
    assert await people.credentials(wrong) is None
    with pytest.raises(Refused, match="email: not a valid mail address"):
        await add(people, wrong)
    assert not await people.any_user()


@pytest.mark.parametrize("wrong", ["", " ", "two\r\nlines", "x" * 201, "half \ud800"])
async def test_a_name_is_one_line(people, wrong):
    with pytest.raises(Refused, match="name: expected one line"):
        await people.add_user(new_user(name=wrong), TESTS)


async def test_users_are_listed_by_scope_and_address(people):
    for email, scope in (("b@acme.example", ACME), ("a@acme.example", ACME), ("c@dev.example", DEV)):
        await add(people, email, scope)
    assert [user.email for user in await people.users(ACME)] == ["a@acme.example", "b@acme.example"]
    assert [user.email for user in await people.users(DEV)] == ["c@dev.example"]
    assert len(await people.users()) == 3


async def test_a_user_of_another_scope_is_not_there(people):
    made = await add(people)
    for scope in (DEV, OTHER):
        assert await people.user(scope, made.id) is None
        with pytest.raises(NotFound):
            await people.change_user(scope, made.id, TESTS, state=UserState.DISABLED)
        with pytest.raises(NotFound):
            await people.ask_for_email(scope, made.id, "new@acme.example", TESTS, Mailed().both)
    assert (await people.user(ACME, made.id)) == made


async def test_of_two_users_with_one_address_made_at_once_there_is_one(people):
    made = await asyncio.gather(*(add(people, EMAIL, scope) for scope in (ACME, OTHER)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in made) == ["Taken", "User"]
    assert len(await deeds(people)) == 1


async def test_a_change_of_role_is_told_with_its_field(people):
    await add(people, "other@acme.example")
    made = await add(people)
    after = await people.change_user(ACME, made.id, TESTS, role=Role.VIEWER)
    assert (after.role, await people.user(ACME, made.id)) == (Role.VIEWER, after)
    assert (await deeds(people))[-1] == ("user.changed", "updated", EMAIL, "role")


async def test_a_change_that_changes_nothing_is_not_told(people):
    made = await add(people)
    await people.change_user(ACME, made.id, TESTS, role=Role.ADMIN, state=UserState.ACTIVE)
    assert len(await deeds(people)) == 1


@pytest.mark.parametrize(
    ("change", "path"),
    [({"role": Role.VIEWER}, "role"), ({"state": UserState.DISABLED}, "state")],
    ids=str,
)
async def test_the_last_active_admin_of_a_scope_stays(people, change, path):
    last = await add(people)
    await add(people, "viewer@acme.example", ACME, Role.VIEWER)
    await add(people, "invited@acme.example", ACME, password_hash=None)
    await add(people, "elsewhere@dev.example", DEV)
    with pytest.raises(Refused, match="last active admin of partner:acme") as caught:
        await people.change_user(ACME, last.id, TESTS, **change)
    assert caught.value.path == path
    assert await people.user(ACME, last.id) == last
    await add(people, "second@acme.example")
    await people.change_user(ACME, last.id, TESTS, **change)


async def test_two_admins_that_disable_each_other_at_once_leave_one(people):
    both = [await add(people, email) for email in ("a@acme.example", "b@acme.example")]
    tried = (people.change_user(ACME, user.id, TESTS, state=UserState.DISABLED) for user in both)
    done = await asyncio.gather(*tried, return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["Refused", "User"]
    states = [user.state for user in await people.users(ACME)]
    assert sorted(states) == [UserState.ACTIVE, UserState.DISABLED]


async def test_a_scope_without_an_admin_may_change_its_viewers(people):
    viewer = await add(people, "viewer@acme.example", ACME, Role.VIEWER)
    after = await people.change_user(ACME, viewer.id, TESTS, state=UserState.DISABLED)
    assert after.state is UserState.DISABLED


async def test_whoever_never_had_a_password_is_enabled_as_invited(people):
    made = await add(people, password_hash=None)
    assert made.state is UserState.INVITED
    await people.change_user(ACME, made.id, TESTS, state=UserState.DISABLED)
    assert (await people.change_user(ACME, made.id, TESTS, state=UserState.ACTIVE)).state is UserState.INVITED
    active = await add(people, "other@acme.example")
    with pytest.raises(Refused, match="state"):
        await people.change_user(ACME, active.id, TESTS, state=UserState.INVITED)


async def test_a_password_makes_an_invited_user_active_and_is_told_without_its_hash(people):
    made = await add(people, password_hash=None)
    await people.set_password(made.id, OTHER_HASH, TESTS)
    found = await people.credentials(EMAIL)
    assert (found.password_hash, found.user.state) == (OTHER_HASH, UserState.ACTIVE)
    assert (await deeds(people))[-1] == ("user.changed", "updated", EMAIL, "password", "state")
    assert OTHER_HASH not in str(await OutgoingShelf(people.database).oldest(10))


async def test_a_password_does_not_let_a_disabled_user_in_again(people):
    await add(people, "other@acme.example")
    made = await add(people)
    await people.change_user(ACME, made.id, TESTS, state=UserState.DISABLED)
    await people.set_password(made.id, OTHER_HASH, TESTS)
    assert (await people.user(ACME, made.id)).state is UserState.DISABLED


async def test_who_proved_a_password_that_was_changed_since_sets_no_other(people):
    made = await add(people)
    await people.set_password(made.id, OTHER_HASH, TESTS, proven=HASH)
    with pytest.raises(Refused, match="current"):
        await people.set_password(made.id, "late", TESTS, proven=HASH)
    assert (await people.credentials(EMAIL)).password_hash == OTHER_HASH


async def test_a_password_of_nobody_is_not_found(people):
    with pytest.raises(NotFound):
        await people.set_password("nobody", HASH, TESTS)


async def test_a_rehash_changes_nothing_but_the_hash_and_only_of_the_same_password(people, clock):
    made = await add(people)
    session = await session_of(people, made, clock)
    await people.rehash_password(made.id, HASH, OTHER_HASH)
    await people.rehash_password(made.id, HASH, "late")
    assert (await people.credentials(EMAIL)).password_hash == OTHER_HASH
    assert await people.principal_of_session(session) is not None
    assert [deed[0] for deed in await deeds(people)] == ["user.changed", "session.changed"]


async def test_of_several_first_admins_at_once_there_is_one(people):
    emails = [f"{name}@x.example" for name in "abcde"]
    await asyncio.gather(*(people.credentials(email) for email in emails))  # each has a connection from here on
    made = await asyncio.gather(*(people.add_first_admin(new_user(e, ACME, Role.VIEWER), TESTS) for e in emails))
    assert [each is None for each in made].count(False) == 1
    [first] = await people.users()
    assert (str(first.scope), first.role) == ("controller", Role.ADMIN)


def test_no_hash_stands_in_a_repr(people):
    assert HASH not in repr(people)
