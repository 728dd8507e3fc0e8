"""`postbote config check`, over a store on a SQLite file and a scripted server."""

import asyncio
import contextlib
import io
import json
import threading

import pytest
from rich.console import Console
from typer.testing import CliRunner

from schemas.smtp_config import SmtpConfig
from tests.support.databases import upgraded
from tests.unit.smtp.scripted_server import OFFER, ScriptedServer
from worker import cli_check_view, cli_config
from worker.cli import app
from worker.smtp.probe_stages import Audience, Report, Stage, StageName, StageResult, Subject, plan
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox, new_key

PASSWORD = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    keys = [new_key()]

    @contextlib.asynccontextmanager
    async def open_store():
        opened = ConfigStore(f"sqlite:///{tmp_path / 'postbote.db'}", SecretBox(keys))
        await upgraded(opened.database)
        try:
            yield opened
        finally:
            await opened.close()

    async def nobody_to_tell(_store):
        """Of changes here, no worker and no audit hears."""

    monkeypatch.setattr(cli_config, "open_store", open_store)
    monkeypatch.setattr(cli_config, "tell_topic", nobody_to_tell)
    monkeypatch.delenv(cli_config.PASSWORD_VARIABLE, raising=False)
    monkeypatch.delenv("FW_EVENT_SMTP_SERVER_ADDR", raising=False)
    return open_store


@pytest.fixture
def server(authority):
    """A scripted server in a loop of its own: the command runs one itself."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    scripted = ScriptedServer(offer=(*OFFER, "AUTH PLAIN"), context=authority.server(), tls_at_once=True)
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
def ca_file(authority, tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text(authority.bundle)
    return file


def postbote(*arguments, stdin=None):
    result = CliRunner().invoke(app, ["config", *map(str, arguments)], input=stdin)
    assert PASSWORD not in result.output + result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def options(server, ca_file):
    return ("--host", "127.0.0.1", "--port", server.port, "--tls", "ssl", "--ca-bundle", ca_file,
            "--username", "ann@from.test", "--password-stdin")  # fmt: skip


def test_an_unsaved_record_is_checked_and_each_stage_is_a_line(server, ca_file) -> None:
    result = postbote("check", *options(server, ca_file), "--to", "bob@to.test", stdin=f"{PASSWORD}\n")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"record 'not stored' of controller: 127.0.0.1:{server.port} (ssl)"
    stages = [line.split()[:2] for line in lines[1:-1] if not line.startswith(" ")]
    assert stages == [
        ["ok", name]
        for name in ["dns", "egress", "tcp", "tls", "banner", "ehlo", "auth", "mail", "rcpt", "rset", "quit"]
    ]
    assert "PLAIN: 235 in" in result.stdout
    assert "verified" in result.stdout
    assert "certificate for 127.0.0.1; issued by" in result.stdout
    assert lines[-1].startswith("ok: every stage passed in ")
    assert "MAIL FROM:<ann@from.test> SIZE=2" in server.sessions[0].commands
    assert server.mails == []


def test_a_stored_record_is_checked_with_its_own_password(server, ca_file) -> None:
    assert postbote("set", "--scope", "controller", *options(server, ca_file), stdin=f"{PASSWORD}\n").exit_code == 0
    result = postbote("check", "--json", "--to", "bob@to.test")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"], found["failed"]) == (0, True, None)
    assert [stage["name"] for stage in found["stages"]][-1] == "quit"
    assert [c for c in server.sessions[0].commands if c.startswith("AUTH")]


def test_a_failed_stage_is_exit_code_one_with_its_rule_and_hint(server, ca_file) -> None:
    server.script = lambda _s, c: "534 5.7.9 Application-specific password required" if c.startswith("AUTH") else None
    result = postbote("check", *options(server, ca_file), stdin=f"{PASSWORD}\n")
    assert result.exit_code == 1
    assert "534 5.7.9 Application-specific password required" in result.stdout
    assert "        a mail would be: config_fault (credentials-refused)" in result.stdout.splitlines()
    assert "        hint: Google wants an app password here" in result.stdout
    assert "not come to: mail, rcpt, rset, quit" in result.stdout.splitlines()
    assert result.stdout.splitlines()[-1].startswith("failed at auth after ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--scope", "nobody"), 2, "scope: expected controller"),
        (("--to", "no address"), 2, "to: not a valid mail address"),
        (("--from", "no address"), 2, "from: not a valid mail address"),
        (("--host", "mail.test"), 2, "port: --host needs its --port"),
        (("--host", "mail.test", "--port", 25, "--name", "x"), 2, "name: it names a stored record"),
        (("--port", 25), 2, "port: it belongs to a record that is not stored"),
        (("--insecure-skip-verify-tls",), 2, "insecure_skip_verify_tls: it belongs to"),
        (("--host", "a b", "--port", 25), 2, "host: expected a host name or an IP address"),
        (("--scope", "partner:acme"), 1, "scope: there is no record of partner:acme"),
        (("--name", "x"), 1, "name: there is no record 'x' of controller"),
    ],
)
def test_wrong_arguments_are_two_and_a_missing_record_is_one(arguments, code, words) -> None:
    result = postbote("check", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(words)


def test_the_environments_record_is_the_controllers(monkeypatch) -> None:
    monkeypatch.setenv("FW_EVENT_SMTP_SERVER_ADDR", "127.0.0.1")
    monkeypatch.setenv("FW_EVENT_SMTP_SERVER_PORT", "1")
    result = postbote("check", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["config"]["display_name"], found["failed"]) == (1, "environment", "tcp")


def test_on_a_terminal_a_tree_grows_and_markup_in_replies_stays_text() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    config = SmtpConfig(host="mail.test", port=25, tls="none")
    tree = cli_check_view.LiveTree(console, "title", plan(config, Audience.OPERATOR))
    stages = (
        Stage(StageName.BANNER, StageResult.OK, 1.5, "[bold]mail[/bold]", 220),
        Stage(StageName.EHLO, StageResult.FAILED, 2.0, "no", 502),
    )
    with tree as shown:
        for stage in stages:
            shown.show(stage)
        shown.conclude(Report(Subject.of(config), stages, 4.0))
    drawn = console.file.getvalue()
    assert "220 [bold]mail[/bold]" in drawn
    assert "failed at ehlo after 4 ms" in drawn
