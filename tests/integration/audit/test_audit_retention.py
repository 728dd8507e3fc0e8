"""`postbote audit prune` on a real OpenSearch and on the embedded file: what goes, what stays, and what proves it."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from schemas.audit_chain import PROOF_MONTH, digest_of, pruned_document
from tests.control.shipping.shipping_samples import change_record
from tests.integration.audit.commands import Asked, begin, environment, kill_at, run, run_json, run_well
from tests.integration.audit.conftest import AuditUnderTest
from tests.integration.audit.killing_proxy import Passing, killing_proxy
from tests.integration.audit.older_templates import template_of
from tests.unit.audit.audit_samples import audit_record
from worker.audit.index_template import VERSION
from worker.delivery.ports import Document
from worker.embedded.retention import SqliteRetention
from worker.proof.chain import Chain, new_writer
from worker.proof.sealed import SealedAudit
from worker.rabbit import topology
from worker.rabbit.publisher import Publisher
from worker.store.database import Store
from worker.store.outgoing import post_record

OLD, KEPT = datetime(2024, 2, 10, tzinfo=UTC), datetime(2025, 11, 21, tzinfo=UTC)
# From the last day of 2024 back, whatever day it is today.
AGE = f"{(datetime.now(UTC) - datetime(2025, 1, 1, tzinfo=UTC)).days}d"
ASKED = ("audit", "prune", "--older-than", AGE)


@dataclass
class Site:
    """One form of the audit, written to by a chain, and the command's environment."""

    audit: AuditUnderTest
    env: dict[str, str]
    options: tuple[str, ...]
    asked: Any
    destroy: Any

    async def fill(self):
        """A chain of 40 records, whose odd ones are of an old month; returns its writer."""
        chain = Chain(new_writer("worker-1"))
        sealed = SealedAudit(self.audit.audit, chain)
        records = [audit_record(n, event_time=OLD if n % 2 else KEPT) for n in range(40)]
        await sealed.write(records)
        await sealed.close(60)  # the proofs' index is made by it
        return chain.writer

    async def months(self):
        """By name of month: how many records of deliveries."""
        return {line["month"]: line["records"] for line in await run_json(*PREVIEW, *self.options, env=self.env)}

    async def proofs(self):
        return [source for source in await self.asked() if source.get("category") == "AUDITPROOF"]

    async def changes(self):
        return [source for source in await self.asked() if source.get("action") == "pruned"]


PREVIEW = ("audit", "prune", "--older-than", "1d", "--dry-run")


@pytest.fixture
async def outbox(amqp_url):
    """The broker with everything that a worker declares."""
    publisher = await Publisher(amqp_url, "test").start(declare=True)
    yield publisher
    await publisher.close()


@pytest.fixture
async def asked(opensearch, index_prefix):
    opened = Asked(opensearch.url, index_prefix)
    yield opened
    await opened.close()


@pytest.fixture
def site_opensearch(over_opensearch, opensearch, amqp_url, outbox, asked, tmp_path):
    async def everything():
        return [source for _, source in (await asked.documents(expand_wildcards="all")).values()]

    database = f"sqlite:///{tmp_path / 'postbote.db'}"
    env = environment(opensearch.url, asked.prefix, POSTBOTE_AMQP_URL=amqp_url, POSTBOTE_DATABASE_URL=database)
    return Site(over_opensearch, env, (), everything, lambda month: asked.call("DELETE", f"/{asked.prefix}-{month}"))


@pytest.fixture
def site_sqlite(over_sqlite, tmp_path):
    async def everything():
        return await SqliteRetention(tmp_path / "audit.db")._run(
            lambda c: [
                orjson.loads(row[0])
                for row in c.execute("SELECT document FROM record UNION ALL SELECT document FROM proof")
            ]
        )

    async def destroy(month):
        retention = SqliteRetention(tmp_path / "audit.db")
        assert await retention.remove(month, await retention.close_month(month))

    database = f"sqlite:///{tmp_path / 'postbote.db'}"
    env = environment("http://127.0.0.1:1", "none", POSTBOTE_DATA_DIR=str(tmp_path), POSTBOTE_DATABASE_URL=database)
    return Site(over_sqlite, env, ("--embedded",), everything, destroy)


@pytest.fixture(params=["opensearch", "sqlite"])
def site(request):
    # Resolved by name, so that the embedded half needs no server.
    return request.getfixturevalue(f"site_{request.param}")


async def verified(site, code=0):
    found, out, err = await run(
        "audit", "verify", "--since", "2020-01-01T00:00:00Z", *site.options, "--json", env=site.env
    )
    assert found == code, err + out
    return json.loads(out)


async def test_an_old_month_goes_and_what_went_is_proven(site):
    writer = await site.fill()
    assert await site.months() == {"2024.02": 20, "2025.11": 20}
    (planned,) = await run_json(*ASKED, "--dry-run", *site.options, env=site.env)
    assert (planned["action"], planned["month"], planned["records"]) == ("would be removed", "2024.02", 20)
    assert planned["bytes"] > 1000
    (done,) = await run_json(*ASKED, "--yes", *site.options, env=site.env)
    assert (done["action"], done["month"], done["records"]) == ("removed", "2024.02", 20)

    assert await site.months() == {"2025.11": 20}
    (document,) = [proof for proof in await site.proofs() if proof["kind"] == "pruned"]
    even = ",".join(str(n) for n in range(2, 41, 2))
    assert document == pruned_document("2024.02", {writer: even}, document["@timestamp"])
    (told,) = await site.changes()
    assert (told["type"], told["subject"], told["changed"]) == ("audit.changed", "2024.02", [digest_of(document)])
    assert told["actor"]["kind"] == "command"
    assert told["chain"]["writer"] != writer
    assert any(proof["kind"] == "head" and proof["writer"] == told["chain"]["writer"] for proof in await site.proofs())

    code, _, err = await run(*ASKED, "--yes", *site.options, env=site.env)
    assert (code, err.strip().splitlines()[-1]) == (0, f"no month ended {AGE} ago or earlier")
    assert len(await site.changes()) == 1


async def test_verify_finds_nothing_missing_after_a_pruning_and_what_a_forged_one_would_hide(site):
    writer = await site.fill()
    await run_well(*ASKED, "--yes", *site.options, env=site.env)
    report = await verified(site)
    assert (report["whole"], report["findings"]) == (True, [])
    await site.destroy("2025.11")
    forged = pruned_document("2025.11", {writer: "1-40"}, "2026-11-21T00:00:00+00:00")
    await site.audit.audit.write_documents([Document("f0" * 20, PROOF_MONTH, orjson.dumps(forged))])
    await asyncio.to_thread(site.audit.make_visible)
    report = await verified(site, code=1)
    assert writer in json.dumps(report["findings"])
    assert "f0" * 20 in json.dumps(report)


@pytest.mark.parametrize("age", ["400", "0d", "12h", "soon"])
async def test_an_age_that_is_none_is_refused_with_an_example(age, site_sqlite):
    code, out, err = await run("audit", "prune", "--older-than", age, "--embedded", "--yes", env=site_sqlite.env)
    assert (code, out) == (2, "")
    assert err.startswith("--older-than: ")
    assert "d" in err


async def test_a_pipe_without_yes_is_refused_and_nothing_goes(site):
    await site.fill()
    code, out, err = await run(*ASKED, *site.options, env=site.env)
    assert (code, out) == (2, "")
    assert "1 month of 20 records would be removed: there is no terminal to ask at: confirm with --yes" in err
    assert await site.months() == {"2024.02": 20, "2025.11": 20}


async def test_no_month_goes_while_the_database_has_records_that_are_not_shipped(site):
    await site.fill()
    store = Store(site.env["POSTBOTE_DATABASE_URL"])
    await store.upgrade()
    async with store.writing() as connection:
        await post_record(connection, change_record(1))
    await store.close()
    code, _, err = await run(*ASKED, "--yes", *site.options, env=site.env)
    assert code == 1
    assert "nothing was removed: 1 records of changes wait in" in err
    assert len(await site.months()) == 2


async def test_no_month_goes_while_the_outbox_holds_records_or_cannot_be_asked(site_opensearch, outbox):
    site = site_opensearch
    await site.fill()
    await outbox.publish("", topology.AUDIT_OUTBOX_QUEUE, b"x", content_type="application/x-ndjson", headers={})
    code, _, err = await run(*ASKED, "--yes", env=site.env)
    assert (code, "nothing was removed: 1 messages of records wait in the outbox" in err) == (1, True)
    away = {**site.env, "POSTBOTE_AMQP_URL": "amqp://guest:guest@127.0.0.1:1/%2F"}
    code, _, err = await run(*ASKED, "--yes", env=away)
    assert (code, "RabbitMQ cannot be asked" in err) == (1, True)
    assert len(await site.months()) == 2


async def test_killed_at_every_step_a_pruning_is_finished_by_the_next_and_told_once(
    site_opensearch, asked, opensearch, index_prefix
):
    site = site_opensearch
    await site.fill()
    month = f"/{index_prefix}-2024.02"
    steps = [
        Passing(f"PUT {month}/_mapping"),
        Passing(f"PUT {month}/_block/write"),
        Passing("POST /_bulk", answered=False),
        Passing("POST /_bulk"),
        Passing("POST /_bulk"),
        Passing(f"DELETE {month} ", answered=False),
    ]
    async with killing_proxy(opensearch.url) as proxy:
        for step in steps:
            await kill_at(step, *ASKED, "--yes", env=site.env, proxy=proxy)
            await asked.forget_turn()
            assert await site.months() == {"2024.02": 20, "2025.11": 20}, step
        await run_well(*ASKED, "--yes", env=site.env)
        assert len([proof for proof in await site.proofs() if proof["kind"] == "pruned"]) == 1
        assert len(await site.changes()) == 1
        # A record that comes late is a month of its own, and goes like one.
        await site.audit.audit.write([audit_record(99, event_time=OLD)])
        assert (await site.months())["2024.02"] == 1
        await kill_at(Passing(f"DELETE {month} "), *ASKED, "--yes", env=site.env, proxy=proxy)
        await asked.forget_turn()
    code, _, err = await run(*ASKED, "--yes", env=site.env)
    assert (code, "no month ended" in err) == (0, True)
    assert [source["subject"] for source in await site.changes()] == ["2024.02", "2024.02"]
    assert "2024.02" not in await site.months()


async def test_a_month_that_was_migrated_is_pruned_under_its_name(site_opensearch, asked, index_prefix):
    site = site_opensearch
    name = f"{index_prefix}-2024.02"
    await asked.call("PUT", f"/_index_template/{index_prefix}-v2", template_of(2, index_prefix))
    await asked.call("PUT", f"/{name}")
    await site.fill()
    await run_well("audit", "migrate", env=site.env)
    assert f"{name}-v{VERSION}" in await asked.indices()
    (done,) = await run_json(*ASKED, "--yes", env=site.env)
    assert (done["month"], done["records"]) == ("2024.02", 20)
    assert not [index for index in await asked.indices() if "2024.02" in index]
    await verified(site)


async def test_of_two_commands_at_once_one_waits_for_the_other(site_opensearch):
    site = site_opensearch
    await site.fill()
    both = [await begin(*ASKED, "--yes", "--json", env=site.env) for _ in range(2)]
    ended = [await process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert sum(out.count(b"removed") for out, _ in ended) == 1
    assert len(await site.changes()) == 1
