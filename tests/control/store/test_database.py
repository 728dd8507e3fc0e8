"""The database: addresses, upgrades, the schema's check, errors translated."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from schemas.smtp_config import Scope
from tests.control.store.samples import KEY, PASSWORD, record, with_password
from worker.errors import SettingsError, StoreUnavailable
from worker.store import database, schema
from worker.store.configs import ConfigStore
from worker.store.database import Store
from worker.store.models import metadata
from worker.store.secrets import SecretBox

UPGRADE_WHEN_TOLD = """
import asyncio, sys
from worker.store.database import Store
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(Store(sys.argv[1]).upgrade())
"""


@pytest.fixture
async def fresh(url):
    store = Store(url)
    yield store
    await store.close()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "postbote.db",
        "mysql://localhost/x",
        "postgresql+asyncpg://localhost/x",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
    ],
)
def test_an_address_of_no_usable_database_names_the_setting_and_the_forms(address):
    with pytest.raises(SettingsError, match=r"^POSTBOTE_DATABASE_URL: .*sqlite:///FILE or postgresql://"):
        Store(address)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_is_the_psycopg_driver(scheme):
    store = Store(f"{scheme}://mailer:hunter2@db.example.net/postbote")
    assert store._engine.dialect.driver == "psycopg"
    assert not store.is_sqlite
    assert store.location == "db.example.net/postbote"


async def test_the_steps_build_exactly_the_tables_of_the_models(fresh):
    await fresh.upgrade()
    async with fresh.reading() as connection:
        difference = await connection.run_sync(lambda c: compare_metadata(MigrationContext.configure(c), metadata))
    assert difference == []


async def test_an_upgrade_uses_wal_and_may_be_repeated(fresh):
    await fresh.upgrade()
    await fresh.upgrade()
    await fresh.check_schema()
    async with fresh.reading() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"


async def test_the_folder_of_a_new_database_is_made(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'deep' / 'er' / 'postbote.db'}")
    await store.upgrade()
    await store.check_schema()
    await store.close()


async def test_a_database_that_is_not_there_is_named_and_not_made_by_the_check(fresh, tmp_path):
    with pytest.raises(StoreUnavailable, match=r"no database at .*postbote\.db: .*`postbote db upgrade`"):
        await fresh.check_schema()
    assert list(tmp_path.iterdir()) == []


async def test_an_old_schema_names_the_command_that_upgrades_it(fresh, tmp_path):
    (tmp_path / "postbote.db").touch()
    with pytest.raises(StoreUnavailable, match=r"has schema none, .* run `postbote db upgrade`"):
        await fresh.check_schema()


async def test_opening_the_records_checks_the_schema(url, tmp_path):
    (tmp_path / "postbote.db").touch()
    store = ConfigStore(url, SecretBox([KEY]))
    with pytest.raises(StoreUnavailable, match="postbote db upgrade"):
        await store.open()
    await store.close()


async def test_a_schema_from_the_future_is_neither_used_nor_upgraded(fresh):
    await fresh.upgrade()
    async with fresh.writing() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (fresh.check_schema, fresh.upgrade):
        with pytest.raises(StoreUnavailable, match=r"schema 9999, .* newer Postbote"):
            await attempt()


async def test_an_upgrade_that_fails_midway_leaves_nothing_behind(fresh, monkeypatch):
    original = database.schema.upgrade

    def fail_at_the_end(connection):
        original(connection)
        raise RuntimeError

    monkeypatch.setattr(database.schema, "upgrade", fail_at_the_end)
    with pytest.raises(RuntimeError):
        await fresh.upgrade()
    async with fresh.reading() as connection:
        assert (await connection.execute(text("SELECT name FROM sqlite_master"))).all() == []


def test_two_processes_that_upgrade_one_new_file_at_once_both_succeed(url, tmp_path):
    command = [sys.executable, "-c", UPGRADE_WHEN_TOLD, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
    with sqlite3.connect(tmp_path / "postbote.db") as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchall() == [(schema.revisions()[-1],)]


async def test_stores_that_upgrade_one_new_file_at_once_all_succeed(url):
    stores = [Store(url) for _ in range(5)]
    await asyncio.gather(*(store.upgrade() for store in stores))
    for store in stores:
        await store.check_schema()
        await store.close()


async def test_an_upgrade_that_meets_another_one_switching_to_wal_tries_again(fresh, monkeypatch):
    switch, failures = database._use_wal, [sqlite3.OperationalError("database is locked")]

    async def locked_at_first(connection):
        if failures:
            raise DBAPIError("PRAGMA journal_mode=WAL", {}, failures.pop())
        await switch(connection)

    monkeypatch.setattr(database, "_use_wal", locked_at_first)
    await fresh.upgrade()
    await fresh.check_schema()


async def test_a_file_that_is_no_database_is_one_readable_line(fresh, tmp_path: Path):
    (tmp_path / "postbote.db").write_text("this is a letter, not a database " * 40)
    with pytest.raises(StoreUnavailable, match=r"postbote\.db cannot be used: file is not a database$"):
        await fresh.check_schema()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").touch()
    store = Store(f"sqlite:///{tmp_path / 'taken' / 'postbote.db'}")
    with pytest.raises(StoreUnavailable, match=r"cannot create the database .*taken"):
        await store.upgrade()


async def test_a_server_that_is_away_is_unavailable_and_its_password_stays_hidden():
    store = Store("postgresql://mailer:hunter2@127.0.0.1:1/postbote")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1/postbote cannot be used: ") as caught:
        await store.check_schema()
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    await store.close()


async def test_a_writer_waits_for_another_one_instead_of_failing(store, tmp_path):
    blocker = sqlite3.connect(tmp_path / "postbote.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.put(record()))
    reading = await store.list()  # readers do not wait for a writer
    assert reading == []
    assert not waiting.done()
    blocker.execute("COMMIT")
    blocker.close()
    assert (await waiting).version == 1


async def test_writers_that_read_before_they_write_take_turns(store):
    await store.put(record())

    async def raise_port():
        async with store.database.writing() as connection:
            port = (await connection.execute(text("SELECT port FROM smtp_configs"))).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(text("UPDATE smtp_configs SET port = :port"), {"port": port + 1})

    await asyncio.gather(*(raise_port() for _ in range(4)))
    assert (await store.opened(Scope(), "default")).port == record().port + 4


async def test_a_writers_error_does_not_quote_the_record(store, tmp_path, monkeypatch):
    async with store.database.writing() as connection:
        await connection.execute(text("DROP TABLE smtp_configs"))
    with pytest.raises(StoreUnavailable) as caught:
        await store.put(with_password(host="private.example.net"))
    for shown in (str(caught.value), str(caught.value.__cause__)):
        assert "private.example.net" not in shown
        assert PASSWORD not in shown


def test_the_steps_that_are_known_by_their_files_are_those_of_alembic_in_one_line() -> None:
    steps = list(ScriptDirectory.from_config(schema._config()).walk_revisions())
    assert schema.revisions() == [step.revision for step in reversed(steps)]
    assert [step.down_revision for step in reversed(steps)] == [None, *schema.revisions()[:-1]]
