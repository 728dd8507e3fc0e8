"""postbote publish into the embedded queue, and how commands fail."""

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.events import make_event
from tests.support.process import run_postbote
from worker.cli import app


def waiting(folder: Path) -> int:
    with sqlite3.connect(folder / "queue.db") as queue:
        tables = [row[0] for row in queue.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        return sum(
            queue.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables if "sqlite" not in table
        )


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"POSTBOTE_DATA_DIR": str(tmp_path), "POSTBOTE_LOG_FORMAT": "json"}


EVENTS = [make_event("a@example.com", id=str(n)) for n in range(3)]


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("one object", json.dumps(EVENTS[0])),
        ("an array", json.dumps(EVENTS)),
        ("one object a line", "\n".join(json.dumps(e) for e in EVENTS) + "\n\n"),
    ],
)
def test_every_form_of_file_is_published(form: str, content: str, env, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["publish", "--embedded", "-"], env=env, input=content)
    count = 1 if form == "one object" else 3
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        0,
        f"published {count} of {count} events to the transactional lane",
    )
    assert waiting(tmp_path) >= count


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("nowhere.json",), None, "nowhere.json: No such file"),
        (("-",), '{"a": 1}\n{', "-:2: not JSON"),
        (("-",), "[1]", "-[1]: not a JSON object"),
        (("-",), json.dumps(make_event("nobody")), "data.to.0.email: not a valid mail address"),
        (("--lane", "fast", "-"), json.dumps(EVENTS[0]), "--lane: expected one of transactional, bulk"),
    ],
)
def test_what_cannot_be_published_is_said_in_a_line_and_nothing_is(arguments, stdin, words, env, tmp_path) -> None:
    done = CliRunner().invoke(app, ["publish", "--embedded", *arguments], env=env, input=stdin)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "queue.db").exists()


@pytest.mark.parametrize(
    ("arguments", "variable", "code", "words"),
    [
        (("publish", "samples/password-reset.json"), {}, 1, "postbote: "),
        (("health",), {}, 1, ""),
        (("worker",), {"POSTBOTE_HTTP_PORT": "zehn"}, 2, "postbote: POSTBOTE_HTTP_PORT: "),
    ],
)
def test_a_command_that_fails_ends_with_one_line_and_its_exit_code(arguments, variable, code, words, env) -> None:
    env = {**env, "POSTBOTE_AMQP_URL": "amqp://u:geheim@127.0.0.1:1/", "POSTBOTE_HTTP_PORT": "1", **variable}
    done = run_postbote(*arguments, env=env)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(words)
    assert len(done.stderr.splitlines()) <= 1
    assert "geheim" not in done.stderr
