"""The store on SQLite and on PostgreSQL: schema steps, writers in several processes, what the topic is told."""

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest
from alembic import command
from sqlalchemy import text

from schemas.audit_change import Action
from schemas.config_change import Delete, Feature
from tests.control.store.samples import ACME, ADA, CONTROLLER, DEV, KEY, OPS, PASSWORD, draft, record, with_password
from tests.control.store.test_configs import FULL
from tests.control.store.test_database import UPGRADE_WHEN_TOLD
from worker.control.records import KeepPassword, SecretName, UseSecret
from worker.errors import StoreUnavailable
from worker.store import schema
from worker.store.configs import ConfigStore
from worker.store.database import Store
from worker.store.secrets import SecretBox

WRITE_WHEN_TOLD = """
import asyncio, sys
from tests.control.store.samples import ACME, KEY, record
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox

async def write():
    store = ConfigStore(sys.argv[1], SecretBox([KEY]))
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        print((await store.put(record(ACME))).version)
    await store.close()

asyncio.run(write())
"""
OF_THE_FIRST_SCHEMA = """
INSERT INTO smtp_configs (partner, org, display_name, host, port, tls, verify_tls, allowed_from, retries,
    max_connections, timeout_s, version, is_default, created_at, updated_at)
VALUES ('acme', '', 'default', 'smtp.example.net', 587, 'starttls', TRUE, '["*@example.net"]', 3,
    5, 30, 7, TRUE, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)
"""

OF_THE_THIRD_SCHEMA = """
INSERT INTO smtp_configs (partner, org, display_name, host, port, tls, verify_tls, allowed_from, retries, username,
    secret, dkim_domain, dkim_selector, dkim_secret, max_connections, timeout_s, version, is_default, created_at,
    updated_at)
VALUES (:partner, :org, :name, 'smtp.example.net', 587, 'starttls', TRUE, '["*@example.net"]', 3, 'mailer',
    :secret, 'example.net', 'mail1', :dkim, 5, 30, :version, :first, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)
"""


async def bring_to(store: Store, revision: str, by: Callable[..., None] = command.upgrade) -> None:
    """Run the schema's steps up to `revision`, as an older Postbote did, or back to it."""

    def steps(connection):
        config = schema._config()
        config.attributes["connection"] = connection
        by(config, revision)

    if store.is_sqlite:
        store._create_private_file()
    async with store.writing() as connection:
        await connection.run_sync(steps)


def at_once(script: str, *arguments: str, processes: int) -> list[str]:
    """What processes print that run `script` and wait for each other before they touch the database."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([sys.executable, "-c", script, *arguments], **pipes) for _ in range(processes)]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = []
    for process in running:
        out, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        printed.append(out)
    return printed


@pytest.fixture
async def fresh(url):
    opened = Store(url)
    yield opened
    await opened.close()


@pytest.mark.parametrize("revision", schema.revisions()[:-1])
async def test_every_older_schema_is_refused_with_the_command_that_mends_it(fresh, revision):
    await bring_to(fresh, revision)
    with pytest.raises(StoreUnavailable, match=rf"has schema {revision}, .* run `postbote db upgrade`$"):
        await fresh.check_schema()
    await fresh.upgrade()
    await fresh.check_schema()


async def test_a_record_of_the_first_schema_is_read_after_the_upgrade_and_its_versions_go_on(fresh):
    await bring_to(fresh, schema.revisions()[0])
    async with fresh.writing() as connection:
        await connection.execute(text(OF_THE_FIRST_SCHEMA))
        await connection.execute(text("INSERT INTO config_versions VALUES ('acme', '', 'default', 7)"))
        await connection.execute(text("INSERT INTO features VALUES ('acme', 'dev', TRUE)"))
    await fresh.upgrade()
    store = ConfigStore(fresh, SecretBox([KEY]))
    said = {"allowed_from": ("*@example.net",), "retries": 3, "max_connections": 5, "timeout_s": 30.0, "version": 7}
    assert await store.opened(ACME, "default") == record(ACME, **said)
    assert await store.org_feature(DEV)
    assert (await store.put(record(ACME))).version == 8


async def test_records_from_before_named_secrets_keep_passwords_places_and_can_be_gone_back_to(fresh):
    await bring_to(fresh, "0003")
    box = SecretBox([KEY])
    async with fresh.writing() as connection:
        for number, (key, name) in enumerate(
            [(("acme", ""), "first"), (("acme", ""), "second"), (("acme", "dev"), "own")]
        ):
            given = {"partner": key[0], "org": key[1], "name": name, "first": name != "second"}
            secrets = {"secret": box.seal(f"password {number}"), "dkim": box.seal("a key")}
            await connection.execute(text(OF_THE_THIRD_SCHEMA), {**given, **secrets, "version": number + 4})
            high_water = text("INSERT INTO config_versions VALUES (:partner, :org, :name, :version)")
            await connection.execute(high_water, {**dict(list(given.items())[:3]), "version": number + 4})
    await fresh.upgrade()
    store = ConfigStore(fresh, box)
    await store.verify_secrets()
    assert [found.password.get_secret_value() for found in await store.list()] == [f"password {n}" for n in range(3)]
    first, second = await store.records(ACME)
    assert (first.name, first.is_default, second.secret) == ("first", True, SecretName(ACME, "config:second"))
    async with fresh.reading() as connection:
        owners = (await connection.execute(text("SELECT partner, org, name FROM secrets"))).all()
    assert sorted(map(tuple, owners)) == [
        ("acme", "", "config:first"), ("acme", "", "config:second"), ("acme", "dev", "config:own"),
    ]  # fmt: skip
    signed = {"dkim_domain": "example.net", "dkim_selector": "mail1"}
    kept = await store.save(draft(ACME, "second", KeepPassword(), retries=9, **signed), ADA)
    assert (kept.version, kept.dkim_key_set) == (6, True)
    back = await store.roll_back(ACME, "second", 5, ADA)
    assert (back.version, back.fields["retries"], back.fields["allowed_from"]) == (7, 3, ["*@example.net"])
    assert (await store.opened(ACME, "second")).password.get_secret_value() == "password 1"
    await store.order(ACME, ["second", "first"], ADA)
    assert (await store.configs_for(DEV)).records[ACME].display_name == "second"
    assert await store.remove(DEV, "own", ADA)


async def test_the_step_can_be_taken_back_and_again_without_losing_a_password(fresh):
    await fresh.upgrade()
    store = ConfigStore(fresh, SecretBox([KEY]))
    await store.create_secret(ACME, "relay", "by name", ADA, shared=True)
    await store.save(draft(DEV, password=UseSecret("relay")), ADA)
    await store.put(with_password(ACME))
    await bring_to(fresh, "0003", by=command.downgrade)
    with pytest.raises(StoreUnavailable, match="has schema 0003"):
        await fresh.check_schema()
    await fresh.upgrade()
    found = [config.password.get_secret_value() for config in await store.list()]
    assert found == [PASSWORD, "by name"]
    assert (await store.record(DEV, "default")).secret == SecretName(DEV, "config:default")


async def test_an_upgrade_that_fails_midway_leaves_the_older_schema_whole(fresh, monkeypatch):
    first, last = schema.revisions()[0], schema.revisions()[-1]
    await bring_to(fresh, first)
    original = schema.upgrade

    def fail_at_the_end(connection):
        original(connection)
        raise RuntimeError

    monkeypatch.setattr(schema, "upgrade", fail_at_the_end)
    with pytest.raises(RuntimeError):
        await fresh.upgrade()
    monkeypatch.undo()
    with pytest.raises(StoreUnavailable, match=f"has schema {first}, this version needs {last}"):
        await fresh.check_schema()
    await fresh.upgrade()


def test_processes_that_upgrade_one_database_at_once_all_succeed(url):
    at_once(UPGRADE_WHEN_TOLD, url, processes=3)

    async def version():
        store = Store(url)
        await store.check_schema()
        async with store.reading() as connection:
            found = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars().all()
        await store.close()
        return found

    assert asyncio.run(version()) == [schema.revisions()[-1]]


async def test_an_upgrade_waits_for_one_that_is_under_way_and_then_has_nothing_to_do(fresh, url):
    neighbour = Store(url)
    if fresh.is_sqlite:
        fresh._create_private_file()
    async with fresh.writing() as connection:
        await connection.run_sync(schema.upgrade)
        second = asyncio.create_task(neighbour.upgrade())
        done, _ = await asyncio.wait({second}, timeout=0.5)
        assert not done
    await second
    await neighbour.check_schema()
    await neighbour.close()


def test_writers_in_several_processes_number_one_records_versions_without_gap_or_double(url):
    asyncio.run(Store(url).upgrade())
    printed = at_once(WRITE_WHEN_TOLD, url, "20", processes=3)
    taken = [[int(line) for line in lines.split()] for lines in printed]
    assert sorted(version for versions in taken for version in versions) == list(range(1, 61))
    assert all(versions == sorted(versions) for versions in taken)


async def test_puts_and_deletes_of_one_scope_at_once_leave_one_default_and_rising_versions(store, url):
    neighbour = ConfigStore(url, SecretBox([KEY]))
    for name in "abc":
        await store.put(record(ACME, name))
    await asyncio.gather(
        *(chosen.put(record(ACME, name)) for chosen in (store, neighbour) for name in "abcd"),
        *(chosen.remove(ACME, name) for chosen in (store, neighbour) for name in "ab"),
        store.set_org_feature(DEV, on=True),
    )
    await neighbour.close()
    found = await store.records(ACME)
    assert [summary.is_default for summary in found] == [True] + [False] * (len(found) - 1)
    for name in "abcd":
        await store.put(record(ACME, name))
        numbers = [entry.version for entry in await store.history(ACME, name) if entry.action is not Action.DELETED]
        assert numbers == list(range(len(numbers), 0, -1))


async def test_first_records_at_once_in_a_scope_that_was_emptied_leave_one_default(store, url):
    neighbour = ConfigStore(url, SecretBox([KEY]))
    await store.put(record(ACME))
    await store.remove(ACME, "default")
    both = (store, neighbour)
    # Connections that stand already: else the first writer is done before the others have logged in.
    await asyncio.gather(*(chosen.records() for _ in range(4) for chosen in both))
    await asyncio.gather(*(chosen.put(record(ACME, f"{n}")) for n, chosen in enumerate(both * 4)))
    await neighbour.close()
    assert [summary.is_default for summary in await store.records(ACME)] == [True] + [False] * 7


async def test_the_topic_is_told_of_records_deletes_and_features_with_secrets_sealed(store):
    await store.put(FULL)
    await store.put(with_password(ACME))
    await store.put(record(ACME, "gone"))
    await store.remove(ACME, "gone")
    await store.set_org_feature(DEV, on=True)
    everything = await store.changes()
    assert Delete(partner="acme", display_name="gone", version=1) in everything
    assert Feature(partner="acme", org="dev", org_smtp=True, version=1) in everything
    puts = {put.scope: put for put in everything if put.kind == "put"}
    assert puts[DEV].config.opened(PASSWORD, FULL.dkim_key.get_secret_value()) == FULL
    box = SecretBox([KEY])
    assert box.open(puts[DEV].dkim_secret) == FULL.dkim_key.get_secret_value()
    assert {box.open(put.secret) for put in puts.values()} == {PASSWORD}
    assert PASSWORD not in repr(everything)


async def test_the_topic_is_told_of_one_scope_alone(store):
    for scope in (CONTROLLER, ACME, DEV, OPS):
        await store.put(record(scope))
        await store.put(record(scope, "gone"))
        await store.remove(scope, "gone")
    await store.set_org_feature(DEV, on=True)
    assert [(change.kind, change.scope) for change in await store.changes(DEV)] == [
        ("put", DEV), ("delete", DEV), ("feature", DEV),
    ]  # fmt: skip
    assert {change.scope for change in await store.changes(CONTROLLER)} == {CONTROLLER}


async def test_a_reader_sees_one_state_though_another_one_writes_meanwhile(store, url):
    neighbour = ConfigStore(url, SecretBox([KEY]))
    names = text("SELECT display_name FROM smtp_configs")
    await store.put(record(ACME, "deleted meanwhile"))
    async with store.database.reading() as connection:
        before = (await connection.execute(names)).scalars().all()
        await neighbour.remove(ACME, "deleted meanwhile")
        await neighbour.put(record(ACME, "made meanwhile"))
        assert (await connection.execute(names)).scalars().all() == before == ["deleted meanwhile"]
    await neighbour.close()
    assert [summary.name for summary in await store.records()] == ["made meanwhile"]
    assert (await store.put(record(ACME, "made meanwhile"))).version == 2


async def test_text_of_every_script_and_length_comes_back(store):
    name = "Nachtschicht – 夜勤 🌙"
    pem = "-----BEGIN CERTIFICATE-----\n" + "x" * 200_000
    saved = await store.put(record(ACME, name, ca_bundle=pem, allowed_from=("*@bücher.example",)))
    assert await store.opened(ACME, name) == saved


async def test_the_database_itself_refuses_a_second_default_and_a_second_record_of_a_name(store):
    await store.put(record(ACME, "a"))
    await store.put(record(ACME, "b"))
    for forged in ("is_default = TRUE", "display_name = 'a'"):
        with pytest.raises(StoreUnavailable):
            async with store.database.writing() as connection:
                await connection.execute(text(f"UPDATE smtp_configs SET {forged}"))
