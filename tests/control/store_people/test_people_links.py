"""The contract of one-time links: used once, by whom they were sent to, for as long as they last."""

import asyncio
from datetime import timedelta

import pytest

from tests.control.store_people.people_samples import (
    ACME,
    HASH,
    OTHER_HASH,
    TESTS,
    Mailed,
    add,
    deeds,
    new_user,
    session_of,
    told,
)
from worker.control.errors import NotFound, Refused, Taken
from worker.control.people import Purpose, UserState
from worker.store.outgoing import OutgoingKind

EMAIL, NEW = "amara@acme.example", "amara@new.example"


async def invite(people, email=EMAIL):
    mail = Mailed()
    user = await people.add_user(new_user(email, password_hash=None), TESTS, mail=mail)
    [value] = mail.values
    return user, value


async def ask(people, user, email=NEW):
    mail = Mailed()
    await people.ask_for_email(user.scope, user.id, email, TESTS, mail.both)
    assert mail.values == [mail.values[0]] * 2
    return mail.values[0]


def use(people, value, purpose=Purpose.SET_PASSWORD, password_hash=OTHER_HASH, origin="192.0.2.9"):
    return people.use_link(value, purpose, password_hash=password_hash, origin=origin)


def confirm(people, value):
    return use(people, value, Purpose.CONFIRM_EMAIL, None)


async def test_an_invitation_lets_its_user_set_a_password_once(people, clock):
    user, value = await invite(people)
    found = await people.link(value)
    assert (found.purpose, found.user, found.email) == (Purpose.SET_PASSWORD, user, None)
    assert found.expires_at == clock() + timedelta(hours=72)
    assert (await use(people, value)).state is UserState.ACTIVE
    assert (await people.credentials(EMAIL)).password_hash == OTHER_HASH
    assert await people.link(value) is None
    with pytest.raises(NotFound):
        await use(people, value, password_hash="another")
    assert (await people.credentials(EMAIL)).password_hash == OTHER_HASH


async def test_a_mail_goes_out_with_its_link_or_there_is_neither(people):
    await invite(people)
    assert await told(people, OutgoingKind.EVENT) == [{"mail": 1}]
    with pytest.raises(Taken):
        await invite(people)
    assert await told(people, OutgoingKind.EVENT) == [{"mail": 1}]


async def test_a_used_link_is_told_as_its_users_own_deed(people):
    _, value = await invite(people)
    await use(people, value)
    record = (await told(people))[-1]
    assert (record["type"], record["subject"], record["changed"]) == ("user.changed", EMAIL, ["password"])
    assert record["actor"] == {"kind": "user", "name": EMAIL, "scope": "partner:acme", "origin": "192.0.2.9"}


@pytest.mark.parametrize("hours", [0, 71.999], ids=["at once", "in its last seconds"])
async def test_a_link_can_be_used_until_its_end(people, clock, hours):
    _, value = await invite(people)
    clock.move(hours=hours)
    await use(people, value)


async def test_a_link_that_expired_is_gone(people, clock):
    _, value = await invite(people)
    clock.move(hours=72)
    assert await people.link(value) is None
    with pytest.raises(NotFound):
        await use(people, value)


async def test_of_two_uses_at_once_one_wins(people):
    _, value = await invite(people)
    both = await asyncio.gather(*(use(people, value, password_hash=each) for each in "ab"), return_exceptions=True)
    assert sorted(type(each).__name__ for each in both) == ["NotFound", "User"]
    winner = "ab"[[type(each).__name__ for each in both].index("User")]
    assert (await people.credentials(EMAIL)).password_hash == winner


@pytest.mark.parametrize("value", ["", "made-up", "\ud800"])
async def test_what_is_no_link_leads_nowhere(people, value):
    await invite(people)
    assert await people.link(value) is None
    with pytest.raises(NotFound):
        await use(people, value)


async def test_a_link_serves_its_own_purpose_only_and_outlives_the_attempt(people):
    _, value = await invite(people)
    with pytest.raises(NotFound):
        await confirm(people, value)
    with pytest.raises(Refused, match="password"):
        await use(people, value, password_hash=None)
    assert await people.link(value) is not None


async def test_an_address_changes_only_by_the_link(people, clock):
    user = await add(people)
    value = await ask(people, user, "Amara@NEW.example")
    assert (await people.user(ACME, user.id)).email == EMAIL
    found = await people.link(value)
    assert (found.purpose, found.email) == (Purpose.CONFIRM_EMAIL, NEW)
    assert found.expires_at == clock() + timedelta(hours=24)
    assert (await confirm(people, value)).email == NEW
    assert await people.credentials(EMAIL) is None
    assert (await people.credentials(NEW)).password_hash == HASH
    assert (await deeds(people))[1:] == [
        ("user.changed", "updated", EMAIL, "requested_email"), ("user.changed", "updated", NEW, "email"),
    ]  # fmt: skip
    assert len(await told(people, OutgoingKind.EVENT)) == 2


async def test_an_address_of_another_user_is_taken_when_asked_for_and_when_confirmed(people):
    user = await add(people)
    value = await ask(people, user)
    await add(people, NEW)
    with pytest.raises(Taken):
        await ask(people, user)
    with pytest.raises(Taken):
        await confirm(people, value)
    assert (await people.user(ACME, user.id)).email == EMAIL


async def test_of_two_users_who_confirm_one_address_at_once_one_gets_it(people):
    both = [await add(people, email) for email in ("a@acme.example", "b@acme.example")]
    values = [await ask(people, user) for user in both]
    done = await asyncio.gather(*(confirm(people, value) for value in values), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["Taken", "User"]


async def test_a_newer_link_ends_the_older_one_of_the_same_purpose(people):
    user = await add(people)
    older, newer = await ask(people, user), await ask(people, user, "third@new.example")
    assert await people.link(older) is None
    assert (await confirm(people, newer)).email == "third@new.example"


async def test_a_link_of_one_user_does_not_end_anothers(people):
    one, other = await add(people, "a@acme.example"), await add(people, "b@acme.example")
    first = await ask(people, one, "a@new.example")
    await ask(people, other, "b@new.example")
    assert await people.link(first) is not None


async def test_a_new_password_ends_sessions_and_a_change_of_address_under_way(people, clock):
    user = await add(people)
    value, session = await ask(people, user), await session_of(people, user, clock)
    await people.set_password(user.id, OTHER_HASH, TESTS)
    assert await people.link(value) is None
    assert await people.principal_of_session(session) is None


async def test_the_old_mailbox_has_no_way_in_after_a_change_of_address(people):
    user, invitation = await invite(people)
    await confirm(people, await ask(people, user))
    with pytest.raises(NotFound):
        await use(people, invitation)


async def test_a_link_does_not_bring_a_disabled_user_back_and_stays_ended(people):
    await add(people, "other@acme.example")
    user, value = await invite(people)
    await people.change_user(ACME, user.id, TESTS, state=UserState.DISABLED)
    assert await people.link(value) is None
    with pytest.raises(NotFound):
        await use(people, value)
    with pytest.raises(Refused, match="disabled"):
        await ask(people, user)
    await people.change_user(ACME, user.id, TESTS, state=UserState.ACTIVE)
    assert await people.link(value) is None
