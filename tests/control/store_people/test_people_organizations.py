"""The contract of partners and organizations: all of an organization is there, or none of it."""

import asyncio

import pytest

from schemas.smtp_config import Scope
from tests.control.store_people.people_samples import TESTS, Mailed, add, deeds, new_user, told
from worker.control.errors import NotFound, Refused, Taken
from worker.control.people import UserState
from worker.control.principals import Role
from worker.store.outgoing import OutgoingKind

DEV = Scope("acme", "dev")
ADMIN = "admin@dev.example"


@pytest.fixture
async def acme(people):
    return await people.create_partner("acme", TESTS)


def create(people, name="dev", admin=None, *, smtp_enabled=False, mail=None, partner="acme"):
    admin = admin or new_user(ADMIN, role=Role.VIEWER, password_hash=None)
    return people.create_organization(partner, name, admin, TESTS, smtp_enabled=smtp_enabled, mail=mail)


def feature(version, *, on):
    return {"kind": "feature", "partner": "acme", "org": "dev", "org_smtp": on, "version": version}


async def test_a_partner_is_made_once(people, acme, clock):
    assert (acme.name, acme.created_by, acme.created_at) == ("acme", "tests", clock())
    with pytest.raises(Taken) as caught:
        await people.create_partner("acme", TESTS)
    assert caught.value.path == "name"
    await people.create_partner("Zenith", TESTS)
    assert {each.name for each in await people.partners()} == {"acme", "Zenith"}
    assert (await deeds(people))[0] == ("organization.changed", "created", "acme")


@pytest.mark.parametrize("name", ["", "-acme", "a/b", "a b", "x" * 64, "acme\n", "é", ".."])
async def test_a_name_that_cannot_stand_in_a_path_is_refused(people, acme, name):
    with pytest.raises(Refused, match="name: expected"):
        await people.create_partner(name, TESTS)
    with pytest.raises(Refused, match="name: expected"):
        await create(people, name)


@pytest.mark.parametrize("on", [False, True])
async def test_an_organization_comes_with_its_admin_its_feature_and_its_mail(people, acme, on):
    mail = Mailed()
    made = await create(people, smtp_enabled=on, mail=mail)
    assert made == await people.organization("acme", "dev")
    assert (made.partner, made.name, made.smtp_enabled) == ("acme", "dev", on)
    [admin] = await people.users(DEV)
    assert (admin.email, admin.role, admin.state) == (ADMIN, Role.ADMIN, UserState.INVITED)
    assert (await people.link(mail.values[0])).user == admin
    assert await told(people, OutgoingKind.CONFIG) == [feature(1, on=on)]
    assert len(await told(people, OutgoingKind.EVENT)) == 1
    assert (await deeds(people))[1:] == [
        ("organization.changed", "created", "dev", *(("smtp_enabled",) if on else ())),
        ("user.changed", "created", ADMIN),
    ]


async def test_an_organization_whose_admin_cannot_be_is_not_there_at_all(people, acme):
    await add(people, ADMIN)
    before = await deeds(people)
    with pytest.raises(Taken) as caught:
        await create(people, smtp_enabled=True, mail=Mailed())
    assert caught.value.path == "admin_email"
    with pytest.raises(Refused) as caught:
        await create(people, admin=new_user("nowhere"))
    assert caught.value.path == "admin_email"
    assert await people.organizations("acme") == []
    assert await deeds(people) == before
    assert await told(people, OutgoingKind.CONFIG) == await told(people, OutgoingKind.EVENT) == []


async def test_an_organization_whose_mail_cannot_be_made_is_not_there(people, acme):
    def broken(_value):
        raise ValueError("no words for it")

    with pytest.raises(ValueError, match="no words"):
        await create(people, mail=broken)
    assert await people.organizations("acme") == []
    assert await people.users(DEV) == []


async def test_an_organization_needs_its_partner(people, acme):
    with pytest.raises(NotFound) as caught:
        await create(people, partner="umbrella")
    assert caught.value.path == "partner"
    assert await people.organization("umbrella", "dev") is None


async def test_two_organizations_of_one_name_belong_to_two_partners(people, acme):
    await people.create_partner("umbrella", TESTS)
    await create(people)
    await create(people, partner="umbrella", admin=new_user("other@dev.example"))
    with pytest.raises(Taken) as caught:
        await create(people, admin=new_user("third@dev.example"))
    assert caught.value.path == "name"
    assert [org.name for org in await people.organizations("acme")] == ["dev"]
    assert [org.partner for org in await people.organizations("umbrella")] == ["umbrella"]


async def test_of_two_made_at_once_there_is_one(people, acme):
    both = (create(people, admin=new_user(email)) for email in ("a@dev.example", "b@dev.example"))
    done = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["Organization", "Taken"]
    assert len(await people.users(DEV)) == 1


async def test_the_switch_is_told_under_rising_versions_and_only_when_it_moves(people, acme):
    await create(people)
    for on in (True, True, False):
        assert (await people.switch_org_smtp("acme", "dev", TESTS, on=on)).smtp_enabled is on
        assert (await people.organization("acme", "dev")).smtp_enabled is on
    versions = [feature(1, on=False), feature(2, on=True), feature(3, on=False)]
    assert await told(people, OutgoingKind.CONFIG) == versions
    assert [deed[1] for deed in (await deeds(people))[3:]] == ["switched_on", "switched_off"]


async def test_what_is_not_there_has_no_switch(people, acme):
    with pytest.raises(NotFound):
        await people.switch_org_smtp("acme", "dev", TESTS, on=True)
    assert await told(people, OutgoingKind.CONFIG) == []
