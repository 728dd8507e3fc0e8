"""`postbote init`, `user`, `token`, `partner` and `org`, through typer's runner, over a SQLite file."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from schemas.cloudevents import STRUCTURED, parse_event
from schemas.smtp_config import CONTROLLER, Scope
from worker import cli_people
from worker.cli import app
from worker.control.passwords import Passwords
from worker.control.principals import Role
from worker.people import open_people
from worker.settings import load_settings
from worker.store.outgoing import OutgoingKind, OutgoingShelf

PASSWORD = "correct-horse-battery-staple"
ROOT, AMARA = "root@controller.example", "amara@acme.example"


@pytest.fixture(autouse=True)
def database(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTBOTE_DATABASE_URL", f"sqlite:///{tmp_path / 'postbote.db'}")
    monkeypatch.setenv("POSTBOTE_PUBLIC_URL", "https://mail.example")
    for name in ("POSTBOTE_ADMIN_PASSWORD", "ACCOUNT_CREATION_STRATEGY", "POSTBOTE_ACCOUNT_CREATION_STRATEGY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "postbote.db"


def run(*arguments, stdin=None):
    result = CliRunner().invoke(app, [str(part) for part in arguments], input=stdin)
    assert PASSWORD not in result.output + result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def done(*arguments, stdin=None):
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


def one_line(result, code):
    """The one line on standard error of a command that failed with `code`."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def listed(*arguments):
    return json.loads(done(*arguments, "--json").stdout)


def asked(work):
    """What `work` returns, given the store that the commands use."""

    async def inside():
        async with open_people(load_settings()) as people:
            return await work(people)

    return asyncio.run(inside())


def is_password(email, password=PASSWORD):
    found = asked(lambda people: people.credentials(email))
    return asyncio.run(Passwords().verify(found.password_hash, password))


def init(*arguments, email=ROOT, stdin=PASSWORD):
    return run("init", "--email", email, "--password-stdin", *arguments, stdin=stdin)


def add_user(email=AMARA, scope="controller", role="admin", stdin=PASSWORD):
    return run("user", "add", "--email", email, "--scope", scope, "--role", role, "--password-stdin", stdin=stdin)


def create_token(*arguments, scope="controller", role="admin", expires="90d"):
    return run("token", "create", "--scope", scope, "--role", role, "--expires", expires, "--name", "ci", *arguments)


def create_dev(*arguments, stdin=None):
    done("partner", "create", "acme")
    return run("org", "create", "acme/dev", "--admin-email", "admin@dev.example", *arguments, stdin=stdin)


def test_init_makes_the_database_and_the_first_admin(database):
    assert not database.exists()
    assert init("--name", "Root").stdout == f"{ROOT} is the controller's first admin\n"
    [user] = listed("user", "list")
    assert (user["email"], user["name"], user["scope"], user["role"], user["state"]) == (
        ROOT, "Root", "controller", "admin", "active",
    )  # fmt: skip
    assert is_password(ROOT)


@pytest.mark.parametrize("email", [ROOT, "Root@Controller.EXAMPLE"])
def test_init_a_second_time_says_that_the_admin_is_there_and_asks_nothing(email):
    init()
    again = done("init", "--email", email)
    assert again.stdout == f"{ROOT} is an admin of the controller already\n"
    assert len(listed("user", "list")) == 1


def test_init_with_another_address_names_the_command_that_adds_users():
    init()
    line = one_line(init(email=AMARA), 2)
    assert line.startswith("email: ")
    assert f"postbote user add --scope controller --role admin --email {AMARA}" in line
    assert len(listed("user", "list")) == 1


def test_init_says_where_the_admin_is_disabled():
    init()
    add_user()
    done("user", "disable", ROOT)
    assert f"postbote user enable {ROOT}" in done("init", "--email", ROOT).stderr


def test_the_first_password_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("POSTBOTE_ADMIN_PASSWORD", PASSWORD)
    done("init", "--email", ROOT)
    assert is_password(ROOT)


def test_at_a_terminal_the_password_is_asked_for_twice(monkeypatch):
    monkeypatch.setattr(cli_people, "_at_terminal", lambda: True)
    done("init", "--email", ROOT, stdin=f"{PASSWORD}\nanother\n{PASSWORD}\n{PASSWORD}\n")
    assert is_password(ROOT)


def test_without_a_terminal_the_ways_to_give_a_password_are_named():
    line = one_line(run("init", "--email", ROOT), 2)
    assert "--password-stdin or POSTBOTE_ADMIN_PASSWORD" in line


BAD = [
    ("no address", {"email": "root"}, "email: "),
    ("a short password", {"stdin": "short"}, "password: is too short"),
    ("the address as password", {"stdin": ROOT}, "password: is the mail address"),
    ("an empty password", {"stdin": ""}, "password: expected exactly one line"),
    ("two lines", {"stdin": f"{PASSWORD}\n{PASSWORD}\n"}, "password: expected exactly one line"),
]


@pytest.mark.parametrize(("given", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_one_line_that_names_the_field_and_nothing_is_made(given, words):
    assert one_line(init(**given), 2).startswith(words)
    assert listed("user", "list") == []


def test_a_user_is_added_disabled_enabled_and_gets_a_new_password():
    init()
    assert add_user("Amara@acme.example").stdout == f"added {AMARA}, admin of controller\n"
    assert done("user", "disable", AMARA).stdout == f"{AMARA} is disabled\n"
    assert [user["state"] for user in listed("user", "list")] == ["disabled", "active"]
    assert done("user", "enable", AMARA).stdout == f"{AMARA} is active\n"
    done("user", "set-password", AMARA, "--password-stdin", stdin="another-" + PASSWORD + "\n")
    assert is_password(AMARA, "another-" + PASSWORD)


def test_a_user_of_a_tenant_needs_the_tenant():
    assert "postbote partner create acme" in one_line(add_user(scope="partner:acme"), 1)
    done("partner", "create", "acme")
    assert add_user(scope="partner:acme").exit_code == 0
    assert "postbote org create acme/dev" in one_line(add_user("b@x.example", scope="org:acme/dev"), 1)
    assert listed("user", "list", "--scope", "controller") == []
    assert [user["email"] for user in listed("user", "list", "--scope", "partner:acme")] == [AMARA]


def test_a_second_user_of_one_address_and_the_end_of_the_last_admin_are_refused():
    init()
    assert one_line(add_user(ROOT), 2).startswith("email: ")
    assert one_line(run("user", "disable", ROOT), 2).startswith("state: this is the last active admin of controller")


@pytest.mark.parametrize("command", ["disable", "enable", "set-password"])
def test_a_user_who_is_not_there_is_exit_code_one(command):
    init()
    assert "postbote user list" in one_line(run("user", command, AMARA), 1)


def test_a_token_stands_alone_on_standard_output_and_works():
    made = create_token(role="viewer", expires="12h")
    value = made.stdout.removesuffix("\n")
    assert value.startswith("pbt_")
    assert not set(value) & set("\n ")
    assert "not shown again" in made.stderr
    assert value not in made.stderr
    principal = asked(lambda people: people.principal_of_token(value))
    assert (principal.scope, principal.role, principal.name) == (CONTROLLER, Role.VIEWER, "ci")
    [token] = listed("token", "list")
    left = datetime.fromisoformat(token["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=11, minutes=58) < left < timedelta(hours=12)
    assert value not in json.dumps(token)


def test_a_token_as_json_has_its_value_and_may_last_for_ever():
    made = json.loads(create_token("--json", expires="never").stdout)
    assert made["token"].startswith("pbt_")
    assert (made["expires_at"], made["scope"], made["role"]) == (None, "controller", "admin")


def test_a_revoked_token_is_gone():
    value = create_token().stdout.strip()
    [token] = listed("token", "list")
    assert done("token", "revoke", token["id"]).stdout == "revoked token ci of controller\n"
    assert asked(lambda people: people.principal_of_token(value)) is None
    assert "postbote token list" in one_line(run("token", "revoke", token["id"]), 1)
    assert done("token", "list").stdout == "no tokens\n"


@pytest.mark.parametrize("expires", ["", "90", "0d", "-1d", "1w", "90 d", "99999999d", "soon", "1d\n"])
def test_what_is_no_lifetime_is_refused(expires):
    assert one_line(create_token(expires=expires), 2).startswith("expires: expected days or hours")


def test_a_token_of_a_tenant_needs_the_tenant_and_is_listed_with_it():
    assert "postbote partner create acme" in one_line(create_token(scope="partner:acme"), 1)
    assert one_line(create_token(scope="acme"), 2).startswith("scope: expected controller")
    done("partner", "create", "acme")
    assert create_token(scope="partner:acme").exit_code == 0
    assert done("token", "list", "--scope", "controller").stdout == "no tokens of controller\n"
    assert "partner:acme" in done("token", "list").stdout


def test_partners_are_made_once_and_listed():
    assert done("partner", "list").stdout == "no partners\n"
    assert done("partner", "create", "acme").stdout == "created partner acme\n"
    assert one_line(run("partner", "create", "acme"), 2).startswith("name: ")
    assert one_line(run("partner", "create", "a/b"), 2).startswith("name: expected")
    assert [partner["name"] for partner in listed("partner", "list")] == ["acme"]


def test_the_first_admin_of_an_organization_gets_a_mail_with_a_link():
    made = create_dev()
    assert made.exit_code == 0, made.stderr
    assert made.stdout == "created organization acme/dev\n"
    assert "postbote config explain --scope org:acme/dev" in made.stderr
    waiting = asked(lambda people: OutgoingShelf(people.database).oldest(100))
    [mail] = [parse_event(each.body, STRUCTURED) for each in waiting if each.kind is OutgoingKind.EVENT]
    assert (mail.envelope.type, mail.scope) == ("user.registered.v1", Scope("acme", "dev"))
    value = mail.data.activation_url.removeprefix("https://mail.example/auth/links/")
    assert asked(lambda people: people.link(value)).user.email == "admin@dev.example"
    assert value not in made.output + made.stderr


def test_an_admin_with_a_password_gets_no_mail():
    made = create_dev("--admin-password-stdin", "--smtp", "on", stdin=PASSWORD)
    assert (made.exit_code, made.stderr) == (0, "")
    assert is_password("admin@dev.example")
    waiting = asked(lambda people: OutgoingShelf(people.database).oldest(100))
    assert OutgoingKind.EVENT not in {each.kind for each in waiting}
    assert listed("org", "list", "--partner", "acme")[0]["smtp_enabled"] is True


def test_where_no_mail_is_to_ask_for_a_password_one_has_to_be_given(monkeypatch):
    monkeypatch.setenv("ACCOUNT_CREATION_STRATEGY", "AUTO")
    assert "--admin-password-stdin" in one_line(create_dev(), 2)
    assert done("org", "list", "--partner", "acme").stdout == "no organizations of acme\n"


def test_an_organizations_feature_is_switched():
    create_dev()
    for flag, words, on in (("--on", "on", True), ("--off", "off", False)):
        assert done("org", "feature", "acme/dev", flag).stdout == f"SMTP records of acme/dev are {words}\n"
        assert listed("org", "list", "--partner", "acme")[0]["smtp_enabled"] is on


def test_an_organization_that_cannot_be_is_one_line():
    assert one_line(run("org", "create", "acme/dev", "--admin-email", AMARA), 1).startswith("partner: ")
    assert one_line(run("org", "create", "acme", "--admin-email", AMARA), 2).startswith("org: expected PARTNER/NAME")
    assert one_line(run("org", "feature", "acme/dev", "--on"), 1).startswith("name: ")
    done("partner", "create", "acme")
    assert one_line(run("org", "create", "acme/dev", "--admin-email", "x"), 2).startswith("admin_email: ")


def test_tables_show_names_as_they_stand():
    init("--name", "[red]Root[/red]")
    assert "[red]Root[/red]" in done("user", "list").stdout


def test_a_database_that_is_none_is_one_line_and_exit_code_one(database):
    database.write_text("this is a letter, not a database " * 40)
    for command in (("user", "list"), ("partner", "create", "acme"), ("init", "--email", ROOT)):
        assert "cannot be used: file is not a database" in one_line(run(*command), 1)


def test_a_wrong_setting_is_one_line_and_exit_code_two(monkeypatch):
    monkeypatch.setenv("POSTBOTE_DATABASE_URL", "mysql://somewhere/postbote")
    assert "POSTBOTE_DATABASE_URL" in one_line(run("user", "list"), 2)


def test_the_audit_names_the_user_of_this_host():
    done("partner", "create", "acme")
    [row] = asked(lambda people: OutgoingShelf(people.database).oldest(10))
    actor = json.loads(row.body.partition(b" ")[2])["actor"]
    assert actor == {"kind": "command", "name": cli_people.command_actor().name, "scope": "controller"}
