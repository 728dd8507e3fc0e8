"""``postbote audit verify`` on an embedded file, and what a record costs it."""

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import typer
from typer.testing import CliRunner

from tests.bench.audit_verify import cost_us
from tests.unit.audit.audit_samples import audit_record
from worker.cli_audit import audit_app
from worker.embedded.audit import SqliteAudit
from worker.proof.chain import Chain
from worker.proof.sealed import SealedAudit
from worker.proof.signing import Signer

MOST_US = 100  # a fifth of it is what is promised; the machine that tests may have other things to do


def run(*arguments):
    main = typer.Typer()
    main.add_typer(audit_app, name="audit")
    return CliRunner().invoke(main, ["audit", "verify", "--embedded", *arguments])


@pytest.fixture
def signer():
    return Signer.new()[0]


@pytest.fixture
def folder(tmp_path, monkeypatch, signer):
    """The data folder, with an audit of five records and their head of an hour ago."""
    monkeypatch.setenv("POSTBOTE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("POSTBOTE_AUDIT_VERIFY_KEYS", signer.public_key)
    ago = datetime.now(UTC) - timedelta(hours=1)

    async def write():
        audit = await SqliteAudit(tmp_path / "audit.db").open()
        sealed = SealedAudit(audit, Chain("host-1/0000000a", signer), in_order=True)
        await sealed.write([audit_record(n, timestamp=ago, event_time=None) for n in range(5)])
        await sealed.write_head(ago)
        await audit.close()

    asyncio.run(write())
    return tmp_path


def tamper(folder, number=3):
    with closing(sqlite3.connect(folder / "audit.db", isolation_level=None)) as connection:
        rows = connection.execute("SELECT id, document FROM record").fetchall()
        own, body = next((i, d) for i, d in rows if orjson.loads(d)["chain"]["seq"] == number)
        said = orjson.dumps(orjson.loads(body) | {"reason": "[red]never\x1b[2J"})
        connection.execute("UPDATE record SET document = ? WHERE id = ?", (said, own))
    return own


def test_a_whole_audit_is_said_to_be_whole(folder):
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("whole: 5 records of 1 writers, 1 heads, ")


def test_what_was_tampered_with_is_named(folder):
    own = tamper(folder)
    result = run("--since", "2h")
    assert result.exit_code == 1
    for word in ("changed", "host-1/0000000a", " 3 ", own, "its hash does not follow from what it says", "1 findings"):
        assert word in result.stdout


def test_the_answer_is_one_object_for_programs(folder):
    own = tamper(folder)
    result = run("--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    (finding,) = answer["findings"]
    assert (answer["whole"], answer["records"], answer["heads"]) == (False, 5, 1)
    assert finding["kind"] == "changed"
    assert (finding["writer"], finding["number"], finding["id"]) == ("host-1/0000000a", 3, own)


def test_a_range_without_records_is_whole(folder):
    result = run("--until", "now-2h")
    assert (result.exit_code, "whole: 0 records" in result.stdout) == (0, True)


def test_the_signing_key_proves_where_no_other_is_given(folder, monkeypatch):
    private = Signer.new()[1]
    monkeypatch.delenv("POSTBOTE_AUDIT_VERIFY_KEYS")
    monkeypatch.setenv("POSTBOTE_AUDIT_SIGNING_KEY", private)
    result = run()
    assert result.exit_code == 1
    assert "the head is signed with a key that is not known" in result.stdout
    assert private not in result.stdout


def test_a_log_kept_elsewhere_is_held_against_the_audit(folder, tmp_path):
    log = tmp_path / "worker.log"
    line = {"event": "audit head", "writer": "host-1/gone", "seq": 9, "hash": "a" * 64, "at": "2026-01-01T00:00:00Z"}
    log.write_text(f"starting\n{json.dumps(line)}\n")
    result = run("--heads", str(log), "--json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["kind"], finding["writer"], finding["number"], finding["last"]) == ("missing", "host-1/gone", 1, 9)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "yesterday"], "--since: expected now"),
        (["--until", "2026-01-01T00:00:00"], "--until: has no zone"),
        (["--since", "1h", "--until", "2h"], "--since: is later than --until"),
        (["--heads", "nowhere.log"], "--heads: nowhere.log cannot be read"),
        (["--heads", "/dev/null"], "--heads: /dev/null has no line"),
    ],
    ids=str,
)
def test_bad_input_is_told_by_the_option(folder, arguments, says):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(says)


def test_a_file_that_is_not_there_is_an_audit_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTBOTE_DATA_DIR", str(tmp_path))
    result = run()
    assert (result.exit_code, "audit.db" in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_verifying_a_record_costs_little():
    assert cost_us(5000) < MOST_US
