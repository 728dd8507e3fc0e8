"""`postbote config history|rollback|order`, the ways to a password, and `postbote secrets`, over a SQLite file."""

import json

import pytest
from typer.testing import CliRunner

from tests.commands.test_config_commands import PASSWORD, SERVER, database, keys, one_line, stored_password
from worker import cli, cli_config, cli_secrets

__all__ = ["database", "keys"]  # fixtures, of which the first is used by every test here

LOGIN = ("--username", "mailer")
ACME = ("--scope", "partner:acme")


def run(app, *arguments, stdin=None):
    result = CliRunner().invoke(app, [str(part) for part in arguments], input=stdin)
    assert PASSWORD not in result.output + result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def config(*arguments, stdin=None):
    # The whole of it, as the commands of other modules join it there.
    return run(cli.app, "config", *arguments, stdin=stdin)


def secrets(*arguments, stdin=None):
    return run(cli_secrets.secrets_app, *arguments, stdin=stdin)


def saved(*arguments, scope=ACME, stdin=None):
    result = config("set", *scope, *SERVER, *arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


def answer(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def create(*arguments, scope=ACME, name="relay"):
    return secrets("create", *scope, "--name", name, "--value-stdin", *arguments, stdin=PASSWORD)


# The ways to a password


def test_the_stored_password_is_kept_only_where_that_is_said_and_for_the_same_server(database, keys):
    saved(*LOGIN, "--password-stdin", stdin=PASSWORD)
    assert "password: give it by" in one_line(config("set", *ACME, *SERVER, *LOGIN), 2)
    saved(*LOGIN, "--keep-password", "--retries", "1")
    assert stored_password(database, keys) == PASSWORD
    moved = config("set", *ACME, "--host", "other.example.net", "--port", "587", *LOGIN, "--keep-password")
    assert one_line(moved, 2).startswith("password: host differs from the stored record")


def test_a_record_refers_to_a_secret_by_name(database, keys):
    assert create().exit_code == 0
    saved(*LOGIN, "--secret", "relay")
    shown = answer(config("show", *ACME, "--json"))
    assert (shown["secret"], shown["password_set"], shown["reference"]) == ("relay", True, None)
    assert "password: secret 'relay' of partner:acme\n" in config("show", *ACME).stdout
    assert stored_password(database, keys) == PASSWORD


def test_the_controllers_record_refers_to_the_environment_and_nobody_elses_does():
    reference = (*LOGIN, "--password-ref", "env:SMTP_PASSWORD")
    saved(*reference, scope=("--scope", "controller"))
    assert answer(config("show", "--scope", "controller", "--json"))["reference"] == "env:SMTP_PASSWORD"
    assert one_line(config("set", *ACME, *SERVER, *reference), 2).startswith("password_ref: only the controller's")


def test_a_secret_that_is_not_there_is_one_line_and_exit_code_one():
    assert one_line(config("set", *ACME, *SERVER, *LOGIN, "--secret", "absent"), 1).startswith("secret: there is no")


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        (("--secret", "a", "--keep-password"), "password: --secret and --keep-password name two"),
        (("--password-ref", "env:A", "--password-stdin"), "password: --password-ref and --password-stdin name two"),
    ],
)
def test_two_ways_to_a_password_are_refused(ways, words):
    assert one_line(config("set", *ACME, *SERVER, *LOGIN, *ways, stdin=PASSWORD), 2).startswith(words)


# History, rollback, order


def test_versions_are_listed_with_who_made_them_and_what_differs():
    saved()
    saved("--retries", "1", "--from", "a@example.net")
    assert config("delete", *ACME, "--yes").exit_code == 0
    versions = answer(config("history", *ACME, "--json"))
    assert [(each["version"], each["action"]) for each in versions] == [(2, "deleted"), (2, "updated"), (1, "created")]
    assert set(versions[1]["changed"]) == {"retries", "from_address"}
    assert versions[1]["fields"]["retries"] == 1
    actor = versions[0]["actor"]
    assert (actor["kind"], actor["scope"], actor["origin"]) == ("command", "controller", None)
    assert actor["name"]
    table = config("history", *ACME).stdout
    assert "updated" in table
    assert f"{actor['name']} (command of controller)" in table


def test_a_history_that_is_not_there_is_one_line_and_exit_code_one():
    assert one_line(config("history", *ACME), 1) == "name: there is no history of record 'default' of partner:acme"


def test_a_record_is_rolled_back():
    saved("--retries", "1")
    saved("--retries", "7")
    result = config("rollback", *ACME, "--version", "1")
    assert result.stdout == "rolled record 'default' of partner:acme back to version 1, which is version 3 now\n"
    assert "anonymous" in result.stderr
    assert answer(config("rollback", *ACME, "--version", "2", "--json"))["retries"] == 7
    assert one_line(config("rollback", *ACME, "--version", "9"), 1).startswith("version: ")


def test_an_order_makes_a_default_and_what_stands_in():
    for name in ("a", "b", "c"):
        saved("--name", name)
    ordered = answer(config("order", *ACME, "c", "a", "--json"))
    assert [(each["display_name"], each["is_default"], each["fallback"]) for each in ordered] == [
        ("c", True, None), ("a", False, 1), ("b", False, None),
    ]  # fmt: skip
    assert "fallback 1" in config("list").stdout
    assert one_line(config("order", *ACME, "c", "absent"), 1).startswith("names: there is no record 'absent'")
    assert one_line(config("order", *ACME, "c", "c"), 2).startswith("names: 'c' stands there twice")


# Secrets


def test_a_secret_is_created_listed_rotated_and_deleted(database, keys):
    assert create("--shared").stdout == "stored secret 'relay' of partner:acme, version 1\n"
    saved(*LOGIN, "--secret", "relay")
    saved(*LOGIN, "--secret", "relay", scope=("--scope", "org:acme/dev"))
    (listed,) = answer(secrets("list", *ACME, "--json"))
    assert (listed["name"], listed["shared"], listed["version"], listed["used_by"]) == ("relay", True, 1, ["default"])
    assert "relay" in secrets("list", *ACME).stdout
    rotated = answer(secrets("rotate", *ACME, "--name", "relay", "--value-stdin", "--json", stdin="another\n"))
    assert rotated["version"] == 2
    assert answer(config("show", "--scope", "org:acme/dev", "--json"))["version"] == 2
    assert stored_password(database, keys) == "another"
    kept = one_line(secrets("delete", *ACME, "--name", "relay", "--yes"), 2)
    assert kept == "name: secret 'relay' is used by record 'default', 1 record of scopes below"
    for scope in ("partner:acme", "org:acme/dev"):
        config("delete", "--scope", scope, "--yes")
    assert secrets("delete", *ACME, "--name", "relay", "--yes").stdout == "deleted secret 'relay' of partner:acme\n"
    assert secrets("list", *ACME).stdout == "no secrets of partner:acme\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "line"),
    [
        (("create", *ACME, "--name", "a/b", "--value-stdin"), PASSWORD, 2, "name: must not have a slash"),
        (("create", *ACME, "--name", "config:a", "--value-stdin"), PASSWORD, 2, "name: names that begin with config:"),
        (("create", *ACME, "--name", "a", "--value-stdin"), "", 2, "value: expected exactly one line"),
        (("create", *ACME, "--name", "a", "--value-stdin"), "a\tb", 2, "value: must be one line"),
        (("create", *ACME, "--name", "a"), None, 2, "value: give it by --value-stdin"),
        (("rotate", *ACME, "--name", "a", "--value-stdin"), PASSWORD, 1, "name: partner:acme has no secret 'a'"),
        (("delete", *ACME, "--name", "a", "--yes"), None, 1, "name: partner:acme has no secret 'a'"),
        (("delete", *ACME, "--name", "a"), None, 2, "yes: there is no terminal to ask at"),
        (("list", "--scope", "nobody"), None, 2, "scope: expected controller"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_field(arguments, stdin, code, line):
    assert one_line(secrets(*arguments, stdin=stdin), code).startswith(line)


def test_a_name_is_taken_once():
    create()
    assert one_line(create(), 2) == "name: partner:acme has a secret 'relay' already"


def test_no_option_takes_a_value_as_its_argument():
    assert secrets("create", *ACME, "--name", "relay", "--value", PASSWORD).exit_code == 2


def test_a_value_is_asked_for_at_a_terminal_and_not_echoed(monkeypatch):
    from worker import cli_named_secrets

    monkeypatch.setattr(cli_named_secrets, "_at_terminal", lambda: True)
    result = secrets("create", *ACME, "--name", "relay", stdin=f"{PASSWORD}\n")
    assert result.exit_code == 0
    assert "Value" in result.stderr


def test_a_change_that_workers_do_not_hear_of_is_stored_and_exit_code_one(monkeypatch):
    async def nobody_answers(_store):
        return "the store has it, but workers were not told: RabbitMQ is away"

    monkeypatch.setattr(cli_config, "tell_topic", nobody_answers)
    for result in (config("set", *ACME, *SERVER), config("order", *ACME, "default"), create()):
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("the store has it, but workers were not told: ")
    assert answer(config("show", *ACME, "--json"))["version"] == 1
