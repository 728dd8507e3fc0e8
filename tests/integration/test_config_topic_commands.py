"""`postbote config` with the config topic in use: what the commands publish, and what they say when they cannot."""

import asyncio
import contextlib
import json

import pytest
from typer.testing import CliRunner

from tests.unit.config_topic.samples import ACME, BOX, DEV, KEY
from worker.cli_config import config_app
from worker.rabbit.config_topic import open_config_topic
from worker.rabbit.connection import open_link
from worker.rabbit.declaring import declare

PATIENCE_S = 30
SERVER = ("--host", "smtp.example.net", "--port", "587")


async def declared(url):
    link = await open_link(url, "test declares")
    await declare(link)
    await link.close()


@pytest.fixture
def env(amqp_url, tmp_path):
    asyncio.run(declared(amqp_url))  # a command waits for 5 s in all, in which it would have to declare everything
    return {
        "POSTBOTE_AMQP_URL": amqp_url,
        "POSTBOTE_DATABASE_URL": f"sqlite:///{tmp_path / 'postbote.db'}",
        "POSTBOTE_SECRET_KEYS": KEY,
        "POSTBOTE_CONFIG_SOURCE": "topic",
    }


def config(env, *arguments, code=0, stdin=None):
    done = CliRunner().invoke(config_app, arguments, env=env, input=stdin)
    assert done.exit_code == code, done.output
    return done


@contextlib.contextmanager
def reading(url):
    """Ask a reader of the topic, until it answers as expected."""

    async def answer(scope, expected):
        async with open_config_topic(url, BOX.open) as topic, asyncio.timeout(PATIENCE_S):
            while True:
                found = await topic.configs_for(scope)
                shown = {str(s): c.version for s, c in found.records.items()}, found.org_enabled
                if shown == expected and topic.missing() is None:
                    return
                await asyncio.sleep(0.01)  # polling: a reader announces nothing

    yield lambda scope, records, *, on=False: asyncio.run(answer(scope, (records, on)))


def test_every_change_by_command_reaches_the_workers(env, amqp_url):
    with reading(amqp_url) as workers_have:
        config(env, "set", "--scope", "partner:acme", *SERVER, "--username", "m", "--password-stdin", stdin="secret")
        workers_have(ACME, {"partner:acme": 1})
        config(env, "set", "--scope", "org:acme/dev", *SERVER)
        config(env, "feature", "--scope", "org:acme/dev", "--on")
        workers_have(DEV, {"partner:acme": 1, "org:acme/dev": 1}, on=True)
        config(env, "delete", "--scope", "org:acme/dev", "--yes")
        workers_have(DEV, {"partner:acme": 1}, on=True)


def test_a_topic_that_is_away_is_said_and_made_good_by_a_snapshot(env, amqp_url):
    away = env | {"POSTBOTE_AMQP_URL": "amqp://guest:guest@127.0.0.1:1/%2F"}
    done = config(away, "set", "--scope", "partner:acme", *SERVER, code=1)
    assert done.stdout == "saved record 'default' of partner:acme, version 1\n"
    assert done.stderr.splitlines()[-1].startswith("the store has it, but workers were not told: ")
    assert done.stderr.splitlines()[-1].endswith("make it good with `postbote config publish-snapshot`")
    assert "guest" not in done.stderr
    snapshot = json.loads(config(env, "publish-snapshot", "--json").stdout)
    assert {name: snapshot[name] for name in ("records", "deletes", "features", "messages")} == {
        "records": 1, "deletes": 0, "features": 0, "messages": 3,
    }  # fmt: skip
    with reading(amqp_url) as workers_have:
        workers_have(ACME, {"partner:acme": 1})
        config(env, "publish-snapshot")
        workers_have(ACME, {"partner:acme": 1})


def test_the_store_as_source_needs_no_broker(env):
    away = env | {"POSTBOTE_AMQP_URL": "amqp://guest:guest@127.0.0.1:1/%2F", "POSTBOTE_CONFIG_SOURCE": "store"}
    config(away, "set", "--scope", "controller", *SERVER)
    assert "publish-snapshot" not in config(away, "delete", "--scope", "controller", "--yes").stderr


def test_a_store_without_records_is_no_snapshot_unless_that_is_meant(env, amqp_url, tmp_path):
    config(env, "set", "--scope", "partner:acme", *SERVER)
    wrong = env | {"POSTBOTE_DATABASE_URL": f"sqlite:///{tmp_path / 'wrong.db'}"}
    assert "--allow-empty" in config(wrong, "publish-snapshot", code=2).stderr
    with reading(amqp_url) as workers_have:
        workers_have(ACME, {"partner:acme": 1})
        config(wrong, "publish-snapshot", "--allow-empty")
        workers_have(ACME, {})
        config(env, "publish-snapshot")
        workers_have(ACME, {"partner:acme": 1})


def test_a_store_from_a_backup_counts_in_a_topic_made_anew(env, amqp_url, tmp_path):
    config(env, "set", "--scope", "partner:acme", *SERVER)
    backup = (tmp_path / "postbote.db").read_bytes()
    (tmp_path / "backup.db").write_bytes(backup)
    config(env, "set", "--scope", "partner:acme", *SERVER)
    restored = env | {"POSTBOTE_DATABASE_URL": f"sqlite:///{tmp_path / 'backup.db'}"}
    with reading(amqp_url) as workers_have:
        config(restored, "publish-snapshot")
        workers_have(ACME, {"partner:acme": 2})
        config(restored, "publish-snapshot", "--anew")
        workers_have(ACME, {"partner:acme": 1})
