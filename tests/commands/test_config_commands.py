"""`postbote config`, through typer's runner, over a store on a SQLite file."""

import contextlib
import json
import sqlite3

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from tests.support.databases import upgraded
from worker import cli_config
from worker.cli_partner import partner_app
from worker.errors import SettingsError
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox, new_key

PASSWORD = "correct-horse-battery-staple"
SERVER = ("--host", "smtp.example.net", "--port", "587")


@pytest.fixture
def keys():
    return [new_key()]


@pytest.fixture(autouse=True)
def database(tmp_path, keys, monkeypatch):
    @contextlib.asynccontextmanager
    async def open_store():
        store = ConfigStore(f"sqlite:///{tmp_path / 'postbote.db'}", SecretBox(keys))
        await upgraded(store.database)
        try:
            yield store
        finally:
            await store.close()

    async def nobody_to_tell(_store):
        """What telling the others needs is tested with real ones in tests/integration."""

    monkeypatch.setattr(cli_config, "open_store", open_store)
    monkeypatch.setattr(cli_config, "tell_topic", nobody_to_tell)
    monkeypatch.delenv(cli_config.PASSWORD_VARIABLE, raising=False)
    return tmp_path / "postbote.db"


def postbote(*arguments, stdin=None):
    result = CliRunner().invoke(cli_config.config_app, [str(part) for part in arguments], input=stdin)
    assert PASSWORD not in result.output
    assert PASSWORD not in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def save(*arguments, scope="controller", stdin=None):
    return postbote("set", "--scope", scope, *SERVER, *arguments, stdin=stdin)


def shown(scope="controller", *arguments):
    result = postbote("show", "--scope", scope, "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def one_line(result, code):
    """The one line on standard error of a command that failed with `code`."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_the_sending_options_are_stored_and_the_signing_key_is_never_shown(tmp_path):
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    file = tmp_path / "dkim.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    signing = ("--dkim-domain", "example.net", "--dkim-selector", "mail1", "--dkim-key", file)
    assert save("--chunking", "--require-tls", *signing).exit_code == 0
    found = shown()
    wanted = {"chunking": True, "require_tls": True, "dkim_domain": "example.net", "dkim_selector": "mail1"}
    assert found | wanted == found
    assert found["dkim_key_set"]
    assert "dkim_key" not in found
    assert "dkim_key: set" in postbote("show", "--scope", "controller").stdout


@pytest.mark.parametrize("content", [b"not a key", b"\xff\xfe", None], ids=["no PEM", "no text", "no file"])
def test_a_file_that_is_no_signing_key_is_refused(tmp_path, content):
    file = tmp_path / "dkim.pem"
    if content is not None:
        file.write_bytes(content)
    refused = save("--dkim-domain", "example.net", "--dkim-selector", "mail1", "--dkim-key", file)
    assert one_line(refused, 2).startswith("dkim_key: ")


def stored_password(database, keys):
    with sqlite3.connect(database) as plain:
        (token,) = plain.execute("SELECT secret FROM smtp_configs").fetchone()
    return None if token is None else SecretBox(keys).open(token)


def test_a_saved_record_can_be_shown_with_every_field_but_the_password():
    result = save(
        *("--username", "mailer", "--password-stdin", "--from", "no-reply@example.net", "--reply-to", "a@example.net"),
        *("--allowed-from", "*@example.net", "--allowed-from", "ceo@example.com", "--retries", 0),
        *("--max-connections", 9, "--rate-per-minute", 30, "--timeout", 2.5, "--insecure-skip-verify-tls"),
        scope="partner:acme",
        stdin=f"{PASSWORD}\n",
    )
    assert (result.exit_code, result.stdout) == (0, "saved record 'default' of partner:acme, version 1\n")
    record = shown("partner:acme")
    expected = {
        "scope": "partner:acme",
        "display_name": "default",
        "host": "smtp.example.net",
        "port": 587,
        "tls": "starttls",
        "verify_tls": False,
        "username": "mailer",
        "from_address": "no-reply@example.net",
        "reply_to": "a@example.net",
        "allowed_from": ["*@example.net", "ceo@example.com"],
        "retries": 0,
        "max_connections": 9,
        "rate_per_minute": 30,
        "timeout_s": 2.5,
        "password_set": True,
        "is_default": True,
        "version": 1,
    }
    assert {field: record[field] for field in expected} == expected
    assert "password" not in record


@pytest.mark.parametrize(
    ("arguments", "tls"),
    [
        (("--port", "465"), "ssl"),
        (("--port", "587"), "starttls"),
        (("--port", "25"), "starttls"),
        (("--port", "465", "--use-tls"), "ssl"),
        (("--port", "2525", "--use-tls"), "starttls"),
        (("--port", "465", "--no-use-tls"), "none"),
        (("--port", "465", "--tls", "starttls"), "starttls"),
        (("--port", "587", "--tls", "ssl"), "ssl"),
        (("--port", "25", "--tls", "none"), "none"),
    ],
)
def test_the_protection_follows_from_the_port_unless_it_is_said(arguments, tls):
    result = postbote("set", "--scope", "controller", "--host", "smtp.example.net", *arguments)
    assert result.exit_code == 0
    assert shown()["tls"] == tls


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_password_is_read_from_standard_input_without_its_line_end(database, keys, ending):
    assert save("--username", "mailer", "--password-stdin", stdin=PASSWORD + ending).exit_code == 0
    assert stored_password(database, keys) == PASSWORD


def test_the_password_is_read_from_the_environment(database, keys, monkeypatch):
    monkeypatch.setenv("POSTBOTE_SMTP_PASSWORD", PASSWORD)
    assert save("--username", "mailer").exit_code == 0
    assert stored_password(database, keys) == PASSWORD


def test_the_environments_password_is_left_alone_by_an_anonymous_record(database, keys, monkeypatch):
    monkeypatch.setenv("POSTBOTE_SMTP_PASSWORD", PASSWORD)
    assert save().exit_code == 0
    assert stored_password(database, keys) is None


def test_the_password_is_asked_for_at_a_terminal_and_not_echoed(database, keys, monkeypatch):
    monkeypatch.setattr(cli_config, "_at_terminal", lambda: True)
    result = save("--username", "mailer", stdin=f"{PASSWORD}\n")
    assert result.exit_code == 0
    assert "Password" in result.stderr
    assert stored_password(database, keys) == PASSWORD


def test_no_option_takes_a_password_as_its_argument():
    result = save("--username", "mailer", "--password", PASSWORD)
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "stdin", "line"),
    [
        (("--scope", "partner"), None, "scope: expected controller, partner:NAME or org:PARTNER/NAME"),
        (("--port", "70000"), None, "port: Input should be less than or equal to 65535"),
        (("--host", "not a host"), None, "host: expected a host name or an IP address"),
        (("--from", "nobody"), None, "from_address: not a valid mail address"),
        (("--allowed-from", "ok", "--allowed-from", "a\nb"), None, "allowed_from.1: control character U+000A"),
        (("--name", ""), None, "display_name: String should have at least 1 character"),
        (("--retries", "-1"), None, "retries: Input should be greater than or equal to 0"),
        (("--tls", "ssl", "--use-tls"), None, "tls: --tls and --use-tls say the same thing"),
        (("--username", "mailer"), None, "password: give it by --password-stdin or POSTBOTE_SMTP_PASSWORD"),
        (("--username", "mailer", "--password-stdin"), "", "password: expected exactly one line"),
        (("--username", "mailer", "--password-stdin"), f"{PASSWORD}\nmore\n", "password: expected exactly one line"),
        (("--password-stdin",), PASSWORD, "password is set without username: give both, or neither"),
        (
            ("--tls", "none", "--username", "mailer", "--password-stdin"),
            PASSWORD,
            "credentials are never sent without TLS: set tls to starttls or ssl",
        ),
        (("--ca-bundle", "/nonexistent/ca.pem"), None, "ca_bundle: cannot read /nonexistent/ca.pem: No such file"),
    ],
)
def test_bad_input_is_one_line_that_names_the_field_and_what_would_do(database, arguments, stdin, line):
    assert one_line(save(*arguments, stdin=stdin), 2).startswith(line)
    assert not database.exists()


def test_each_field_at_fault_has_its_line():
    result = save("--retries", "99", "--max-connections", "0")
    assert result.exit_code == 2
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["retries", "max_connections"]


def test_a_ca_bundle_is_stored_as_its_text(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert save("--ca-bundle", tmp_path / "ca.pem").exit_code == 0
    assert shown()["ca_bundle"] == authority.cert_pem.bytes().decode()
    assert "ca_bundle: set\n" in postbote("show", "--scope", "controller").stdout


@pytest.mark.parametrize("content", [b"a letter", b"", b"\x30\x82\xff"])
def test_a_file_that_is_no_ca_bundle_is_refused(tmp_path, content):
    (tmp_path / "ca.pem").write_bytes(content)
    assert "holds no readable certificate" in one_line(save("--ca-bundle", tmp_path / "ca.pem"), 2)


def test_a_ca_bundle_with_a_private_key_is_refused(tmp_path):
    authority = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes() + authority.private_key_pem.bytes())
    assert "holds a private key" in one_line(save("--ca-bundle", tmp_path / "ca.pem"), 2)


def test_a_password_without_a_key_holds_the_command_that_makes_one(keys):
    keys.clear()
    result = save("--username", "mailer", "--password-stdin", stdin=PASSWORD)
    assert "postbote secrets new-key" in one_line(result, 2)


def test_records_can_be_listed_shown_and_deleted_after_the_key_was_lost(keys):
    save("--username", "mailer", "--password-stdin", stdin=PASSWORD)
    keys[:] = [new_key()]
    assert json.loads(postbote("list", "--json").stdout)[0]["password_set"] is True
    assert "password: set\n" in postbote("show", "--scope", "controller").stdout
    assert postbote("delete", "--scope", "controller", "--yes").exit_code == 0


def test_saving_an_org_record_whose_feature_is_off_says_how_to_turn_it_on():
    result = save(scope="org:acme/dev")
    command = "postbote config feature --scope org:acme/dev --on"
    assert result.exit_code == 0
    assert command in result.stderr
    postbote(*command.split()[2:])
    assert command not in save(scope="org:acme/dev").stderr
    postbote("feature", "--scope", "org:acme/dev", "--off")
    assert command in save("--json", scope="org:acme/dev").stderr


@pytest.mark.parametrize("scope", ["controller", "partner:acme"])
def test_other_scopes_have_no_feature_to_turn_on(scope):
    assert "feature" not in save(scope=scope).stderr
    assert one_line(postbote("feature", "--scope", scope, "--on"), 2).startswith("scope: ")


def test_the_feature_command_wants_to_know_on_or_off():
    assert postbote("feature", "--scope", "org:acme/dev").exit_code == 2


def test_a_second_record_says_which_one_sends():
    save("--name", "first")
    assert "record 'first' of controller stays the one that sends" in save("--name", "second").stderr
    assert shown()["display_name"] == "first"
    assert shown("controller", "--name", "second")["is_default"] is False


@pytest.mark.parametrize("scope", ["partner:acne", "org:acne/dev"])
def test_where_partners_are_known_a_record_of_none_of_them_is_saved_with_a_notice(database, scope):
    assert "there is no partner" not in save(scope=scope).stderr, "who keeps no partners is told of none"
    made = CliRunner().invoke(partner_app, ["create", "acme"], env={"POSTBOTE_DATABASE_URL": f"sqlite:///{database}"})
    assert made.exit_code == 0, made.output
    assert "notice: there is no partner acne: only events that spell it so" in save(scope=scope).stderr
    assert "there is no partner" not in save(scope=scope.replace("acne", "acme")).stderr
    assert "there is no partner" not in save().stderr


def test_warnings_stay_visible_on_every_command_that_shows_a_record():
    warning = "warning: record 'default' of controller: no TLS"
    assert warning in save("--no-use-tls").stderr
    assert warning in postbote("show", "--scope", "controller").stderr
    assert warning in postbote("list").stderr
    assert any(found.startswith("no TLS") for found in shown()["warnings"])


@pytest.mark.parametrize("command", [("set", *SERVER), ("show",)])
def test_json_stands_alone_on_standard_output(command):
    save()
    result = postbote(command[0], "--scope", "controller", *command[1:], "--json")
    assert json.loads(result.stdout)["host"] == "smtp.example.net"


def test_a_record_is_shown_as_lines_of_field_and_value():
    save("--allowed-from", "a@example.net", "--allowed-from", "b@example.net")
    lines = postbote("show", "--scope", "controller").stdout.splitlines()
    expected = {"scope: controller", "port: 587", "verify_tls: yes", "username: not set", "password: not set"}
    assert expected | {"allowed_from: a@example.net, b@example.net"} <= set(lines)


def test_a_list_is_a_table_in_which_names_stand_as_they_are():
    save("--name", "[red]alert[/red]")
    save(scope="partner:acme")
    output = postbote("list").stdout
    assert "[red]alert[/red]" in output
    assert "smtp.example.net:587" in output
    assert "partner:acme" not in postbote("list", "--scope", "controller").stdout


def test_an_empty_list_says_so():
    assert postbote("list").stdout == "no SMTP records\n"
    assert postbote("list", "--scope", "partner:acme").stdout == "no SMTP records of partner:acme\n"
    assert json.loads(postbote("list", "--json").stdout) == []


@pytest.mark.parametrize("command", [("show",), ("show", "--name", "default"), ("delete", "--yes")])
def test_what_is_not_there_is_one_line_and_exit_code_one(command):
    save()
    line = one_line(postbote(*command, "--scope", "partner:acme"), 1)
    assert "partner:acme" in line
    assert "postbote config set" in line


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    save("--name", "first")
    assert one_line(postbote("delete", "--scope", "controller", "--yes"), 1).endswith("it has: first")


def test_deleting_asks_first_at_a_terminal(monkeypatch):
    save()
    monkeypatch.setattr(cli_config, "_at_terminal", lambda: True)
    assert postbote("delete", "--scope", "controller", stdin="n\n").exit_code == 1
    assert shown()["host"] == "smtp.example.net"
    assert postbote("delete", "--scope", "controller", stdin="y\n").exit_code == 0
    assert postbote("list").stdout == "no SMTP records\n"


def test_deleting_without_a_terminal_wants_its_confirmation_as_an_option():
    save()
    assert "--yes" in one_line(postbote("delete", "--scope", "controller"), 2)
    assert postbote("delete", "--scope", "controller", "--yes").stdout == "deleted record 'default' of controller\n"


def test_a_store_that_is_away_is_one_line_and_exit_code_one(database):
    database.write_text("this is a letter, not a database " * 40)
    for command in (("list",), ("show", "--scope", "controller"), ("delete", "--scope", "controller", "--yes")):
        assert "cannot be used: file is not a database" in one_line(postbote(*command), 1)


def test_a_wrong_setting_is_one_line_and_exit_code_two(monkeypatch):
    def refuse():
        msg = "POSTBOTE_DATABASE_URL: not a database address"
        raise SettingsError(msg)

    monkeypatch.setattr(cli_config, "open_store", refuse)
    assert one_line(postbote("list"), 2) == "POSTBOTE_DATABASE_URL: not a database address"
