"""``postbote audit stats`` over an audit that counts by script."""

import json
from contextlib import asynccontextmanager

import pytest
import typer
from typer.testing import CliRunner

from schemas.audit_stats import By, Counted, Group, Latency, Percentiles
from worker import backends, settings
from worker.cli_audit import audit_app
from worker.errors import AuditUnavailable, SettingsError


class ScriptedStats:
    def __init__(self):
        self.asked = []
        self.failure = None

    async def count(self, query):
        self.asked.append(query)
        if self.failure:
            raise self.failure
        starts = query.starts()
        series = {starts[0]: 3} if starts else {}
        groups = (Group("[red]x[/red]\x1b[2J", 3, series), Group("accepted", 1))
        latencies = {Latency.TOTAL: Percentiles(3, {50: 1.0, 95: 22.04, 99: 33.0}), Latency.QUEUED: Percentiles(0, {})}
        return Counted(8, {"accepted": 8}, {start: {"accepted": 3} for start in series}, groups, 2, 1, 0, latencies)


@pytest.fixture
def stats(monkeypatch):
    scripted = ScriptedStats()

    @asynccontextmanager
    async def open_stats(_settings, *, embedded):
        yield scripted

    monkeypatch.setattr(backends, "open_stats", open_stats)
    monkeypatch.setattr(settings, "load_settings", lambda: None)
    return scripted


def run(*arguments):
    main = typer.Typer()
    main.add_typer(audit_app, name="audit")
    return CliRunner().invoke(main, ["audit", "stats", *arguments])


def test_counts_buckets_and_percentiles_are_tables(stats):
    result = run("--by", "host", "--interval", "1d")
    assert result.exit_code == 0
    for words in ("8 records of type email.delivery", "[red]x[/red]", "37.5%", "(others)", "(no host)", "22.0", "p95"):
        assert words in result.stdout
    assert "(by records of a wider scope)" in result.stdout
    assert "\x1b" not in result.stdout
    assert (stats.asked[0].by, stats.asked[0].interval_ms) == (By.HOST, 86_400_000)


def test_every_option_reaches_the_audit(stats):
    options = ("--since", "30d", "--until", "1d", "--limit", "3", "--partner", "acme", "--org", "dev")
    result = run(*options, "--outcome", "refused", "--percentiles", "none")
    assert result.exit_code == 0
    asked = stats.asked[0]
    assert (asked.records.time_to - asked.records.time_from).days == 29
    assert (asked.records.partner, asked.records.org, asked.records.outcome) == ("acme", "dev", "refused")
    assert (asked.groups, asked.latencies) == (3, ())


def test_json_is_one_ascii_document(stats):
    result = run("--json")
    assert result.stdout.isascii()
    assert json.loads(result.stdout)["total"] == 8
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--since", "yesterday"], "--since: expected now, now-1h"),
        (["--since", "900d"], "--since: the range is longer than"),
        (["--since", "1h", "--until", "2h"], "--since: is later than --until"),
        (["--by", "colour"], "--by: is none of outcome"),
        (["--interval", "1m"], "--interval: makes 10081 buckets"),
        (["--interval", "soon"], "--interval: expected minutes"),
        (["--limit", "0"], "--limit: expected a whole number from 1 to 100"),
        (["--percentiles", "p50"], "--percentiles: expected some of"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(stats, arguments, words):
    result = run(*arguments)
    assert (result.exit_code, stats.asked) == (2, [])
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [(AuditUnavailable("OpenSearch cannot be reached"), 1), (SettingsError("POSTBOTE_X: is wrong"), 2)],
)
def test_a_failure_is_one_line_and_no_traceback(stats, failure, code):
    stats.failure = failure
    result = run()
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"{failure}\n")
