"""`postbote secrets rotate-key` with old and new keys side by side, on both databases."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from tests.control.store.samples import ACME, CONTROLLER, DEV, KEY, OPS, OTHER, PASSWORD, record, with_password
from worker.cli_secrets import secrets_app
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.store.configs import ConfigStore
from worker.store.database import Store
from worker.store.secrets import SecretBox, new_key

OLD, NEW, LOST = KEY, new_key(), new_key()
SIGNED = {"dkim_domain": "example.net", "dkim_selector": "mail1", "dkim_key": "-----BEGIN RSA PRIVATE KEY-----\n"}
BEFORE_THE_OLD_KEY_GOES = "run `postbote config publish-snapshot` before an older key is dropped"


@pytest.fixture(autouse=True)
def _schema(url):
    asyncio.run(Store(url).upgrade())


def with_keys(url, keys, *work):
    """What coroutine functions of a store with these keys return."""

    async def inside():
        store = ConfigStore(url, SecretBox(keys))
        try:
            return [await each(store) for each in work]
        finally:
            await store.close()

    return asyncio.run(inside())


def save(url, key, *records):
    return with_keys(url, [key], *(lambda store, r=r: store.put(r) for r in records))


def opened(url, *keys):
    return with_keys(url, keys, lambda store: store.list())[0]


def sealed(url):
    """Every token, as it is stored."""
    return {
        (put.scope, put.name): (put.secret, put.dkim_secret) for put in with_keys(url, [], lambda s: s.changes())[0]
    }


def rotate(url, *keys, options=(), source="store"):
    env = {
        "POSTBOTE_DATABASE_URL": url,
        "POSTBOTE_SECRET_KEYS": ",".join(keys),
        "POSTBOTE_CONFIG_SOURCE": source,
    }
    done = CliRunner().invoke(secrets_app, ["rotate-key", *options], env=env)
    shown = f"{done.output} {done.stderr} {done.exception}"
    assert [secret for secret in (PASSWORD, OLD, NEW, LOST) if secret in shown] == []
    return done


def counted(url, *keys, options=(), **given):
    done = rotate(url, *keys, options=("--json", *options), **given)
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def test_after_a_rotation_the_old_key_can_be_dropped_and_nothing_else_has_changed(url):
    before = save(
        url, OLD, with_password(ACME), with_password(DEV, **SIGNED), record(CONTROLLER), record(OPS, **SIGNED)
    )
    done = rotate(url, NEW, OLD)
    assert done.stdout == "sealed 3 records with the first key, 3 of which had an older one\n"
    assert done.stderr == ""
    assert sorted(map(str, opened(url, NEW))) == sorted(map(str, before))
    assert {found.dkim_key.get_secret_value() for found in opened(url, NEW) if found.dkim_domain} == {
        SIGNED["dkim_key"]
    }
    with pytest.raises(SecretUnreadable):
        opened(url, OLD)


def test_a_second_rotation_finds_nothing_to_do_and_writes_nothing(url):
    save(url, OLD, with_password(ACME), with_password(DEV))
    assert counted(url, NEW, OLD) == {
        "records": 2, "secrets": 0, "older": 2, "resealed": 2, "snapshot_due": False, "dry_run": False,
    }  # fmt: skip
    tokens = sealed(url)
    assert counted(url, NEW, OLD)["resealed"] == 0
    assert "2 records with a secret are sealed with the first key already" in rotate(url, NEW, OLD).stdout
    assert sealed(url) == tokens


def test_records_of_both_keys_side_by_side_are_counted_apart(url):
    save(url, OLD, with_password(ACME))
    save(url, NEW, with_password(DEV))
    assert len(opened(url, NEW, OLD)) == len(opened(url, OLD, NEW)) == 2
    found = counted(url, NEW, OLD)
    assert (found["records"], found["older"]) == (2, 1)
    assert len(opened(url, NEW)) == 2


def test_a_signing_key_under_the_old_key_beside_a_password_under_the_new_one_is_sealed_anew(url):
    save(url, OLD, with_password(ACME, **SIGNED))
    ((_, signing),) = sealed(url).values()
    save(url, NEW, with_password(ACME, **SIGNED))

    async def put_back(store):
        from sqlalchemy import text

        async with store.database.writing() as connection:
            await connection.execute(text("UPDATE smtp_configs SET dkim_secret = :old"), {"old": signing})

    with_keys(url, [], put_back)
    assert counted(url, NEW, OLD)["older"] == 1
    assert opened(url, NEW)[0].dkim_key.get_secret_value() == SIGNED["dkim_key"]


def test_a_dry_run_counts_and_changes_nothing(url):
    save(url, OLD, with_password(ACME), with_password(DEV))
    save(url, NEW, with_password(OTHER))
    tokens = sealed(url)
    assert rotate(url, NEW, OLD, options=("--dry-run",)).stdout == (
        "2 of 3 records with a secret would be sealed anew with the first key\n"
    )
    found = counted(url, NEW, OLD, options=("--dry-run",))
    assert (found["older"], found["resealed"], found["dry_run"]) == (2, 0, True)
    assert sealed(url) == tokens


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["for real", "dry run"])
def test_every_secret_that_no_key_opens_is_named_and_nothing_is_changed(url, options):
    save(url, OLD, with_password(ACME), with_password(OTHER))
    save(url, LOST, with_password(DEV, "night shift"), record(OPS, **SIGNED))
    tokens = sealed(url)
    done = rotate(url, NEW, OLD, options=options)
    assert isinstance(done.exception, SecretUnreadable)
    said = str(done.exception)
    assert said.startswith("nothing was changed: none of the keys in POSTBOTE_SECRET_KEYS opens 2 of 4 records: ")
    assert "record 'night shift' of org:acme/dev" in said
    assert "record 'default' of org:acme/ops" in said
    assert "umbrella" not in said
    assert sealed(url) == tokens


def test_a_secret_that_turns_unreadable_while_it_runs_undoes_all_of_it(url, monkeypatch):
    save(url, OLD, with_password(ACME), with_password(DEV))
    original = ConfigStore.reseal

    async def after_somebody_saved(store):
        stranger = ConfigStore(url, SecretBox([LOST]))
        await stranger.put(with_password(OTHER))
        await stranger.close()
        return await original(store)

    monkeypatch.setattr(ConfigStore, "reseal", after_somebody_saved)
    done = rotate(url, NEW, OLD)
    assert "record 'default' of partner:umbrella" in str(done.exception)
    box = SecretBox([OLD])
    assert [box.open(sealed(url)[scope, "default"][0]) for scope in (ACME, DEV)] == [PASSWORD] * 2


def test_where_workers_read_the_topic_a_snapshot_is_asked_for_before_the_key_goes(url):
    assert rotate(url, NEW, OLD, source="topic").stderr == "", "there is nothing to publish"
    save(url, OLD, with_password(ACME))
    assert rotate(url, NEW, OLD, source="topic", options=("--dry-run",)).stderr == ""
    for _ in range(2):
        assert rotate(url, NEW, OLD, source="topic").stderr.rstrip().endswith(BEFORE_THE_OLD_KEY_GOES)
    assert counted(url, NEW, OLD, source="topic")["snapshot_due"]


def test_secrets_without_any_key_are_an_error_and_no_secrets_are_none(url):
    assert rotate(url).stdout == "no record holds a secret: there is nothing to seal\n"
    save(url, OLD, with_password(ACME))
    done = rotate(url)
    assert isinstance(done.exception, SecretKeyMissing)
    assert "POSTBOTE_SECRET_KEYS is empty" in str(done.exception)


def test_a_password_that_is_changed_during_a_rotation_is_not_put_back(url, monkeypatch):
    names = [f"record {number:02}" for number in range(40)]
    save(url, OLD, *(with_password(ACME, name) for name in names))
    changed = with_password(ACME, names[-1], password="changed meanwhile")

    async def change_the_last_while_the_first_is_sealed():
        rotating, neighbour = (ConfigStore(url, SecretBox([NEW, OLD])) for _ in range(2))
        puts, reseal = [], SecretBox.reseal

        def first_start_the_put(box, token):
            if not puts:
                puts.append(asyncio.create_task(neighbour.put(changed)))
            return reseal(box, token)

        monkeypatch.setattr(SecretBox, "reseal", first_start_the_put)
        assert await rotating.reseal() == 40
        await asyncio.gather(*puts)
        await rotating.close()
        await neighbour.close()

    asyncio.run(change_the_last_while_the_first_is_sealed())
    passwords = {found.display_name: found.password.get_secret_value() for found in opened(url, NEW)}
    assert passwords == dict.fromkeys(names, PASSWORD) | {names[-1]: "changed meanwhile"}


def test_records_that_are_saved_and_read_during_rotations_stay_readable_with_the_keys_side_by_side(url):
    save(url, OLD, *(with_password(ACME, name) for name in "abc"))

    async def all_at_once():
        old_first, new_first = (ConfigStore(url, SecretBox(keys)) for keys in ([OLD, NEW], [NEW, OLD]))

        async def use(store):
            for name in "abcabc":
                await store.put(with_password(ACME, name))
                await store.configs_for(ACME)
                await store.verify_secrets()

        async def rotate_often():
            for _ in range(5):
                await new_first.reseal()

        await asyncio.gather(use(old_first), use(new_first), rotate_often())
        assert await new_first.reseal() == 3
        await old_first.close()
        await new_first.close()

    asyncio.run(all_at_once())
    assert [found.version for found in opened(url, NEW)] == [5, 5, 5]
