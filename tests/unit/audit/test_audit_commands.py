"""``postbote audit search``, ``export`` and ``tail`` over a real embedded audit."""

import asyncio
import csv
import io
import json
import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import typer
from typer.testing import CliRunner

from schemas.audit import Outcome, Reply
from schemas.audit_query import AuditQuery
from tests.unit.audit.audit_samples import audit_record
from worker import cli_audit_export
from worker.cli_audit import audit_app
from worker.cli_audit_tail import Tail
from worker.control import audit_walk
from worker.control.audit_rows import COLUMNS
from worker.embedded.audit import SqliteAudit

NOW = datetime.now(UTC).replace(microsecond=0)


def recent(number, **changes):
    values = {"timestamp": NOW - timedelta(minutes=30) + timedelta(milliseconds=number), "event_time": NOW}
    return audit_record(number, **(values | changes))


@pytest.fixture
async def audit(tmp_path):
    opened = await SqliteAudit(tmp_path / "audit.db").open()
    yield opened
    await opened.close()


@pytest.fixture
def environment(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("POSTBOTE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("POSTBOTE_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def run(*arguments):
    main = typer.Typer()
    main.add_typer(audit_app, name="audit")
    return await asyncio.to_thread(CliRunner().invoke, main, ["audit", *arguments, "--embedded"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "abc"),
        (("--domain", "Example.org"), "ac"),
        (("--code", "5xx"), "b"),
        (("--enhanced", "5.1"), "b"),
        (("--text", "unknown USER"), "b"),
        (("--duplicate",), "c"),
        (("--no-duplicate",), "ab"),
        (("--outcome", "refused,accepted"), "abc"),
        (("--outcome", "refused"), "b"),
        (("--config", "spare"), ""),
        (("--source", "/billing", "--event-id", "a"), "a"),
        (("--until", "2h"), ""),
    ],
)
async def test_search_and_export_take_the_same_filters(audit, environment, arguments, expected):
    await audit.write(
        [
            recent(1, event_id="a"),
            recent(
                2,
                event_id="b",
                recipient="bob@b.test",
                outcome=Outcome.REFUSED,
                reply=Reply(code=550, enhanced="5.1.1", text="user unknown"),
            ),
            recent(3, event_id="c", possible_duplicate=True),
        ]
    )
    for newest_first in (True, False):
        sort = () if newest_first else ("--sort", "time")
        in_order = list(expected)[:: -1 if newest_first else 1]
        found = await run("search", "--json", *arguments, *sort)
        assert found.exit_code == 0, found.output
        assert [json.loads(line)["event_id"] for line in found.stdout.splitlines()] == in_order
        exported = await run("export", "--format", "ndjson", *arguments, *sort)
        assert exported.exit_code == 0, exported.output
        assert [json.loads(line)["event_id"] for line in exported.stdout.splitlines()] == in_order
        assert exported.stderr == f"{len(expected)} records\n"


async def test_an_export_is_a_file_that_only_its_owner_reads(audit, environment):
    await audit.write([recent(n, reason="=1+1") for n in range(2300)])
    done = await run("export", "--out", "audit.csv")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "2300 records\n")
    file = environment / "audit.csv"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == 2300
    assert {row["reason"] for row in rows} == {"'=1+1"}
    assert not (environment / "audit.csv.part").exists()


async def test_an_export_that_is_cut_says_so(audit, environment, monkeypatch):
    await audit.write([recent(n) for n in range(20)])
    monkeypatch.setattr(audit_walk, "Walk", partial(audit_walk.Walk, most=7))
    done = await run("export", "--format", "ndjson")
    assert json.loads(done.stdout.splitlines()[-1]) == {"cut": True, "records": 7}
    assert done.stderr == "7 records of 20: cut\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "--format", "xml"), "--format: expected csv or ndjson"),
        (("export", "--out", "no/such/folder/x"), "--out: no/such/folder/x.part cannot be written: No such file"),
        (("export", "--code", "600"), "--code: expected an SMTP reply code"),
        (("search", "--sort", "recipient"), "--sort: expected one of: -time, time"),
        (("search", "--text", "**"), "--text: has no word"),
        (("tail", "--lines", "0"), "--limit: expected a whole number"),
    ],
)
async def test_bad_input_is_one_line(audit, environment, arguments, words):
    done = await run(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr.replace("--lines", "--limit")
    assert len(done.stderr.splitlines()) == 1


async def test_a_file_that_could_not_be_finished_is_not_there_and_the_old_one_stays(audit, environment, monkeypatch):
    await audit.write([recent(1)])
    (environment / "audit.csv").write_text("the old one")

    async def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli_audit_export, "_write", broken)
    done = await run("export", "--out", "audit.csv")
    assert (done.exit_code, done.stderr) == (1, "--out: cannot be written: No space left on device\n")
    assert (environment / "audit.csv").read_text() == "the old one"
    assert not (environment / "audit.csv.part").exists()


async def test_tail_shows_the_newest_oldest_first_and_no_colours_in_a_pipe(audit, environment):
    await audit.write([recent(n, event_id=f"e{n}", recipient=f"r{n}@x.test") for n in range(20)])
    done = await run("tail", "-n", "3")
    assert done.exit_code == 0
    assert [line.split()[3] for line in done.stdout.splitlines()] == ["r17@x.test", "r18@x.test", "r19@x.test"]
    assert "\x1b" not in done.stdout
    assert [json.loads(line)["event_id"] for line in (await run("tail", "--json", "-n", "2")).stdout.splitlines()] == [
        "e18",
        "e19",
    ]


async def test_a_tail_gives_each_record_once_also_one_that_comes_late(audit):
    await audit.write([recent(n, event_id=f"old-{n}") for n in range(5)])
    tail = Tail(audit, AuditQuery(limit=2))
    assert [record["event_id"] for record in await tail.begin()] == ["old-3", "old-4"]
    assert await tail.more() == []
    now = datetime.now(UTC)
    await audit.write(
        [recent(0, timestamp=now, event_id="new"), recent(0, timestamp=now + timedelta(hours=1), event_id="ahead")]
    )
    assert [record["event_id"] for record in await tail.more()] == ["new", "ahead"]
    assert await tail.more() == []
    await audit.write([recent(0, timestamp=now - timedelta(seconds=5), event_id="late")])
    await audit.write(
        [recent(n, timestamp=now + timedelta(seconds=1, milliseconds=n), event_id=f"n{n}") for n in range(2500)]
    )
    assert [record["event_id"] for record in await tail.more()] == ["late", *(f"n{n}" for n in range(2500))]
    assert await tail.more() == []


async def test_tail_follows_until_it_is_interrupted_and_ends_well(audit, environment):
    await audit.write([recent(1, event_id="first")])
    command = [sys.executable, "-m", "worker.cli", "audit", "tail", "-f", "--json", "--embedded"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
    )
    async with asyncio.timeout(30):
        assert json.loads(await process.stdout.readline())["event_id"] == "first"
        for name in ("second", "third"):
            await audit.write([recent(0, timestamp=datetime.now(UTC), event_id=name)])
            assert json.loads(await process.stdout.readline())["event_id"] == name
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
