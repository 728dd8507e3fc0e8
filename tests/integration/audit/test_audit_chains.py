"""Chains over a real OpenSearch and the embedded file: no holes, whoever is killed, and whoever else was there first."""

import asyncio
import json
import sys
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from schemas.audit import Outcome
from schemas.audit_query import AuditQuery
from tests.control.shipping.shipping_samples import Desk, change_record
from tests.integration.audit.conftest import refresh
from tests.support.chains import faults_of, lengths_of
from tests.support.events import make_event
from tests.support.process import Postbote
from tests.unit.audit.audit_samples import audit_record
from worker.audit.entries import restore
from worker.audit.opensearch import OpenSearchAudit
from worker.delivery.trail import Trail
from worker.journal.journal import Journal
from worker.journal.left_behind import ship_left_behind
from worker.proof.chain import Chain, new_writer
from worker.proof.sealed import SealedAudit
from worker.proof.signing import PublicKeys, Signer

ROOT = Path(__file__).resolve().parents[3]
NOWHERE = "http://127.0.0.1:1"
PATIENCE_S = 40


@dataclass
class Stored:
    """What is in the indices."""

    records: list
    proofs: list

    @property
    def faults(self):
        return faults_of(self.records, self.proofs)

    @property
    def lengths(self):
        return lengths_of(self.records, self.proofs)

    def heads(self, writer):
        return [each["seq"] for each in self.proofs if each["kind"] == "head" and each["writer"] == writer]


def asked(url, body=None, method="POST"):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def stored(opensearch, index_prefix):
    """Reads all that there is."""

    def documents(index):
        after, found = [], []
        while True:
            page = {
                "size": 5000,
                "sort": [{"_seq_no": "asc"}, {"_index": "asc"}],
                **({"search_after": after} if after else {}),
            }
            url = f"{opensearch.url}/{index}/_search?ignore_unavailable=true&allow_no_indices=true"
            hits = asked(url, page)["hits"]["hits"]
            found += hits
            if not hits:
                return [restore(hit["_source"]) for hit in found]
            after = hits[-1]["sort"]

    def read():
        refresh(opensearch, index_prefix)
        asked(f"{opensearch.url}/{index_prefix}-proof/_refresh?ignore_unavailable=true")
        return Stored(documents(f"{index_prefix}-*"), documents(f"{index_prefix}-proof"))

    return read


@asynccontextmanager
async def writer_process(folder, url, prefix, number):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.audit.chained_writer", str(folder), url, prefix, str(number),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(process, word, count):
    """Return the last number of each writer, once `count` lines of `word` have come."""
    found, lines = {}, 0
    async with asyncio.timeout(PATIENCE_S):
        while lines < count:
            line = (await process.stdout.readline()).decode().split()
            assert line, "the process ended"
            if line[0] == "journalled":
                found[line[1]] = max(found.get(line[1], 0), int(line[2]))
            lines += line[0] == word
    return found


async def ship_what_is_left(folder, url, prefix):
    journal, audit = Journal(folder, worker_id="last"), OpenSearchAudit(url, index_prefix=prefix)
    await journal.open()
    trail = Trail(journal, audit, Chain(new_writer("last")))
    shipped = await ship_left_behind(journal, trail.keep_left_behind)
    await audit.close()
    await journal.close()
    return shipped


async def test_workers_that_are_killed_one_after_the_other_leave_whole_chains(
    opensearch, index_prefix, stored, tmp_path
):
    known = {}
    for number in range(3):
        async with writer_process(tmp_path, opensearch.url, index_prefix, number) as process:
            known |= await told(process, "journalled", 400)
            process.kill()
    assert await ship_what_is_left(tmp_path, opensearch.url, index_prefix)
    found = stored()
    assert found.faults == []
    assert len(found.lengths) == 3
    assert all(found.lengths[writer] >= last for writer, last in known.items()), "what was journalled is there"
    assert sum(found.lengths.values()) == len(found.records)
    assert {writer: max(found.heads(writer)) for writer in known} == found.lengths, "each is vouched for to its end"


async def test_a_worker_that_is_killed_while_it_ships_for_a_dead_one_leaves_whole_chains(
    opensearch, index_prefix, stored, tmp_path
):
    async with writer_process(tmp_path, NOWHERE, index_prefix, 1) as process:
        known = await told(process, "journalled", 60)
    async with writer_process(tmp_path, opensearch.url, index_prefix, 2) as process:
        await told(process, "shipping", 1)
        process.kill()
    await ship_what_is_left(tmp_path, opensearch.url, index_prefix)
    found = stored()
    assert found.faults == []
    assert {writer: found.lengths[writer] for writer in known} == known


class TestTaken:
    """Where another worker's record of the same is there first."""

    @pytest.fixture(params=["opensearch", "sqlite"])
    def audit(self, request):
        return request.getfixturevalue(f"over_{request.param}")

    @pytest.fixture
    def read(self, audit, request, tmp_path):
        if audit.prefix:
            return request.getfixturevalue("stored")

        def rows():
            import sqlite3

            with sqlite3.connect(tmp_path / "audit.db") as connection:
                tables = [connection.execute(f"SELECT document FROM {name}").fetchall() for name in ("record", "proof")]
            return Stored(*([orjson.loads(row) for (row,) in table] for table in tables))

        return rows

    async def test_every_number_is_accounted_for_and_two_acceptances_are_two_records(self, audit, read):
        sealed = {name: SealedAudit(audit.audit, Chain(f"{name}/0")) for name in ("w1", "w2")}
        outcomes = (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.DEFERRED)
        for name, seconds in (("w1", 0), ("w2", 1)):
            records = [
                audit_record(n, outcome=outcome, worker_id=name, seconds=seconds) for n, outcome in enumerate(outcomes)
            ]
            await sealed[name].write([*records, audit_record(9, event_id=name)])
        for each in sealed.values():
            await each.close(60)
        found = read()
        assert found.faults == []
        assert found.lengths == {"w1/0": 4, "w2/0": 4}
        assert [found.heads(name) for name in ("w1/0", "w2/0")] == [[4], [4]]
        assert sorted(each["seq"] for each in found.proofs if each["kind"] == "void") == [2, 3]
        (marked,) = (each for each in found.records if each["chain"].get("marked"))
        assert (marked["worker_id"], marked["possible_duplicate"], marked["outcome"]) == ("w2", True, "accepted")

    async def test_proofs_are_no_records(self, audit, read):
        sealed = SealedAudit(audit.audit, Chain("w1/0"))
        await sealed.write([audit_record()])
        await sealed.close(60)
        page = await audit.search(AuditQuery())
        assert (page.total, len(read().proofs)) == (1, 1)


async def test_an_index_whose_writes_are_blocked_for_a_moment_is_waited_for(opensearch, index_prefix, stored):
    audit = OpenSearchAudit(opensearch.url, index_prefix=index_prefix)
    sealed = SealedAudit(audit, Chain("w"))
    await sealed.write([audit_record(0)])
    settings = f"{opensearch.url}/{index_prefix}-2025.11/_settings"
    asked(settings, {"index.blocks.write": True}, "PUT")
    writing = asyncio.create_task(sealed.write([audit_record(n) for n in range(1, 20)]))
    async with asyncio.timeout(PATIENCE_S):
        while audit.missing() is None:
            await asyncio.sleep(0.01)  # polling: the health announces only what ends
    assert "cluster_block_exception" in audit.missing()
    asked(settings, {"index.blocks.write": False}, "PUT")
    await writing
    await sealed.close(60)
    await audit.close()
    found = stored()
    assert (found.faults, found.lengths) == ([], {"w": 20})
    assert not [each for each in found.records if "dead_letter" in each]


async def test_changes_are_chained_without_holes_when_the_api_is_killed(site, opensearch, stored):
    desk = Desk(site.env["POSTBOTE_DATABASE_URL"])
    await desk.store.upgrade()
    for life in range(2):
        await desk.records(*(change_record(n, subject=str(n)) for n in range(500 * life, 500 * (life + 1))))
        enough = await desk.shelf.waiting() - 100
        with Postbote("api", env=site.env) as running:
            async with asyncio.timeout(PATIENCE_S):
                while await desk.shelf.waiting() > enough:
                    await asyncio.sleep(0.01)  # polling: a table announces nothing
            running.kill()
    # Of its own for each life: all that was there may have been shipped before the kill came.
    await desk.records(*(change_record(n, subject=str(n)) for n in range(1000, 1500)))
    with Postbote("api", env=site.env | {"POSTBOTE_AUDIT_HEAD_S": "0.3"}) as running:
        async with asyncio.timeout(PATIENCE_S):
            while await desk.shelf.waiting():
                await asyncio.sleep(0.05)
        running.wait_for("audit head")  # the proofs' index is made, which the end has little time for
        assert await asyncio.to_thread(running.terminate) == 0
        last = [each for each in running.events() if each["event"] == "audit head"][-1]
    await desk.store.close()
    found = stored()
    assert found.faults == []
    assert {each["subject"] for each in found.records} == {str(n) for n in range(1500)}
    assert len(found.records) == 1500
    assert len(found.lengths) == 3
    assert max(found.heads(last["writer"])) == last["seq"] == found.lengths[last["writer"]]


def test_a_workers_heads_are_signed_logged_and_kept_now_and_then_and_at_the_end(site, stored):
    signer, private = Signer.new()
    site.env_extra |= {"POSTBOTE_AUDIT_HEAD_S": "0.3", "POSTBOTE_AUDIT_SIGNING_KEY": private}
    with site.worker() as running:
        running.wait_for("consuming")
        site.publish(make_event("a@example.com", id="1"))
        running.wait_for("audit head")
        site.publish(make_event("b@example.com", "c@example.com", id="2"), make_event("d@example.com", id="3"))
        site.reader(running).wait_for(4)
        assert running.terminate() == 0
        logged = [each for each in running.events() if each["event"] == "audit head"]
        assert private not in "".join(running.lines)
    found = stored()
    assert found.faults == []
    # Beside it, the API of the same process has chained that a token was made.
    (writer,) = {each["chain"]["writer"] for each in found.records if each["type"] == "email.delivery"}
    ours = [each for each in found.proofs if each["kind"] == "head" and each["writer"] == writer]
    heads = sorted(ours, key=lambda each: each["seq"])
    assert (heads[0]["seq"], heads[-1]["seq"]) == (1, found.lengths[writer])
    assert [(each["seq"], each["hash"], each["signature"]) for each in heads] == [
        (each["seq"], each["hash"], each["signature"]) for each in logged if each["writer"] == writer
    ]
    assert all(PublicKeys([signer.public_key]).signed(each) for each in heads)
