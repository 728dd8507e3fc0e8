"""`postbote db upgrade` and `postbote config` on both databases; what refuses to run on an old schema."""

import asyncio
import json
import urllib.request

import pytest
from typer.testing import CliRunner

from tests.control.store.samples import KEY, PASSWORD
from tests.integration.store.test_both_databases import bring_to
from tests.support.process import run_postbote
from worker.cli_config import config_app
from worker.cli_secrets import secrets_app
from worker.store import schema
from worker.store.database import Store
from worker.store.outgoing import OutgoingShelf

SERVER = ("--host", "smtp.example.net", "--port", "587")


@pytest.fixture
def env(url, opensearch, index_prefix):
    return {
        "POSTBOTE_DATABASE_URL": url,
        "POSTBOTE_SECRET_KEYS": KEY,
        "POSTBOTE_CONFIG_SOURCE": "store",
        "POSTBOTE_OPENSEARCH_URL": opensearch.url,
        "POSTBOTE_AUDIT_INDEX_PREFIX": index_prefix,
    }


def config(env, *arguments, code=0, stdin=None):
    done = CliRunner().invoke(config_app, arguments, env=env, input=stdin)
    assert done.exit_code == code, done.output
    assert PASSWORD not in done.output + done.stderr
    return done


def shown(env, *arguments):
    return json.loads(config(env, *arguments, "--json").stdout)


def old_schema(url):
    async def make():
        store = Store(url)
        await bring_to(store, schema.revisions()[0])
        await store.close()

    asyncio.run(make())


def test_a_record_is_set_shown_listed_turned_on_and_deleted(env, url):
    asyncio.run(Store(url).upgrade())
    login = ("--username", "mailer", "--password-stdin")
    config(env, "set", "--scope", "partner:acme", *SERVER, *login, stdin=PASSWORD)
    config(env, "set", "--scope", "partner:acme", *SERVER, *login, stdin=PASSWORD)
    assert "records of org:acme/dev do not count" in config(env, "set", "--scope", "org:acme/dev", *SERVER).stderr
    config(env, "feature", "--scope", "org:acme/dev", "--on")
    assert "do not count" not in config(env, "set", "--scope", "org:acme/dev", *SERVER).stderr
    record = shown(env, "show", "--scope", "partner:acme")
    assert (record["version"], record["username"], record["password_set"]) == (2, "mailer", True)
    listed = [(record["scope"], record["version"]) for record in shown(env, "list")]
    assert listed == [("partner:acme", 2), ("org:acme/dev", 2)]
    config(env, "delete", "--scope", "partner:acme", "--yes")
    config(env, "delete", "--scope", "partner:acme", "--yes", code=1)
    assert [record["scope"] for record in shown(env, "list")] == ["org:acme/dev"]


def waiting(url):
    async def count():
        store = Store(url)
        try:
            return await OutgoingShelf(store).waiting()
        finally:
            await store.close()

    return asyncio.run(count())


def test_what_the_commands_change_is_in_the_audit_when_they_end(env, url, opensearch, index_prefix):
    asyncio.run(Store(url).upgrade())
    config(env, "set", "--scope", "partner:acme", *SERVER)
    secret = ("create", "--scope", "partner:acme", "--name", "relay", "--value-stdin")
    done = CliRunner().invoke(secrets_app, secret, env=env, input=PASSWORD)
    assert (done.exit_code, done.stderr) == (0, "")
    config(env, "feature", "--scope", "org:acme/dev", "--on")
    config(env, "delete", "--scope", "partner:acme", "--yes")
    assert waiting(url) == 0
    query = f"{opensearch.url}/{index_prefix}-*"
    urllib.request.urlopen(urllib.request.Request(f"{query}/_refresh", method="POST"), timeout=30).close()
    with urllib.request.urlopen(f"{query}/_search?size=100", timeout=30) as answered:
        documents = [hit["_source"] for hit in json.load(answered)["hits"]["hits"]]
    found = [(each["type"], each["action"], each["actor"]["kind"]) for each in documents]
    assert sorted(found) == [
        ("organization.changed", "switched_on", "command"),
        ("secret.changed", "created", "command"),
        ("smtp_config.changed", "created", "command"),
        ("smtp_config.changed", "deleted", "command"),
    ]


def test_an_audit_that_is_away_is_a_notice_and_its_records_wait_in_the_store(env, url):
    asyncio.run(Store(url).upgrade())
    away = env | {"POSTBOTE_OPENSEARCH_URL": "http://127.0.0.1:1"}
    done = config(away, "set", "--scope", "partner:acme", *SERVER, "--json")
    assert json.loads(done.stdout)["version"] == 1
    assert "notice: the audit was not told yet: " in done.stderr
    assert waiting(url) == 1
    config(env, "set", "--scope", "partner:acme", *SERVER)
    assert waiting(url) == 0


def test_the_schema_is_made_by_the_command_and_made_again_without_harm(env, url):
    for _ in range(2):
        done = run_postbote("db", "upgrade", env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("the schema is up to date: ")
    config(env, "set", "--scope", "controller", *SERVER)


def test_an_old_schema_is_brought_up_to_date_by_the_command(env, url):
    old_schema(url)
    assert run_postbote("db", "upgrade", env=env).returncode == 0
    config(env, "set", "--scope", "controller", *SERVER)


class TestPostgreSQLAlone:
    """A file belongs to one host and is upgraded on the way; a server's schema is changed only when somebody says so."""

    @pytest.fixture
    def url(self, postgres_url):
        return postgres_url

    @pytest.mark.parametrize("command", ["worker", "api", "run"])
    def test_a_process_refuses_an_old_schema_with_the_command_in_its_one_line(self, env, url, command):
        old_schema(url)
        done = run_postbote(command, env=env)
        assert done.returncode == 1
        assert "has schema 0001" in done.stderr
        assert done.stderr.splitlines()[-1].endswith("run `postbote db upgrade`")
        assert url.split(":")[2].split("@")[0] not in done.stderr, "the server's password"

    def test_config_commands_refuse_an_empty_database_with_the_command(self, env):
        assert "run `postbote db upgrade`" in config(env, "list", code=1).stderr

    def test_no_password_reaches_the_servers_log_or_a_table(self, env, url, postgres):
        asyncio.run(Store(url).upgrade())
        login = ("--username", "mailer", "--password-stdin")
        config(env, "set", "--scope", "partner:acme", *SERVER, *login, stdin=PASSWORD)
        tables = [name for (name,) in postgres.query("SELECT tablename FROM pg_tables WHERE schemaname='public'", url)]
        assert "smtp_configs" in tables
        stored = repr([postgres.query(f"SELECT * FROM {name}", url) for name in tables])
        assert "mailer" in stored, "the record itself must be in what was searched"
        assert PASSWORD not in stored
