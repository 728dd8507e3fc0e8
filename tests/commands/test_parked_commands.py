"""postbote parked over the embedded form: what is listed, shown, replayed, dropped, asked and refused."""

import asyncio
import hashlib
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from tests.support.events import body_of, make_event
from worker.cli import app
from worker.cli_parked_view import elided, elided_text
from worker.delivery.ports import Lane, Park
from worker.delivery.progress import Progress
from worker.embedded.queue import SqliteQueue

STRUCTURED = "application/cloudevents+json"
NOW = datetime.now(UTC)
ACME = {"partner": "acme", "org": "dev"}
PROGRESS = Progress(4, 3, pending=("b@x.test",), doubtful=("b@x.test",), first_seen=NOW - timedelta(hours=5))

# id, how it is parked
TABLE = [
    (
        make_event("a@x.test", "b@x.test", id="old", scope=ACME),
        Park("exhausted", "no more", ("b@x.test",), PROGRESS.headers()),
    ),
    (make_event("c@x.test", id="new", scope={"partner": "acme"}), Park("config_fault", "[bold]535\x1b[31m no")),
    (make_event("d@x.test", id="plain"), Park("config_fault", "no login")),
    (b"{broken https://h.test/secret-path", Park("invalid", "body: is not valid JSON")),
]
BROKEN_ID = "sha256:" + hashlib.sha256(TABLE[3][0]).hexdigest()[:32]


async def park(path: Path, table) -> None:
    queue, stop, left = SqliteQueue(path), asyncio.Event(), [settlement for _, settlement in table]

    async def handler(incoming):
        settlement = left.pop(0)
        if not left:
            stop.set()
        return settlement

    for event, _ in table:
        body = event if isinstance(event, bytes) else body_of(event)
        await queue.publish(body, content_type=STRUCTURED, headers={"traceparent": "t"}, lane=Lane.BULK)
    await queue.run(handler, prefetch=1, stop=stop)
    await queue.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    asyncio.run(park(tmp_path / "queue.db", TABLE))
    return tmp_path


@pytest.fixture
def run(folder: Path):
    def invoke(*arguments: str, input: str | None = None):
        env = {"POSTBOTE_DATA_DIR": str(folder), "POSTBOTE_LOG_FORMAT": "json"}
        return CliRunner().invoke(app, ["parked", *arguments, "--embedded"], env=env, input=input)

    return invoke


def rows(folder: Path, table: str) -> list[dict]:
    with sqlite3.connect(folder / "queue.db") as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(f"SELECT * FROM {table} ORDER BY id")]


def ids(output: str) -> list[str]:
    return [json.loads(line)["id"] for line in output.splitlines()]


ALL = ["old", "new", "plain", BROKEN_ID]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), ALL),
        (("--id", "old", "--id", BROKEN_ID), ["old", BROKEN_ID]),
        (("--reason", "config_fault"), ["new", "plain"]),
        (("--org", "acme/dev"), ["old"]),
        (("--partner", "acme"), ["old", "new"]),
        (("--partner", "acme", "--reason", "config_fault"), ["new"]),
        (("--source", "/tests"), ["old", "new", "plain"]),
        (("--older-than", "2h"), ["old"]),
        (("--newer-than", "2h"), ["new", "plain", BROKEN_ID]),
        (("--limit", "2"), ["old", "new"]),
        (("--reason", "nothing_like_it"), []),
    ],
)
def test_the_list_holds_what_the_filters_pick_oldest_first(filters, expected, run):
    done = run("list", "--json", *filters)
    assert (done.exit_code, ids(done.stdout)) == (0, expected), done.stderr


def test_a_line_of_the_list_says_everything_that_is_known(run):
    line = json.loads(run("list", "--json", "--id", "old").stdout)
    assert line.pop("age_s") >= 5 * 3600
    assert line == {
        "id": "old",
        "source": "/tests",
        "type": "email.requested.v1",
        "partner": "acme",
        "org": "dev",
        "reason": "exhausted",
        "detail": "no more",
        "lane": "bulk",
        "first_seen": PROGRESS.first_seen.isoformat(),
        "attempts": 4,
        "pending": ["b@x.test"],
        "doubtful": ["b@x.test"],
        "size": len(body_of(TABLE[0][0])),
    }


def test_the_table_shows_untrusted_text_as_it_stands_and_sends_no_control_sequence(run):
    shown = run("list").stdout
    assert "[bold]535�[31m no" in shown
    assert "\x1b" not in shown
    for word in ("old", "org:acme/dev", "exhausted", "5h", "b@x.test", "all", "controller"):
        assert word in shown


def test_a_list_that_is_cut_says_so_and_an_empty_one_too(run, folder):
    assert "the oldest 1 of more" in run("list", "--limit", "1").stderr
    assert "nothing matches among 4 parked events" in run("list", "--reason", "x").stderr
    assert run("drop", "--all", "--yes").exit_code == 0
    done = run("list")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "nothing is parked\n")


def test_show_tells_everything_but_what_is_a_key_to_something(tmp_path):
    event = make_event(
        "a@x.test",
        id="e",
        subject="Quarter",
        text="Reset: https://console.test/reset?token=abc123 now",
        attachments=[{"filename": "q.pdf", "content": "QUJDREVG" * 100}],
        headers={"X-Api-Key": "k-123456"},
    )
    asyncio.run(park(tmp_path / "queue.db", [(event, Park("invalid", "render", (), PROGRESS.headers()))]))
    arguments = ["parked", "show", "e", "--embedded"]
    env = {"POSTBOTE_DATA_DIR": str(tmp_path)}
    text = CliRunner().invoke(app, arguments, env=env).stdout
    machine = json.loads(CliRunner().invoke(app, [*arguments, "--json"], env=env).stdout)
    for shown in (text, json.dumps(machine)):
        assert not [word for word in ("QUJDREVG", "abc123", "k-123456") if word in shown]
        for word in ("Quarter", "q.pdf", "800 characters of base64 left out", "https://console.test/", "traceparent"):
            assert word in shown
    assert machine["body"]["data"]["to"] == ["a@x.test"]
    assert machine["headers"]["x-postbote-attempt"] == 4


def test_show_knows_an_event_that_cannot_be_read_by_its_hash(run):
    done = run("show", BROKEN_ID)
    assert (done.exit_code, "{broken https://h.test/…" in done.stdout) == (0, True)
    assert "secret-path" not in done.stdout


def test_show_of_what_is_not_parked_fails_in_a_line(run):
    done = run("show", "nobody\x1b")
    assert (done.exit_code, done.stderr) == (1, "postbote: nobody� is not parked\n")


def test_a_replayed_event_keeps_its_identity_and_is_sent_to_nobody_who_has_an_end(run, folder):
    done = run("replay", "old", "--json")
    assert done.exit_code == 0
    assert "replayed 1 parked event\n" in done.stderr
    [waiting] = rows(folder, "messages")
    assert (waiting["body"], waiting["content_type"], waiting["lane"]) == (body_of(TABLE[0][0]), STRUCTURED, "bulk")
    headers = orjson.loads(waiting["headers"])
    assert NOW <= datetime.fromisoformat(headers.pop("x-postbote-first-seen")) <= datetime.now(UTC)
    assert headers == {
        "traceparent": "t",
        "x-postbote-attempt": 4,
        "x-postbote-pending": ["b@x.test"],
        "x-postbote-doubtful": ["b@x.test"],
    }
    assert ids(run("list", "--json").stdout) == ALL[1:]


@pytest.mark.parametrize("verb", ["replay", "drop"])
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (("--reason", "config_fault"), ["new", "plain"]),
        (("old", "--id", BROKEN_ID), ["old", BROKEN_ID]),
        (("--partner", "acme", "--limit", "1"), ["old"]),
        (("--all",), ALL),
    ],
)
def test_replay_and_drop_pick_as_the_list_does(verb, filters, expected, run, folder):
    dry = run(verb, *filters, "--dry-run", "--json")
    assert (dry.exit_code, ids(dry.stdout), len(rows(folder, "parked"))) == (0, expected, 4)
    done = run(verb, *filters, "--yes", "--json")
    assert (done.exit_code, sorted(ids(done.stdout))) == (0, sorted(expected))
    assert len(rows(folder, "parked")) == 4 - len(expected)
    assert len(rows(folder, "messages")) == (len(expected) if verb == "replay" else 0)


def test_each_dropped_event_is_logged(run):
    done = run("drop", "--reason", "config_fault", "--yes")
    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [(line["decision"], line["event_id"]) for line in logged] == [("dropped", "new"), ("dropped", "plain")]
    assert done.stdout.splitlines()[0] == "dropped: new of /tests for partner:acme (config_fault)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("replay",), "say which events: give ids or a filter, or --all"),
        (("drop", "--yes"), "say which events"),
        (("drop", "--all", "--reason", "invalid"), "--all: is contradicted"),
        (("drop", "old"), "1 parked event would be dropped: there is no terminal to ask at: confirm with --yes"),
        (("replay", "--reason", "config_fault"), "2 parked events would be replayed: there is no terminal"),
        (("list", "--org", "acme"), "--org: expected PARTNER/ORG"),
        (("list", "--org", "acme/dev", "--partner", "other"), "--org: belongs to the partner acme"),
        (("list", "--older-than", "2 hours"), "--older-than: expected a number and s, m, h, d or w"),
        (("list", "--newer-than", "h"), "--newer-than: expected a number"),
        (("list", "--limit", "0"), "'--limit': "),
        (("replay", "old", "--lane", "fast"), "'fast' is not one of"),
    ],
)
def test_wrong_arguments_end_with_2_and_change_nothing(arguments, words, run, folder):
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", "").split())
    assert (len(rows(folder, "parked")), rows(folder, "messages")) == (4, [])


def test_a_named_event_that_is_not_there_fails_beside_those_that_are(run, folder):
    done = run("replay", "old", "nobody", "--yes")
    assert (done.exit_code, len(rows(folder, "messages"))) == (1, 1)
    assert "nobody is not parked, or not as the filters say" in done.stderr


@pytest.mark.parametrize("yes", [("--yes",), ()])
def test_a_filter_that_picks_nothing_is_no_failure(yes, run):
    done = run("replay", "--reason", "unheard_of", *yes)
    assert (done.exit_code, "nothing matches" in done.stderr) == (0, True)


@pytest.mark.parametrize(("answer", "left"), [("y\n", 2), ("n\n", 4)])
def test_a_terminal_is_asked_and_shown_what_it_is_asked_about(answer, left, run, folder, monkeypatch):
    monkeypatch.setattr("worker.cli_parked._at_terminal", lambda: True)
    done = run("replay", "--reason", "config_fault", input=answer)
    assert "new of /tests for partner:acme (config_fault)" in done.stderr
    assert "Replay 2 parked events? [y/N]" in done.stderr
    assert (done.exit_code, len(rows(folder, "parked"))) == (0 if left == 2 else 1, left)


def test_what_was_parked_while_the_question_was_open_is_not_touched(run, folder, monkeypatch):
    monkeypatch.setattr("worker.cli_parked._at_terminal", lambda: True)

    def late(*_, **__):
        asyncio.run(park(folder / "queue.db", [(make_event("z@x.test", id="late"), Park("config_fault", ""))]))

    monkeypatch.setattr("typer.confirm", late)
    assert run("drop", "--reason", "config_fault").exit_code == 0
    assert ids(run("list", "--json").stdout) == ["old", BROKEN_ID, "late"]


def test_a_setting_that_is_wrong_is_one_line_and_ends_with_2():
    done = CliRunner().invoke(app, ["parked", "list"], env={"POSTBOTE_AMQP_URL": "geheim"})
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "POSTBOTE_AMQP_URL" in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"smtp_password": "x", "n": 1}, {"smtp_password": "(left out)", "n": 1}),
        ({"Authorization": ["Bearer x"]}, {"Authorization": "(left out)"}),
        ({"attachments": ["x", {"content": 5}]}, {"attachments": ["(left out)", {"content": "(left out)"}]}),
        ({"attachments": "x" * 400}, {"attachments": "(400 characters left out)"}),
        ({"content": "words"}, {"content": "words"}),
        ("a https://u:p@h.test:8/x?y#z, b", "a https://h.test:8/… b"),
        ("http://a.test and HTTPS://b.test/c", "http://a.test/… and HTTPS://b.test/…"),
        ("x" * 299, "x" * 299),
        (None, None),
    ],
)
def test_what_is_a_key_to_something_is_left_out(value, shown):
    assert elided(value) == shown


def test_a_body_that_is_nested_without_end_is_shown_as_far_as_anybody_reads():
    deep = orjson.loads(b"[" * 900 + b"]" * 900)
    assert "deeper than shown" in str(elided(deep))


def test_a_long_text_is_cut_and_says_how_long_it_is():
    assert elided_text("word " * 1000).endswith("… (5000 characters)")
