"""The store's contract: records, versions, defaults, the org feature, lineages."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from schemas.smtp_config import Scope, SmtpConfig
from tests.control.store.samples import (
    ACME,
    CONTROLLER,
    DEV,
    KEY,
    OPS,
    OTHER,
    OTHER_KEY,
    PASSWORD,
    record,
    with_password,
)
from worker.delivery.ports import ConfigSource
from worker.errors import SecretUnreadable, StoreUnavailable
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox

DKIM_KEY = "-----BEGIN RSA PRIVATE KEY-----\nnobody else's\n-----END RSA PRIVATE KEY-----\n"
FULL = SmtpConfig(
    partner="acme",
    org="dev",
    display_name="night shift",
    host="smtp.example.net",
    port=465,
    tls="ssl",
    verify_tls=False,
    ca_bundle="-----BEGIN CERTIFICATE-----",
    username="mailer@example.net",
    password=PASSWORD,
    from_address="no-reply@example.net",
    reply_to="help@example.net",
    allowed_from=("*@example.net", "ceo@example.com"),
    retries=0,
    max_connections=7,
    rate_per_minute=90,
    timeout_s=12.5,
    chunking=True,
    require_tls=False,  # which a record that verifies nothing cannot have
    dkim_domain="example.net",
    dkim_selector="mail1",
    dkim_key=DKIM_KEY,
)


def modes_of(folder: Path) -> dict[str, str]:
    return {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}


async def default_of(store: ConfigStore, scope: Scope) -> str | None:
    found = (await store.configs_for(scope)).records.get(scope)
    return None if found is None else found.display_name


def test_the_full_record_sets_every_field_to_something_other_than_its_default():
    assert FULL.model_fields_set | {"version"} == set(SmtpConfig.model_fields)


async def test_every_field_comes_back_as_it_was_put(store):
    saved = await store.put(FULL)
    assert saved == FULL
    assert await store.opened(DEV, "night shift") == saved
    assert (await store.opened(DEV, "night shift")).password.get_secret_value() == PASSWORD
    assert (await store.opened(DEV, "night shift")).fingerprint == FULL.fingerprint


async def test_records_outlive_the_process(store, url):
    await store.put(FULL)
    await store.set_org_feature(DEV, on=True)
    await store.close()
    again = ConfigStore(url, SecretBox([KEY]))
    await again.open()
    assert await again.list() == [FULL]
    assert await again.org_feature(DEV)
    await again.close()


async def test_a_put_replaces_the_whole_record_and_merges_nothing(store):
    await store.put(with_password(reply_to="help@example.net"))
    bare = await store.put(record(host="other.example.net"))
    assert await store.list() == [bare]
    assert bare.password is None
    assert bare.reply_to is None


@pytest.mark.parametrize("scope", [CONTROLLER, ACME, DEV])
async def test_the_same_name_in_another_scope_is_another_record(store, scope):
    for other in (CONTROLLER, ACME, DEV, OPS, OTHER):
        await store.put(record(other))
    await store.put(record(scope, host="changed.example.net"))
    assert [found.scope for found in await store.list() if found.host == "changed.example.net"] == [scope]


async def test_a_version_goes_up_by_one_and_ignores_the_one_given(store):
    versions = [(await store.put(record(version=given))).version for given in (1, 1, 40, 2)]
    assert versions == [1, 2, 3, 4]


async def test_a_version_counts_for_one_name_in_one_scope(store):
    await store.put(record())
    assert (await store.put(record(name="second"))).version == 1
    assert (await store.put(record(ACME))).version == 1


async def test_a_record_that_was_deleted_and_made_anew_does_not_repeat_a_version(store):
    for _ in range(3):
        await store.put(record())
    await store.remove(CONTROLLER, "default")
    assert (await store.put(record())).version == 4


async def test_concurrent_puts_through_two_stores_get_distinct_versions(store, url):
    neighbour = ConfigStore(url, SecretBox([KEY]))
    puts = [chosen.put(record(ACME)) for _ in range(5) for chosen in (store, neighbour)]
    versions = sorted(saved.version for saved in await asyncio.gather(*puts))
    await neighbour.close()
    assert versions == list(range(1, 11))
    assert (await store.opened(ACME, "default")).version == 10


async def test_concurrent_first_records_of_a_scope_leave_one_default(store):
    await asyncio.gather(*(store.put(record(ACME, name)) for name in "abcdef"))
    assert [summary.is_default for summary in await store.records(ACME)] == [True] + [False] * 5


async def test_the_database_itself_refuses_a_second_default(store, tmp_path):
    await store.put(record(ACME, "a"))
    await store.put(record(ACME, "b"))
    with sqlite3.connect(tmp_path / "postbote.db") as other, pytest.raises(sqlite3.IntegrityError):
        other.execute("UPDATE smtp_configs SET is_default = 1")


async def test_the_first_record_of_a_scope_is_its_default_and_stays_it(store):
    await store.put(record(ACME, "first"))
    await store.put(record(ACME, "second"))
    await store.put(record(ACME, "first"))
    assert await default_of(store, ACME) == "first"
    assert [found.display_name for found in await store.list(ACME)] == ["first", "second"]


async def test_deleting_the_default_promotes_the_oldest_other_and_not_the_last_changed(store):
    for name in ("first", "second", "third", "second", "third"):
        await store.put(record(ACME, name))
    await store.put(record(OTHER, "elsewhere"))
    assert await store.remove(ACME, "first")
    assert await default_of(store, ACME) == "second"


async def test_deleting_another_record_leaves_the_default(store):
    await store.put(record(ACME, "first"))
    await store.put(record(ACME, "second"))
    assert await store.remove(ACME, "second")
    assert await default_of(store, ACME) == "first"


async def test_deleting_what_is_not_there_is_false_and_changes_nothing(store):
    await store.put(record(ACME))
    assert not await store.remove(ACME, "absent")
    assert not await store.remove(OTHER, "default")
    assert await store.opened(ACME, "absent") is None
    assert len(await store.list()) == 1


async def test_a_list_holds_exactly_the_scope_asked_for(store):
    for scope in (DEV, ACME, CONTROLLER, OPS):
        await store.put(record(scope))
    assert [found.scope for found in await store.list(ACME)] == [ACME]
    assert [found.scope for found in await store.list()] == [CONTROLLER, ACME, DEV, OPS]


async def test_an_org_feature_is_off_until_set_and_belongs_to_that_org_alone(store):
    assert not await store.org_feature(DEV)
    await store.set_org_feature(DEV, on=True)
    assert await store.org_feature(DEV)
    assert not await store.org_feature(OPS)
    await store.set_org_feature(DEV, on=False)
    assert not await store.org_feature(DEV)


async def test_saving_a_record_leaves_the_feature_as_it_is(store):
    await store.set_org_feature(DEV, on=True)
    await store.put(record(DEV))
    assert await store.org_feature(DEV)


@pytest.mark.parametrize("scope", [CONTROLLER, ACME])
async def test_the_feature_of_a_scope_that_is_no_org_is_refused(store, scope):
    with pytest.raises(ValueError, match="org:PARTNER/NAME"):
        await store.set_org_feature(scope, on=True)
    with pytest.raises(ValueError, match="org:PARTNER/NAME"):
        await store.org_feature(scope)


async def test_a_lineage_holds_the_defaults_of_its_scopes_and_no_other_tenants(store):
    for scope in (CONTROLLER, ACME, DEV, OPS, OTHER, Scope("umbrella", "dev")):
        await store.put(record(scope))
        await store.put(record(scope, "second"))
    source: ConfigSource = store
    found = await source.configs_for(DEV)
    assert {scope: config.scope for scope, config in found.records.items()} == {s: s for s in (CONTROLLER, ACME, DEV)}
    assert {config.display_name for config in found.records.values()} == {"default"}


@pytest.mark.parametrize(("scope", "enabled"), [(DEV, True), (OPS, False), (ACME, False), (CONTROLLER, False)], ids=str)
async def test_a_lineage_says_whether_that_very_org_counts(store, scope, enabled):
    await store.set_org_feature(DEV, on=True)
    assert (await store.configs_for(scope)).org_enabled is enabled


async def test_a_scope_nobody_wrote_to_has_an_empty_lineage(store):
    assert (await store.configs_for(DEV)).records == {}


async def test_a_stored_row_that_is_no_valid_record_is_named_with_its_field_and_not_its_value(store):
    await store.put(with_password(ACME))
    async with store.database.writing() as connection:
        await connection.execute(text("UPDATE smtp_configs SET port = 99999"))
    with pytest.raises(StoreUnavailable, match=r"record 'default' of partner:acme is not valid \(port: ") as caught:
        await store.list()
    assert "99999" not in str(caught.value)


async def test_a_failed_put_leaves_the_version_and_the_record_untouched(store, monkeypatch):
    await store.put(record())

    async def fail(*_args):
        raise RuntimeError

    monkeypatch.setattr("worker.store.saving.leave_put", fail)
    with pytest.raises(RuntimeError):
        await store.put(record(host="lost.example.net"))
    monkeypatch.undo()
    assert (await store.list())[0].host == "smtp.example.net"
    assert (await store.put(record())).version == 2


async def test_a_summary_holds_what_may_be_shown_and_needs_no_key(store, url):
    await store.put(FULL)
    keyless = ConfigStore(url, SecretBox([]))
    (summary,) = await keyless.records()
    await keyless.close()
    assert summary.password_set
    assert summary.is_default
    assert summary.fingerprint == FULL.fingerprint
    assert summary.warnings == FULL.warnings()
    assert summary.to_json()["scope"] == "org:acme/dev"
    assert set(summary.fields) == set(SmtpConfig.model_fields) - {"password", "dkim_key"}
    assert summary.dkim_key_set
    assert PASSWORD not in repr(summary)
    assert "nobody else" not in repr(summary)


async def test_the_signing_key_is_sealed_resealed_and_opened_like_the_password(store, url, tmp_path):
    signed = {"dkim_domain": "example.net", "dkim_selector": "mail1", "dkim_key": DKIM_KEY}
    await store.put(record(**signed))
    with sqlite3.connect(tmp_path / "postbote.db") as plain:
        (stored,) = plain.execute("SELECT dkim_secret FROM smtp_configs").fetchone()
    assert SecretBox([KEY]).open(stored) == DKIM_KEY
    rotating, after = ConfigStore(url, SecretBox([OTHER_KEY, KEY])), ConfigStore(url, SecretBox([OTHER_KEY]))
    assert await rotating.reseal() == 1
    assert (await after.opened(CONTROLLER, "default")).dkim_key.get_secret_value() == DKIM_KEY
    with pytest.raises(SecretUnreadable, match="controller"):
        await store.verify_secrets()
    await rotating.close()
    await after.close()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dkim_domain": "example.net"}, "dkim_selector is missing"),
        ({"dkim_key": DKIM_KEY, "dkim_selector": "mail1"}, "dkim_domain is missing"),
        ({"dkim_domain": "two words", "dkim_selector": "a", "dkim_key": DKIM_KEY}, "dkim_domain"),
        ({"require_tls": True, "verify_tls": False}, "certificate is verified"),
        ({"require_tls": True, "tls": "none"}, "require_tls needs TLS"),
    ],
)
def test_options_that_cannot_work_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        record(**fields)


async def test_the_database_is_readable_by_its_owner_alone(store, tmp_path):
    await store.put(record())
    assert modes_of(tmp_path) == dict.fromkeys(("postbote.db", "postbote.db-wal", "postbote.db-shm"), "0o600")
