"""``postbote audit search`` over an audit that answers by script."""

import io
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from schemas.audit import Outcome
from schemas.audit_change import ChangedBy
from schemas.audit_query import AuditPage
from tests.control.shipping.shipping_samples import change_record
from tests.unit.audit.audit_samples import audit_record
from worker import app, settings
from worker.cli_audit import audit_app
from worker.cli_audit_view import COLOURS, audit_table
from worker.errors import AuditUnavailable, SettingsError

RECORD = audit_record().model_dump(mode="json", by_alias=True, exclude_none=True)


class ScriptedSearch:
    def __init__(self):
        self.asked = []
        self.records = [RECORD]
        self.total = 1
        self.failure = None

    async def search(self, query):
        self.asked.append(query)
        if self.failure:
            raise self.failure
        return AuditPage(self.total, self.records, query.offset, query.limit, 3)


@pytest.fixture
def search(monkeypatch):
    scripted = ScriptedSearch()

    @asynccontextmanager
    async def open_search(_settings, *, embedded):
        yield scripted

    monkeypatch.setattr(app, "open_search", open_search)
    monkeypatch.setattr(settings, "load_settings", lambda: None)
    return scripted


def run(*arguments):
    main = typer.Typer()
    main.add_typer(audit_app, name="audit")
    return CliRunner().invoke(main, ["audit", "search", *arguments])


def rendered(records, **options):
    console = Console(file=io.StringIO(), width=200, **options)
    console.print(audit_table(records))
    return console.file.getvalue()


def test_a_record_is_a_row(search):
    result = run("--since", "1h")
    assert result.exit_code == 0
    for word in (
        "2025-11-21 12:00:00Z",
        "accepted",
        "user0@example.org",
        "org:acme/dev/default",
        "TLSv1.3",
        "250 2.0.0 Ok",
    ):
        assert word in result.stdout
    assert search.asked[0].time_to is None
    assert abs(datetime.now(UTC) - timedelta(hours=1) - search.asked[0].time_from) < timedelta(seconds=30)


def test_every_option_reaches_the_audit(search):
    result = run(
        *("--since", "2025-11-01T00:00:00Z", "--until", "now-1d/d", "--org", "acme/dev", "--recipient", "a@b"),
        *("--outcome", "refused", "--event-id", "e", "--limit", "7", "--partner", "acme", "--type", "email.delivery"),
    )
    assert result.exit_code == 0
    asked = search.asked[0]
    assert asked.time_from == datetime(2025, 11, 1, tzinfo=UTC)
    assert (asked.partner, asked.org, asked.recipient, asked.outcome) == ("acme", "dev", "a@b", Outcome.REFUSED)
    assert (asked.event_id, asked.limit, asked.time_to.microsecond) == ("e", 7, 999_000)
    assert asked.type == "email.delivery"


def test_json_is_one_ascii_document_a_line(search):
    search.records = [RECORD, {"reply": {"text": "ü\x9b31m\x1b[2J\n"}}]
    result = run("--json")
    lines = result.stdout.splitlines()
    assert [json.loads(line) for line in lines] == search.records
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since", "yesterday"], "--since: expected now, now-1h"),
        (["--until", "2025-11-20T10:00:00"], "--until: has no zone"),
        (["--since", "now", "--until", "2h"], "--since: is later than --until"),
        (["--org", "dev"], "--org: expected PARTNER/ORG"),
        (["--org", "acme/dev", "--partner", "globex"], "--org: belongs to the partner acme"),
        (["--outcome", "sent"], "--outcome: is not an outcome; known: accepted"),
        (["--limit", "0"], "--limit: expected a whole number from 1 to 1000"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(search, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert search.asked == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [(AuditUnavailable("OpenSearch cannot be reached"), 1), (SettingsError("POSTBOTE_X: is wrong"), 2)],
)
def test_a_failure_is_one_line_and_no_traceback(search, failure, code):
    search.failure = failure
    result = run()
    assert result.exit_code == code
    assert result.stderr == f"{failure}\n"
    assert result.stdout == ""


def test_nothing_found_is_said(search):
    search.records, search.total = [], 0
    assert run().stdout == "no records\n"


def test_more_than_shown_is_said_aside(search):
    search.total = 12
    assert "the newest 1 of 12 records" in run().stderr


def test_what_a_server_replied_is_text_and_nothing_else():
    nasty = {**RECORD, "reply": {"code": 550, "text": "[bold red]no[/bold red] \x1b[2J\x9b31m\rgone"}}
    shown = rendered([nasty], force_terminal=True, color_system=None)
    assert "[bold red]no[/bold red]" in shown
    assert "\x1b[2J" not in shown
    assert "\x9b" not in shown
    assert "\r" not in shown


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"possible_duplicate": True, "outcome": "accepted"}, "accepted (maybe twice)"),
        ({"tls": {"version": "TLSv1.2", "verified": False}}, "TLSv1.2 (unverified)"),
        ({"tls": None}, "none"),
        ({"reason": "no SMTP record applies", "outcome": "unconfigured"}, "no SMTP record applies"),
        ({"reply": {"code": 550, "enhanced": "5.1.1", "text": "unknown"}}, "550 5.1.1 unknown"),
        ({"reply": {"phase": "connect"}, "reason": "unreachable"}, "unreachable"),
        ({"outcome": "teleported"}, "teleported"),
        ({"@timestamp": "not a time"}, "not a time"),
    ],
)
def test_an_unusual_record_is_shown(record, words):
    assert words in rendered([record])


def test_every_outcome_has_its_colour():
    assert set(COLOURS) == set(Outcome)
    assert "\x1b[32maccepted" in rendered([RECORD], force_terminal=True, color_system="standard")


def test_a_change_stands_among_the_mails_with_what_was_done_and_by_whom():
    change = change_record(3).model_dump(mode="json", by_alias=True, exclude_none=True)
    row = next(line for line in rendered([RECORD, change]).splitlines() if "smtp_config" in line)
    for words in ("2025-11-21 12:00:00Z", "smtp_config updated", "default", "org:acme/dev", "version 3; host, port"):
        assert words in row
    assert "by user ann@acme.example of partner:acme" in rendered([change])
    assert "192.0.2.7" in rendered([change])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partner": None, "org": None}, "controller"),
        ({"org": None}, "partner:acme"),
        ({"version": None, "changed": ()}, "by user"),
        ({"subject": "[bold]x[/bold]\x1b[2J"}, "[bold]x[/bold]�"),
        ({"actor": ChangedBy(kind="command", name="root", scope="controller")}, "by command root of controller"),
    ],
)
def test_an_unusual_change_is_shown(changes, words):
    record = change_record(1, **changes).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert words in rendered([record])
    assert "\x1b" not in rendered([record])
