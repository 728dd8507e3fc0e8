"""What the store tells the config topic: records, what was deleted, and features, sealed and numbered."""

import sqlite3

import pytest
from alembic import command
from sqlalchemy import create_engine

from tests.control.store.samples import record, with_password
from tests.support.databases import upgraded
from tests.unit.config_topic.samples import ACME, BOX, CONTROLLER, DEV, PASSWORD, changes, delete, feature
from worker.delivery.known_configs import KnownConfigs
from worker.errors import StoreUnavailable
from worker.store import schema
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox


@pytest.fixture
async def store(tmp_path):
    opened = ConfigStore(f"sqlite:///{tmp_path / 'postbote.db'}", BOX)
    await upgraded(opened.database)
    yield opened
    await opened.close()


async def test_an_empty_store_has_nothing_to_tell(store):
    assert await store.changes() == []


async def test_records_deletes_and_features_are_told_with_their_versions(store):
    await store.put(with_password(ACME))
    await store.put(record(DEV))
    await store.put(record(DEV))
    await store.remove(DEV, "default")
    await store.set_org_feature(DEV, on=True)
    await store.set_org_feature(DEV, on=False)
    told, gone, turned = await store.changes()
    assert (told.name, told.version, told.scope) == ("default", 1, ACME)
    assert BOX.open(told.secret) == PASSWORD
    assert (gone, turned) == (delete(DEV, version=2), feature(version=2, on=False))


async def test_one_scope_is_told_alone(store):
    for scope in (CONTROLLER, ACME, DEV):
        await store.put(record(scope))
        await store.remove(scope, "default")
    await store.set_org_feature(DEV, on=True)
    assert await store.changes(CONTROLLER) == [delete(CONTROLLER)]
    assert await store.changes(ACME) == [delete(ACME)]
    assert await store.changes(DEV) == [delete(DEV), feature()]


async def test_nothing_of_it_needs_a_key(store, tmp_path):
    await store.put(with_password(ACME))
    without = ConfigStore(f"sqlite:///{tmp_path / 'postbote.db'}", SecretBox([]))
    assert await without.changes() == await store.changes()
    await without.close()


@pytest.mark.parametrize("stored", ["not a token", PASSWORD])
async def test_what_is_no_sealed_password_is_never_told(store, tmp_path, stored):
    await store.put(with_password(ACME))
    with sqlite3.connect(tmp_path / "postbote.db") as plain:
        plain.execute("UPDATE smtp_configs SET secret = ?", (stored,))
    with pytest.raises(StoreUnavailable, match=r"record 'default' of partner:acme is not valid \(secret") as caught:
        await store.changes()
    assert stored not in str(caught.value)


async def test_a_reader_picks_the_default_that_the_store_picks(store):
    known = KnownConfigs()
    steps = [("put", "a"), ("put", "b"), ("put", "c"), ("delete", "a"), ("put", "a"), ("delete", "b"), ("delete", "c")]
    for position, (step, name) in enumerate(steps):
        await (store.put(record(ACME, name)) if step == "put" else store.remove(ACME, name))
        known.apply(changes(*await store.changes(ACME)), position)
        assert known.configs_for(ACME, BOX.open) == await store.configs_for(ACME)


async def test_features_of_an_older_database_get_their_first_version(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'postbote.db'}")
    with engine.begin() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    with sqlite3.connect(tmp_path / "postbote.db") as plain:
        plain.execute("INSERT INTO features (partner, org, org_smtp) VALUES ('acme', 'dev', 1), ('acme', 'ops', 0)")
    store = ConfigStore(f"sqlite:///{tmp_path / 'postbote.db'}", BOX)
    await upgraded(store.database)
    assert await store.changes() == [feature()]
    await store.set_org_feature(DEV, on=False)
    assert await store.changes() == [feature(version=2, on=False)]
    await store.close()
