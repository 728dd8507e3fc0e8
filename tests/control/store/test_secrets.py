"""Passwords: sealed in the file, found nowhere else, and readable errors where a key is missing."""

import logging

import pytest

from tests.control.store.samples import ACME, CONTROLLER, DEV, KEY, OTHER, OTHER_KEY, PASSWORD, record, with_password
from worker.errors import SecretKeyMissing, SecretUnreadable, SettingsError
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox, new_key


def test_what_is_sealed_opens_again_and_looks_different_each_time():
    box = SecretBox([KEY])
    assert box.open(box.seal("pässwörd")) == "pässwörd"
    assert box.seal(PASSWORD) != box.seal(PASSWORD)
    assert PASSWORD not in box.seal(PASSWORD)


def test_the_first_key_seals_and_every_key_opens():
    old, both, new = SecretBox([KEY]), SecretBox([OTHER_KEY, KEY]), SecretBox([OTHER_KEY])
    assert both.open(old.seal(PASSWORD)) == PASSWORD
    assert new.open(both.seal(PASSWORD)) == PASSWORD
    assert new.open(both.reseal(old.seal(PASSWORD))) == PASSWORD


@pytest.mark.parametrize("use", ["open", "reseal"])
@pytest.mark.parametrize("token", [SecretBox([OTHER_KEY]).seal(PASSWORD), "not a token", "", "ümlaut"])
def test_a_token_that_no_key_opens_names_the_setting_and_nothing_secret(use, token):
    with pytest.raises(SecretUnreadable, match="POSTBOTE_SECRET_KEYS") as caught:
        getattr(SecretBox([KEY]), use)(token)
    assert not token or token not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("use", ["seal", "open", "reseal"])
def test_without_a_key_the_error_holds_the_command_that_makes_one(use):
    with pytest.raises(SecretKeyMissing, match="postbote secrets new-key"):
        getattr(SecretBox([]), use)("anything")


@pytest.mark.parametrize("bad", ["", "short", KEY[:-4], "n0t base64 at all!", "ü" * 44, KEY + KEY])
def test_what_is_no_key_is_refused_by_position_and_not_quoted(bad):
    with pytest.raises(SettingsError, match=r"POSTBOTE_SECRET_KEYS: key 2 .*postbote secrets new-key") as caught:
        SecretBox([KEY, bad])
    assert not bad or bad not in str(caught.value)


def test_a_new_key_works_and_is_never_the_same():
    assert SecretBox([new_key()]).seal(PASSWORD)
    assert new_key() != new_key()


def test_no_repr_shows_a_key_or_the_databases_password():
    box = SecretBox([KEY])
    store = ConfigStore("postgresql://mailer:hunter2@db.example.net/postbote", box)
    for shown in (repr(box), str(box), repr(store), str(store.database)):
        assert KEY not in shown
        assert "hunter2" not in shown
    assert "db.example.net" in repr(store)


async def test_the_password_is_in_no_file_no_repr_and_no_log(store, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    saved = await store.put(with_password(ACME))
    found = [saved, *await store.list(), await store.configs_for(ACME), *await store.records()]
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert {"postbote.db", "postbote.db-wal"} <= set(kept)
    assert b"smtp.example.net" in b"".join(kept.values()), "the record itself must be in what was searched"
    await store.close()
    kept["after close"] = (tmp_path / "postbote.db").read_bytes()
    assert [name for name, content in kept.items() if PASSWORD.encode() in content] == []
    assert PASSWORD not in f"{found!r} {found} {caplog.text}"


async def test_a_password_without_a_key_is_refused_and_nothing_is_stored(store, url):
    keyless = ConfigStore(url, SecretBox([]))
    with pytest.raises(SecretKeyMissing):
        await keyless.put(with_password())
    assert (await keyless.put(record(ACME))).version == 1
    await keyless.close()
    assert [found.scope for found in await store.list()] == [ACME]


async def test_an_unreadable_password_names_its_record_and_how_many_there_are(store, url):
    await store.put(record())
    for scope in (ACME, DEV):
        await store.put(with_password(scope, "night shift"))
    stranger = ConfigStore(url, SecretBox([OTHER_KEY]))
    await stranger.put(with_password(OTHER))
    with pytest.raises(SecretUnreadable, match=r"^2 of .*record 'night shift' of partner:acme: .*POSTBOTE_SECRET_KEYS"):
        await stranger.verify_secrets()
    with pytest.raises(SecretUnreadable, match="record 'night shift' of org:acme/dev"):
        await stranger.opened(DEV, "night shift")
    await stranger.close()


async def test_readable_passwords_verify(store):
    await store.put(record())
    await store.put(with_password(ACME))
    await store.verify_secrets()


async def test_stored_passwords_without_any_key_do_not_verify(store, url):
    await store.put(with_password())
    keyless = ConfigStore(url, SecretBox([]))
    with pytest.raises(SecretKeyMissing):
        await keyless.verify_secrets()
    await keyless.close()


@pytest.mark.parametrize(
    ("unreadable", "feature", "error"),
    [
        ((DEV,), True, True),
        ((DEV,), False, False),
        ((ACME,), True, False),
        ((CONTROLLER, ACME), True, False),
        ((CONTROLLER, DEV), False, False),
        ((ACME,), False, True),
        ((DEV, ACME, CONTROLLER), False, True),
    ],
)
async def test_an_unreadable_password_stops_only_the_mail_that_its_record_would_send(
    store, url, unreadable, feature, error
):
    stranger = ConfigStore(url, SecretBox([OTHER_KEY]))
    for scope in (CONTROLLER, ACME, DEV):
        await (stranger if scope in unreadable else store).put(with_password(scope))
    await stranger.close()
    await store.set_org_feature(DEV, on=feature)
    if error:
        with pytest.raises(SecretUnreadable):
            await store.configs_for(DEV)
    else:
        assert set((await store.configs_for(DEV)).records) == {CONTROLLER, ACME, DEV} - set(unreadable)


async def test_a_lone_unreadable_org_record_whose_feature_is_off_does_not_exist(store, url):
    stranger = ConfigStore(url, SecretBox([OTHER_KEY]))
    await stranger.put(with_password(DEV))
    await stranger.close()
    assert (await store.configs_for(DEV)).records == {}


async def test_an_unreadable_record_can_be_replaced_and_deleted(store, url):
    stranger = ConfigStore(url, SecretBox([OTHER_KEY]))
    await store.put(with_password(ACME))
    await store.put(with_password(DEV))
    assert await stranger.remove(ACME, "default")
    assert (await stranger.put(with_password(DEV))).version == 2
    await stranger.verify_secrets()
    await stranger.close()


async def test_resealing_lets_the_old_key_go_and_keeps_versions(store, url):
    before = [await store.put(with_password(ACME)), await store.put(with_password(DEV))]
    await store.put(record())
    rotating, after = ConfigStore(url, SecretBox([OTHER_KEY, KEY])), ConfigStore(url, SecretBox([OTHER_KEY]))
    assert await rotating.reseal() == 2
    assert [await after.opened(ACME, "default"), await after.opened(DEV, "default")] == before
    await rotating.close()
    await after.close()


async def test_resealing_changes_nothing_where_one_password_is_unreadable(store, url):
    await store.put(with_password(ACME))
    stranger = ConfigStore(url, SecretBox([OTHER_KEY]))
    await stranger.put(with_password(DEV))
    rotating = ConfigStore(url, SecretBox([new_key(), KEY]))
    with pytest.raises(SecretUnreadable, match="org:acme/dev"):
        await rotating.reseal()
    assert (await store.opened(ACME, "default")).password.get_secret_value() == PASSWORD
    await rotating.close()
    await stranger.close()
