"""`postbote config verify`: a test mail by a stored record to a scripted server, recorded in the embedded audit."""

import asyncio
import json
import threading

import pytest
from typer.testing import CliRunner

from schemas.audit_query import AuditQuery
from schemas.smtp_config import SmtpConfig
from tests.support.databases import upgraded
from tests.unit.smtp.scripted_server import ScriptedServer
from worker import trials
from worker.cli import app
from worker.embedded.audit import SqliteAudit
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox, new_key


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    given = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'postbote.db'}",
        "SECRET_KEYS": new_key(),
        "DATA_DIR": str(tmp_path / "data"),
        "OPENSEARCH_URL": "http://127.0.0.1:1",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"POSTBOTE_{name}", value)
    monkeypatch.delenv("FW_EVENT_SMTP_SERVER_ADDR", raising=False)
    return given


@pytest.fixture
def server():
    """A scripted server in a loop of its own: the command runs one itself."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    scripted = ScriptedServer()
    ended = loop.create_future()

    async def serve():
        async with scripted:
            started.set()
            await ended

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait(5)
    yield scripted
    loop.call_soon_threadsafe(ended.set_result, None)
    thread.join(5)
    loop.close()


@pytest.fixture
def stored(environment, server):
    def store(**changes):
        async def put():
            opened = ConfigStore(environment["DATABASE_URL"], SecretBox([environment["SECRET_KEYS"]]))
            await upgraded(opened.database)
            given = {"host": "127.0.0.1", "port": server.port, "tls": "none", "from_address": "ann@from.test"}
            await opened.put(SmtpConfig(**{**given, **changes}))
            await opened.close()

        asyncio.run(put())

    return store


def recorded(tmp_path):
    async def read():
        audit = await SqliteAudit(tmp_path / "data" / "audit.db").open()
        page = await audit.search(AuditQuery(type="email.verification"))
        await audit.close()
        return page.records

    return asyncio.run(read())


def verify(*arguments):
    result = CliRunner().invoke(app, ["config", "verify", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


TO = ("--to", "bob@to.test", "--embedded")


def test_the_mail_arrives_and_the_audit_has_it(stored, server, tmp_path) -> None:
    stored()
    result = verify("--scope", "partner:acme", *TO)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("accepted: The server took responsibility for the message. (")
    (mail,) = server.mails
    assert mail.startswith(b"From: ann@from.test\r\nTo: bob@to.test\r\nSubject: Test mail from Postbote\r\n")
    (noted,) = recorded(tmp_path)
    assert (noted["partner"], noted["outcome"], noted["recipient"]) == ("acme", "accepted", "bob@to.test")
    assert lines[-1].startswith("audit: ")
    assert lines[-1] != "audit: not recorded: it does not answer"


def test_a_refusal_is_one_with_the_reply_and_as_json_one_document(stored, server) -> None:
    stored()
    server.script = lambda _s, c: "550 5.1.1 User unknown" if c.startswith("RCPT") else None
    result = verify("--scope", "controller", *TO, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["accepted"], told["outcome"]) == (1, False, "refused")
    assert told["reply"]["text"] == "5.1.1 User unknown"
    assert told["hint"].startswith("The server works, it only does not know this recipient")


def test_without_an_audit_the_mail_goes_out_all_the_same(stored, server, monkeypatch) -> None:
    monkeypatch.setattr(trials, "COMMAND_AUDIT_S", 0.2)
    stored()
    result = verify("--scope", "controller", "--to", "bob@to.test")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "audit: not recorded: it does not answer"
    assert len(server.mails) == 1


def test_a_record_by_its_name_is_used_though_it_is_not_the_default(stored, server) -> None:
    stored(host="nowhere.invalid")
    stored(display_name="spare")
    assert verify("--scope", "controller", "--name", "spare", *TO).exit_code == 0
    assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("allowed", "sender", "code"),
    [((), "ann@from.test", 0), (("*@also.test",), "eve@also.test", 0), ((), "eve@also.test", 2), ((), "nobody", 2)],
)
def test_the_from_has_to_be_one_that_the_record_admits(stored, server, allowed, sender, code) -> None:
    stored(allowed_from=allowed)
    result = verify("--scope", "controller", "--from", sender, *TO)
    assert result.exit_code == code, result.output
    assert [f"From: {sender}\r\n".encode() in mail for mail in server.mails] == [True] * (code == 0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--scope", "nobody", *TO), 2, "scope: expected controller"),
        (("--scope", "controller", "--to", "nobody"), 2, "to: not a valid mail address"),
        (("--scope", "partner:acme", *TO), 1, "scope: no record applies to partner:acme"),
        (("--scope", "partner:acme", "--name", "x", *TO), 1, "name: there is no record 'x' of partner:acme"),
    ],
)
def test_wrong_arguments_are_two_and_a_missing_record_is_one(arguments, code, words) -> None:
    result = verify(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(words)


def test_a_record_that_names_no_sender_needs_one(stored) -> None:
    stored(from_address=None)
    result = verify("--scope", "controller", *TO)
    assert result.exit_code == 2
    assert result.stderr.startswith("from: record 'default' of controller names no sender")
