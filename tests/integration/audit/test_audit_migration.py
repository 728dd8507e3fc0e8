"""`postbote audit migrate` on a real OpenSearch: months of earlier versions, killed at every step, and never noticed."""

import asyncio
from datetime import UTC, datetime

import orjson
import pytest

from schemas.audit_query import AuditQuery
from tests.integration.audit.commands import Asked, begin, environment, kill_at, run, run_json, run_well
from tests.integration.audit.killing_proxy import Passing, killing_proxy
from tests.integration.audit.older_templates import template_of
from tests.unit.audit.audit_samples import audit_record, ids_of
from worker.audit.index_template import VERSION, index_template
from worker.audit.link import OpenSearchAccess, OpenSearchLink
from worker.audit.lookup import RecordLookup
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.search import OpenSearchSearch

MONTH = "2025.11"


@pytest.fixture
async def asked(opensearch, index_prefix):
    opened = Asked(opensearch.url, index_prefix)
    yield opened
    await opened.close()


@pytest.fixture
def env(opensearch, index_prefix):
    return environment(opensearch.url, index_prefix)


@pytest.fixture
async def audit(opensearch, index_prefix):
    opened = OpenSearchAudit(opensearch.url, index_prefix=index_prefix)
    yield opened
    await opened.close(0.1)


@pytest.fixture
async def search(opensearch, index_prefix):
    opened = OpenSearchSearch(opensearch.url, index_prefix=index_prefix)
    yield opened
    await opened.close()


async def older_month(asked, version, records, month=MONTH):
    """A month as a Postbote of that version has left it, with its template."""
    await asked.call("PUT", f"/_index_template/{asked.prefix}-v{version}", template_of(version, asked.prefix))
    index = f"{asked.prefix}-{month}"
    for first in range(0, len(records), 2000):
        lines = [
            part
            for record in records[first : first + 2000]
            for part in (orjson.dumps({"create": {"_index": index, "_id": record.document_id}}), record.to_json())
        ]
        body = b"\n".join(lines) + b"\n"
        answer = await asked.client.post("/_bulk", content=body, headers={"content-type": "application/x-ndjson"})
        assert answer.json()["errors"] is False, answer.text[:1000]
    await asked.call("POST", f"/{index}/_refresh")


async def by_domain(search, domain="example.org"):
    return (await search.search(AuditQuery(domain=domain, limit=1))).total


@pytest.mark.parametrize("version", [2, 3])
async def test_an_older_month_becomes_this_versions_with_every_document_as_it_was(
    version, asked, env, audit, search, index_prefix
):
    records = [audit_record(n) for n in range(300)]
    await older_month(asked, version, records)
    before = await asked.documents()
    copied = version == 2
    planned = await run_json("audit", "migrate", "--dry-run", env=env)
    assert [(line["month"], line["action"]) for line in planned] == [
        (MONTH, "needs a copy" if copied else "needs new fields")
    ]
    assert await asked.documents() == before

    await run_well("audit", "migrate", env=env)

    indices = await asked.indices()
    name = f"{index_prefix}-{MONTH}-v{VERSION}" if copied else f"{index_prefix}-{MONTH}"
    assert (f"{index_prefix}-{MONTH}" in indices) is not copied
    assert indices[name]["mappings"]["_meta"] == {"template": VERSION}
    fields, wanted = indices[name]["mappings"]["properties"], index_template()["template"]["mappings"]["properties"]
    assert fields.keys() == wanted.keys()
    assert fields["recipient"] == wanted["recipient"]
    assert "blocks" not in indices[name]["settings"]["index"]
    after = await asked.documents()
    assert {id_: after[id_] for id_ in before} == before
    assert await by_domain(search) == 300
    (told,) = await asked.changes("migrated")
    assert (told["subject"], told["version"], told["type"]) == (MONTH, VERSION, "audit.changed")
    assert told["chain"]["seq"] == 1

    code, _, err = await run("audit", "migrate", env=env)
    assert (code, "up to date" in err) == (0, True)
    assert await asked.documents() == after
    # Whoever writes and looks up goes on under the month's name.
    await audit.write([records[0], audit_record(1000)])
    link = OpenSearchLink(OpenSearchAccess(str(asked.client.base_url).rstrip("/")))
    lookup = RecordLookup(link, index_prefix)
    wanted = ids_of(records[0], audit_record(1000), audit_record(1001))
    assert len(await lookup.recorded(wanted)) == 2
    await lookup.close()
    await link.close()
    assert len(await asked.documents()) == len(after) + 1


async def test_killed_at_every_step_and_run_again_it_ends_as_if_nothing_had_been(
    asked, env, audit, opensearch, index_prefix
):
    records = [audit_record(n) for n in range(1500)]
    await older_month(asked, 2, records)
    before = await asked.documents()
    old, new = f"/{index_prefix}-{MONTH}", f"/{index_prefix}-{MONTH}-v{VERSION}"
    steps = [
        Passing(f"PUT {new} "),
        Passing("POST /_reindex"),
        Passing(f"PUT {new}/_mapping"),
        Passing(f"PUT {old}/_mapping"),
        Passing(f"PUT {old}/_block/write"),
        Passing("POST /_reindex", nth=2),
        Passing(f"PUT {new}/_mapping", nth=2),
        Passing("POST /_aliases", answered=False),
        Passing("POST /_aliases"),
        Passing("POST /_bulk", answered=False),
        Passing("POST /_bulk"),
        Passing(f"PUT {new}/_mapping"),
    ]
    late = []
    async with killing_proxy(opensearch.url) as proxy:
        for number, step in enumerate(steps):
            await kill_at(step, "audit", "migrate", env=env, proxy=proxy)
            await asked.forget_turn()
            found = await asked.documents(MONTH)
            assert {id_: found[id_] for id_ in before} == before, step
            late.append(asyncio.create_task(audit.write([audit_record(2000 + number)])))
    await run_well("audit", "migrate", env=env)
    await asyncio.wait_for(asyncio.gather(*late), 60)

    indices = await asked.indices()
    months = {name: facts for name, facts in indices.items() if name[len(index_prefix) + 1].isdigit()}
    assert months[f"{index_prefix}-{MONTH}-v{VERSION}"]["mappings"]["_meta"] == {"template": VERSION}
    assert not any("blocks" in facts["settings"]["index"] for facts in months.values())
    assert f"{index_prefix}-{MONTH}" not in indices
    after = await asked.documents(MONTH)
    assert {id_: after[id_] for id_ in before} == before
    assert len(after) == len(before) + len(steps)
    assert len(await asked.changes("migrated")) == 1


async def test_a_search_at_any_moment_of_a_migration_sees_each_of_20000_records_once(
    asked, env, audit, search, index_prefix
):
    records = [audit_record(n) for n in range(20_000)]
    await older_month(asked, 2, records)
    await older_month(asked, 2, [audit_record(0, event_time=datetime(2025, 10, 1, tzinfo=UTC))], "2025.10")
    written, seen, done = 20_001, [], asyncio.Event()
    acknowledged = 20_001

    async def write():
        nonlocal written, acknowledged
        number = 50_000
        while not done.is_set():
            written += 1
            await audit.write([audit_record(number), records[number % 20_000]])
            acknowledged += 1
            number += 1
            await asyncio.sleep(0.02)

    async def read():
        least = 20_001
        deliveries = {"type": "email.delivery"}
        while not done.is_set():
            total = (await search.search(AuditQuery(limit=20, **deliveries))).total
            assert least <= total <= written + 1, (least, total, written)
            least = total
            for number in (0, 19_999):
                page = await search.search(AuditQuery(event_id=f"event-{number}", **deliveries))
                assert page.total == len(page.records) == (2 if number == 0 else 1)
            seen.append(total)
            await asyncio.sleep(0.02)  # two cores are shared with the server

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        readers = [group.create_task(read()) for _ in range(2)]
        process = await begin("audit", "migrate", env=env)
        out, err = await asyncio.wait_for(process.communicate(), 300)
        done.set()
    assert process.returncode == 0, err
    assert out.decode().count("got a copy") == 2
    assert all(reader.done() for reader in readers)
    assert len(seen) > 5, "nobody looked while it went on"
    await asked.call("POST", f"/{index_prefix}-*/_refresh")
    assert (await search.search(AuditQuery(type="email.delivery"))).total == acknowledged == written
    assert await by_domain(search) == acknowledged
