"""`postbote config explain`, over a store on a SQLite file, an embedded audit, and servers that are away."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from schemas.audit import ConfigUsed, Outcome, Reply
from schemas.smtp_config import Scope, SmtpConfig
from tests.support.databases import upgraded
from tests.unit.audit.audit_samples import audit_record
from worker.cli import app
from worker.embedded.audit import SqliteAudit
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox, new_key

PASSWORD = "correct-horse-battery-staple"
RECORD = SmtpConfig(
    host="mail.test", port=465, tls="ssl", username="ann@from.test", password=PASSWORD, verify_tls=False
)


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """Nothing of this host's own settings; neither RabbitMQ nor OpenSearch is there."""
    given = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'postbote.db'}",
        "SECRET_KEYS": new_key(),
        "DATA_DIR": str(tmp_path / "data"),
        "AMQP_URL": "amqp://guest:guest@127.0.0.1:1/",
        "OPENSEARCH_URL": "http://127.0.0.1:1",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"POSTBOTE_{name}", value)
    monkeypatch.delenv("FW_EVENT_SMTP_SERVER_ADDR", raising=False)
    return given


@pytest.fixture
def stored(environment):
    """Stores records, the first of a scope as its default."""

    def store(*configs):
        async def put():
            opened = ConfigStore(environment["DATABASE_URL"], SecretBox([environment["SECRET_KEYS"]]))
            await upgraded(opened.database)
            for config in configs:
                await opened.put(config)
            await opened.close()

        asyncio.run(put())

    return store


@pytest.fixture
def audited(tmp_path):
    def write(*records):
        async def put():
            (tmp_path / "data").mkdir()
            audit = await SqliteAudit(tmp_path / "data" / "audit.db").open()
            await audit.write(records)
            await audit.close()

        asyncio.run(put())

    return write


def explain(*arguments):
    result = CliRunner().invoke(app, ["config", "explain", *map(str, arguments)])
    assert PASSWORD not in result.output + result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_it_names_server_sender_version_and_warnings_but_no_password(stored) -> None:
    stored(RECORD)
    result = explain("--scope", "partner:acme")
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert lines[:4] == [
        "partner:acme sends by record 'default' of controller",
        "server: mail.test:465 (ssl)",
        "from: ann@from.test",
        "version: 1",
    ]
    assert lines[4].startswith("fingerprint: ")
    assert lines[5].startswith("warning: verify_tls is off")
    assert lines[6:] == [
        "breaker: not known",
        "last success: not known",
        "last failure: not known",
        "passed over: partner:acme: it has no record",
    ]


def test_as_json_it_is_one_document(stored) -> None:
    stored(RECORD)
    result = explain("--scope", "partner:acme", "--json")
    document = json.loads(result.stdout)
    assert (document["applies"]["from"], document["applies"]["own"]) == ("ann@from.test", True)
    assert (document["applies"]["breaker"], document["applies"]["last"]) == (None, None)
    assert document["org_feature"] is None


@pytest.mark.parametrize(("scope", "code"), [("partner:acme", 1), ("acme", 2)])
def test_without_a_record_it_is_one_and_of_no_scope_two(scope, code) -> None:
    assert explain("--scope", scope).exit_code == code


def test_the_embedded_audit_tells_the_last_success_and_failure(stored, audited) -> None:
    stored(RECORD)
    used = ConfigUsed(scope="controller", name="default", version=1, fingerprint="ab" * 8, host="mail.test", port=465)
    refused = Reply(code=535, enhanced="5.7.8", text="no", phase="auth")
    audited(
        audit_record(1, config=used),
        audit_record(2, seconds=1, config=used, outcome=Outcome.CONFIG_FAULT, reply=refused),
    )
    lines = explain("--scope", "controller", "--embedded").stdout.splitlines()
    assert "last success: 2025-11-21T12:00:00Z accepted (250 2.0.0)" in lines
    assert "last failure: 2025-11-21T12:00:01Z config_fault (535 5.7.8)" in lines


def test_an_embedded_audit_without_such_mails_has_none(stored, audited) -> None:
    stored(RECORD)
    audited()
    lines = explain("--scope", "controller", "--embedded").stdout.splitlines()
    assert [line for line in lines if line.startswith("last")] == [
        "last success: none in the audit",
        "last failure: none in the audit",
    ]


def test_an_org_whose_own_records_are_off_is_told_how_to_turn_them_on(stored) -> None:
    org = Scope("acme", "web")
    stored(RECORD, RECORD.model_copy(update={"partner": "acme", "org": "web"}))
    lines = explain("--scope", org).stdout.splitlines()
    assert lines[-1].endswith("postbote config feature --scope org:acme/web --on")
