"""``postbote audit story`` over an audit that answers by script."""

import io
import json
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from schemas.audit import Outcome, Reply
from schemas.audit_query import AuditPage
from tests.unit.audit.audit_samples import NOON, audit_record
from worker import app, settings
from worker.cli_audit import audit_app
from worker.cli_audit_story import _span, show
from worker.control.stories import tell
from worker.errors import AuditUnavailable, SettingsError


def document(**changes):
    return audit_record(**changes).model_dump(mode="json", by_alias=True, exclude_none=True)


DEFERRED = document(
    outcome=Outcome.DEFERRED,
    reply=Reply(code=450, enhanced="4.2.0", text="4.2.0 [red]busy[/red]\x1b[2J"),
    next_attempt_at=NOON + timedelta(minutes=1),
)
ACCEPTED = document(seconds=3720, attempt=2)


class ScriptedSearch:
    def __init__(self):
        self.asked = []
        self.records = [ACCEPTED, DEFERRED]
        self.failure = None

    async def search(self, query):
        self.asked.append(query)
        if self.failure:
            raise self.failure
        return AuditPage(len(self.records), self.records, query.offset, query.limit, 3)


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
    return CliRunner().invoke(main, ["audit", "story", *arguments])


def test_a_story_is_told_in_full(search):
    result = run("--id", "event-0", "--source", "/billing")
    assert result.exit_code == 0
    for words in (
        "event event-0 of /billing, org:acme/dev",
        "done: every recipient that the records name has an end",
        "user0@example.org: done: accepted, 1h 02m after the event",
        "2025-11-21 12:00:00Z",
        "450 4.2.0 [red]busy[/red]",
        "org:acme/dev/default",
        "2025-11-21 12:01:00Z",
    ):
        assert words in result.stdout
    assert "\x1b" not in result.stdout  # neither what a server said nor a colour, where it goes into a pipe
    assert (search.asked[0].event_id, search.asked[0].event_source) == ("event-0", "/billing")


def test_on_a_terminal_it_has_colours_and_no_sequence_of_a_servers():
    [story] = tell([DEFERRED, ACCEPTED], NOON)
    out = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    show(story, out)
    shown = out.file.getvalue()
    assert "\x1b[32m" in shown
    assert "\x1b[2J" not in shown


def test_json_is_one_ascii_document_a_line(search):
    search.records = [*search.records, document(event_source="/crm", reply=Reply(code=550, text="ü\x9b31m"))]
    result = run("--id", "event-0", "--json")
    assert result.stdout.isascii()
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(story["source"], story["where"]["state"], story["records"]) for story in told] == [
        ("/billing", "done", 2),
        ("/crm", "done", 1),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--id", "a\nb"], "--id: control character"),
        (["--id", "a", "--source", "\udcff"], "--source: control character"),
        (["--id", "a", "--scope", "acme"], "--scope: "),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(search, arguments, words):
    result = run(*arguments)
    assert (result.exit_code, search.asked) == (2, [])
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_event_that_is_not_there_is_said_so(search):
    search.records = []
    result = run("--id", "no-such")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "no records of such an event\n")


@pytest.mark.parametrize(
    ("failure", "code"),
    [(AuditUnavailable("OpenSearch cannot be reached"), 1), (SettingsError("POSTBOTE_X: is wrong"), 2)],
)
def test_a_failure_is_one_line_and_no_traceback(search, failure, code):
    search.failure = failure
    result = run("--id", "e")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"{failure}\n")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.35, "0.350s"), (59.9994, "59.999s"), (60, "1m 00s"), (245, "4m 05s"), (3720, "1h 02m"), (90_000, "1d 01h")],
)
def test_spans_have_two_units(seconds, shown):
    assert _span(timedelta(seconds=seconds)) == shown
