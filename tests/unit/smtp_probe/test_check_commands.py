"""`postbote config check` and `config explain`, over a store on a SQLite file and a scripted server."""

import asyncio
import contextlib
import io
import json
import threading

import pytest
from rich.console import Console
from typer.testing import CliRunner

from schemas.smtp_config import Scope, SmtpConfig
from tests.unit.smtp.scripted_server import OFFER, ScriptedServer
from worker import cli_check_view, cli_config
from worker.cli import app
from worker.cli_explain import explain
from worker.smtp.probe_stages import Audience, Report, Stage, StageName, StageResult, Subject, plan
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox, new_key

PASSWORD = "correct-horse-battery-staple"
ORG, PARTNER, CONTROLLER = Scope("acme", "web"), Scope("acme"), Scope()


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    keys = [new_key()]

    @contextlib.asynccontextmanager
    async def open_store():
        opened = ConfigStore(f"sqlite:///{tmp_path / 'postbote.db'}", SecretBox(keys))
        await opened.database.upgrade()
        try:
            yield opened
        finally:
            await opened.close()

    monkeypatch.setattr(cli_config, "open_store", open_store)
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


# explain


def record(scope, name="default", **changes):
    given = {"partner": scope.partner, "org": scope.org, "display_name": name, "host": "mail.test", "port": 587}
    return SmtpConfig(**{**given, "tls": "starttls", "username": "ann@from.test", "password": PASSWORD, **changes})


ENVIRONMENT = SmtpConfig(display_name="environment", host="env.test", port=25, tls="none")


@pytest.mark.parametrize(
    ("stored", "org_on", "environment", "wins", "passed_over"),
    [
        ([record(CONTROLLER)], False, None, (CONTROLLER, "default"),
         [(ORG, None, "it has no record"), (PARTNER, None, "it has no record")]),
        ([record(CONTROLLER), record(PARTNER)], False, None, (PARTNER, "default"),
         [(ORG, None, "it has no record"), (CONTROLLER, "default", "partner:acme is more specific")]),
        ([record(PARTNER), record(ORG)], True, None, (ORG, "default"),
         [(PARTNER, "default", "org:acme/web is more specific"), (CONTROLLER, None, "it has no record")]),
        ([record(PARTNER), record(ORG)], False, None, (PARTNER, "default"),
         [(ORG, "default", "the org's own records are off: postbote config feature --scope org:acme/web --on"),
          (CONTROLLER, None, "it has no record")]),
        ([record(CONTROLLER), record(CONTROLLER, "spare")], False, None, (CONTROLLER, "default"),
         [(ORG, None, "it has no record"), (PARTNER, None, "it has no record"),
          (CONTROLLER, "spare", "'default' is its scope's default")]),
        ([record(CONTROLLER)], False, ENVIRONMENT, (CONTROLLER, "environment"),
         [(ORG, None, "it has no record"), (PARTNER, None, "it has no record"),
          (CONTROLLER, "default", "the environment's record (FW_EVENT_SMTP_SERVER_ADDR) stands in its place")]),
        ([record(PARTNER)], False, ENVIRONMENT, (PARTNER, "default"),
         [(ORG, None, "it has no record"), (CONTROLLER, "environment", "partner:acme is more specific")]),
        ([record(ORG)], False, None, None,
         [(ORG, "default", "the org's own records are off: postbote config feature --scope org:acme/web --on"),
          (PARTNER, None, "it has no record"), (CONTROLLER, None, "it has no record")]),
        ([], True, None, None,
         [(ORG, None, "it has no record"), (PARTNER, None, "it has no record"), (CONTROLLER, None, "it has no record")]),
    ],
)  # fmt: skip
async def test_one_record_wins_and_every_other_one_has_its_reason(
    store, stored, org_on, environment, wins, passed_over
) -> None:
    async with store() as opened:
        for each in stored:
            await opened.put(each)
        await opened.set_org_feature(ORG, on=org_on)
        found = await explain(opened, ORG, environment)
    winner = found.winner
    assert (None if winner is None else (winner.scope, winner.display_name)) == wins
    assert [(each.scope, each.name, each.why) for each in found.passed_over] == passed_over
    assert found.org_feature is org_on
    assert PASSWORD not in json.dumps(found.to_json())


def test_explain_names_server_sender_version_and_warnings_but_no_password() -> None:
    postbote("set", "--scope", "controller", "--host", "mail.test", "--port", 465, "--username", "ann@from.test",
             "--password-stdin", "--insecure-skip-verify-tls", stdin=f"{PASSWORD}\n")  # fmt: skip
    lines = postbote("explain", "--scope", "partner:acme").stdout.splitlines()
    assert lines[:4] == [
        "partner:acme sends by record 'default' of controller",
        "server: mail.test:465 (ssl)",
        "from: ann@from.test",
        "version: 1",
    ]
    assert lines[4].startswith("fingerprint: ")
    assert lines[5].startswith("warning: verify_tls is off")
    assert lines[6:] == ["passed over: partner:acme: it has no record"]
    document = json.loads(postbote("explain", "--scope", "partner:acme", "--json").stdout)
    assert document["applies"]["from"] == "ann@from.test"
    assert document["org_feature"] is None


@pytest.mark.parametrize(("scope", "code"), [("partner:acme", 1), ("acme", 2)])
def test_explain_without_a_record_is_one_and_of_no_scope_two(scope, code) -> None:
    assert postbote("explain", "--scope", scope).exit_code == code
