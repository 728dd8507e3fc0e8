"""Secrets by name: who may use them, replacing them everywhere at once, deleting them when nobody does."""

import asyncio

import pytest

from schemas.audit_change import Action
from schemas.smtp_config import Scope
from tests.control.store.samples import (
    ACME,
    ADA,
    CONTROLLER,
    DEV,
    KEY,
    OPERATOR,
    OPS,
    OTHER,
    OTHER_KEY,
    PASSWORD,
    draft,
)
from worker.control.errors import InUse, NotFound, Refused, Taken
from worker.control.records import KeepPassword, NewPassword, SecretName, UseSecret
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox

RELAY = UseSecret("relay")


async def password_of(store, scope=ACME, name="default"):
    return (await store.opened(scope, name)).password.get_secret_value()


async def test_a_secret_is_listed_by_name_and_never_by_value(store):
    made = await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=False)
    await store.create_secret(ACME, "Another", PASSWORD, ADA, shared=True)
    await store.create_secret(OTHER, "elsewhere", PASSWORD, OPERATOR, shared=True)
    await store.save(draft(ACME, "z", RELAY), ADA)
    await store.save(draft(ACME, "a", RELAY), ADA)
    await store.save(draft(ACME, "own", NewPassword(PASSWORD)), ADA)
    another, relay = await store.secrets(ACME)
    assert (made.name, made.version, made.updated_by, made.used_by) == ("relay", 1, "ada@example.com", ())
    assert (another.name, another.shared, another.used_by) == ("Another", True, ())
    assert (relay.name, relay.shared, relay.used_by) == ("relay", False, ("a", "z"))
    assert PASSWORD not in repr((made, relay, await store.records()))


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("", PASSWORD, "name"),
        ("two\nlines", PASSWORD, "name"),
        ("n" * 257, PASSWORD, "name"),
        ("config:default", PASSWORD, "name"),
        ("relay", "", "value"),
        ("relay", "x" * 8193, "value"),
    ],
)
async def test_names_and_values_that_cannot_be_are_refused(store, name, value, path):
    with pytest.raises(Refused) as caught:
        await store.create_secret(ACME, name, value, ADA, shared=False)
    assert caught.value.path == path
    assert await store.secrets(ACME) == ()


async def test_a_name_is_taken_once_in_its_scope(store):
    await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=False)
    with pytest.raises(Taken) as caught:
        await store.create_secret(ACME, "relay", "another", ADA, shared=True)
    assert caught.value.path == "name"
    await store.create_secret(DEV, "relay", "another", ADA, shared=False)


async def test_of_two_that_create_one_name_at_once_one_is_told_so(store, url):
    neighbour = ConfigStore(url, SecretBox([KEY]))
    await neighbour.records()
    both = [each.create_secret(ACME, "relay", PASSWORD, ADA, shared=False) for each in (store, neighbour)]
    ended = await asyncio.gather(*both, return_exceptions=True)
    await neighbour.close()
    assert sorted(type(each).__name__ for each in ended) == ["StoredSecret", "Taken"]


# Who may use it


@pytest.mark.parametrize(
    ("owner", "shared", "user", "may"),
    [
        (ACME, False, ACME, True),
        (ACME, True, DEV, True),
        (ACME, False, DEV, False),
        (CONTROLLER, True, ACME, True),
        (CONTROLLER, True, DEV, True),
        (CONTROLLER, False, ACME, False),
        (DEV, True, ACME, False),
        (DEV, True, OPS, False),
        (ACME, True, OTHER, False),
        (ACME, True, Scope("umbrella", "dev"), False),
    ],
    ids=str,
)
async def test_a_secret_serves_its_own_scope_and_if_shared_those_below(store, owner, shared, user, may):
    await store.create_secret(owner, "relay", PASSWORD, ADA, shared=shared)
    if may:
        saved = await store.save(draft(user, password=RELAY), ADA)
        assert saved.secret == SecretName(owner, "relay")
        assert await password_of(store, user) == PASSWORD
        return
    for attempt in (store.save(draft(user, password=RELAY), ADA), store.drafted(draft(user, password=RELAY))):
        with pytest.raises(NotFound) as caught:
            await attempt
        assert caught.value.path == "secret"


async def test_a_secret_that_is_not_shared_looks_like_one_that_is_not_there(store):
    said = []
    for _ in range(2):
        with pytest.raises(NotFound) as caught:
            await store.save(draft(DEV, password=RELAY), ADA)
        said.append(str(caught.value))
        if len(said) == 1:
            await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=False)
    assert said[0] == said[1]


async def test_the_nearest_secret_of_a_name_is_used(store):
    for scope in (CONTROLLER, ACME, DEV):
        await store.create_secret(scope, "relay", f"of {scope}", ADA, shared=True)
    await store.save(draft(DEV, password=RELAY), ADA)
    await store.save(draft(OPS, password=RELAY), ADA)
    assert await password_of(store, DEV) == f"of {DEV}"
    assert await password_of(store, OPS) == f"of {ACME}"


async def test_a_nearer_one_that_is_not_shared_hides_no_wider_one_that_is(store):
    await store.create_secret(CONTROLLER, "relay", "wide", ADA, shared=True)
    await store.create_secret(ACME, "relay", "the partner's own", ADA, shared=False)
    await store.save(draft(DEV, password=RELAY), ADA)
    assert await password_of(store, DEV) == "wide"


async def test_a_password_that_was_given_with_a_record_is_no_secret_to_name(store):
    await store.save(draft(ACME, password=NewPassword(PASSWORD)), ADA)
    with pytest.raises(NotFound):
        await store.save(draft(ACME, "second", UseSecret("config:default")), ADA)
    with pytest.raises(NotFound):
        await store.rotate_secret(ACME, "config:default", "another", ADA)
    with pytest.raises(NotFound):
        await store.delete_secret(ACME, "config:default", ADA)


# Replacing


async def test_a_rotation_reaches_every_record_that_uses_it_with_its_next_version(store):
    await store.create_secret(ACME, "relay", "old", ADA, shared=True)
    for scope in (ACME, DEV, OPS):
        await store.save(draft(scope, password=RELAY), ADA)
    await store.save(draft(OPS, "kept", RELAY), ADA)
    await store.save(draft(OPS, "kept", KeepPassword(), retries=1), ADA)
    await store.save(draft(DEV, "other", NewPassword("own")), ADA)
    rotated = await store.rotate_secret(ACME, "relay", "new", OPERATOR)
    assert (rotated.version, rotated.updated_by, rotated.used_by) == (2, "root", ("default",))
    assert {await password_of(store, scope) for scope in (ACME, DEV, OPS)} == {"new"}
    assert await password_of(store, OPS, "kept") == "new"
    assert await password_of(store, DEV, "other") == "own"
    versions = {(each.scope, each.name): each.version for each in await store.records()}
    assert versions == {
        (ACME, "default"): 2,
        (DEV, "default"): 2,
        (DEV, "other"): 1,
        (OPS, "default"): 2,
        (OPS, "kept"): 3,
    }
    newest = (await store.history(DEV, "default"))[0]
    assert (newest.action, newest.changed, newest.actor) == (Action.ROTATED, ("password",), OPERATOR)
    await store.save(draft(DEV, "later", RELAY), ADA)
    assert await password_of(store, DEV, "later") == "new"


async def test_rotating_what_is_not_there_is_not_found_also_where_a_wider_scope_shares_one(store):
    await store.create_secret(ACME, "relay", "old", ADA, shared=True)
    with pytest.raises(NotFound) as caught:
        await store.rotate_secret(DEV, "relay", "new", ADA)
    assert caught.value.path == "name"


async def test_saves_and_rotations_at_once_leave_no_copy_of_an_old_value(store, url):
    neighbour = ConfigStore(url, SecretBox([KEY]))
    scopes = [ACME, DEV, OPS, Scope("acme", "web")]
    await store.create_secret(ACME, "relay", "value 0", ADA, shared=True)
    await neighbour.records()
    for turn in range(1, 6):
        await asyncio.gather(
            *(each.save(draft(scope, f"{turn}", RELAY), ADA) for scope in scopes for each in (store, neighbour)),
            *(each.order(scope, ["1"], ADA) for scope in scopes[: turn - 1] for each in (store, neighbour)),
            store.rotate_secret(ACME, "relay", f"value {turn}", ADA),
            neighbour.reseal(),
        )
        found = {await password_of(store, each.scope, each.name) for each in await store.records()}
        assert found == {f"value {turn}"}
    await neighbour.close()


# Deleting


async def test_a_secret_in_use_is_kept_and_says_who_uses_it_without_naming_scopes_below(store):
    await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=True)
    for scope, name in ((ACME, "one"), (ACME, "two"), (DEV, "hidden"), (OPS, "hidden")):
        await store.save(draft(scope, name, RELAY), ADA)
    with pytest.raises(InUse) as caught:
        await store.delete_secret(ACME, "relay", ADA)
    assert str(caught.value).endswith("is used by record 'one', record 'two', 2 records of scopes below")
    for name in ("one", "two"):
        await store.remove(ACME, name, ADA)
    await store.remove(DEV, "hidden", ADA)
    with pytest.raises(InUse, match="is used by 1 record of scopes below"):
        await store.delete_secret(ACME, "relay", ADA)
    await store.save(draft(OPS, "hidden"), ADA)
    await store.delete_secret(ACME, "relay", ADA)
    assert await store.secrets(ACME) == ()
    with pytest.raises(NotFound):
        await store.delete_secret(ACME, "relay", ADA)


async def test_a_secret_is_deleted_or_used_but_never_both(store, url):
    neighbour = ConfigStore(url, SecretBox([KEY]))
    await neighbour.records()
    for turn in range(6):
        await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=True)
        # First come, first served: each of them has its turns.
        steps = {
            "save": store.save(draft(DEV, f"{turn}", RELAY), ADA),
            "delete": neighbour.delete_secret(ACME, "relay", ADA),
        }
        order = sorted(steps, reverse=bool(turn % 2))
        ended = dict(zip(order, await asyncio.gather(*(steps[n] for n in order), return_exceptions=True), strict=True))
        saved, deleted = ended["save"], ended["delete"]
        assert isinstance(saved, NotFound) != isinstance(deleted, InUse)
        await store.remove(DEV, f"{turn}", ADA)
        if isinstance(deleted, InUse):
            await store.delete_secret(ACME, "relay", ADA)
    await neighbour.close()


# Keys


async def test_named_secrets_are_resealed_and_verified_like_the_others(store, url):
    await store.create_secret(ACME, "used", PASSWORD, ADA, shared=False)
    await store.create_secret(ACME, "unused", "unused", ADA, shared=False)
    await store.save(draft(ACME, password=UseSecret("used")), ADA)
    await store.save(draft(DEV, password=NewPassword("own")), ADA)
    rotating, after = ConfigStore(url, SecretBox([OTHER_KEY, KEY])), ConfigStore(url, SecretBox([OTHER_KEY]))
    assert set(await store.tokens()) == {
        "record 'default' of partner:acme",
        "record 'default' of org:acme/dev",
        "secret 'used' of partner:acme",
        "secret 'unused' of partner:acme",
    }
    with pytest.raises(SecretUnreadable, match=r"^4 of "):
        await after.verify_secrets()
    assert await rotating.reseal() == 4
    await after.verify_secrets()
    await after.save(draft(ACME, "second", UseSecret("unused")), ADA)
    assert await password_of(after, ACME, "second") == "unused"
    assert await password_of(after, DEV) == "own"
    (inline,) = (await after.save(draft(DEV, password=KeepPassword(), retries=1), ADA),)
    assert inline.secret == SecretName(DEV, "config:default")
    with pytest.raises(SecretUnreadable):
        await store.opened(ACME, "second")
    await rotating.close()
    await after.close()


async def test_an_unreadable_secret_that_nothing_uses_stops_a_reseal_by_name(store, url):
    await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=False)
    rotating = ConfigStore(url, SecretBox([OTHER_KEY]))
    with pytest.raises(SecretUnreadable, match="secret 'relay' of partner:acme"):
        await rotating.reseal()
    await rotating.close()


async def test_without_a_key_no_secret_can_be_stored(url, store):
    keyless = ConfigStore(url, SecretBox([]))
    with pytest.raises(SecretKeyMissing):
        await keyless.create_secret(ACME, "relay", PASSWORD, ADA, shared=False)
    await keyless.close()
