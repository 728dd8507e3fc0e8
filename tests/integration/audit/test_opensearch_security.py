"""The real security plugin: what each of the three users may, and that the audit's work goes on within that."""

import asyncio
import json
from dataclasses import replace

import pytest

from schemas.audit_query import AuditQuery
from schemas.audit_stats import By, StatsQuery
from tests.integration.audit.security_site import Operator, settled
from tests.services.opensearch_secured import WORM
from tests.unit.audit.audit_samples import audit_record
from worker.audit.claims import OpenSearchClaims
from worker.audit.create_only import enforce
from worker.audit.link import Call, OpenSearchLink
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.search import OpenSearchSearch
from worker.audit.stats import OpenSearchStats
from worker.delivery.claims import EventKey
from worker.errors import AuditNotAllowed, AuditUnavailable

NDJSON = "application/x-ndjson"
EVERYTHING = {"query": {"match_all": {}}}
CHANGED = {"outcome": "refused"}


@pytest.fixture(scope="module")
def operator(secured_opensearch):
    found = Operator(secured_opensearch)
    found.set_up()
    found.migrate()
    yield found
    found.clear()


@pytest.fixture
async def audit(operator):
    opened = OpenSearchAudit(**operator.writing())
    await ready(opened)
    yield opened
    await opened.close(1.0)


async def ready(audit):
    """Wait until both users are let in: a first login is a slow one."""
    await audit.start()
    await audit.ready()
    await settled(lambda: audit.missing() is None)


def bulk(action, index, document_id, body=None, **meta):
    lines = [json.dumps({action: {"_index": index, "_id": document_id, **meta}}), json.dumps(body) if body else ""]
    return "\n".join(filter(None, lines)) + "\n"


def outcome(answer):
    """The status of a request, or of its only item."""
    status, body = answer
    items = body.get("items") if isinstance(body, dict) else None
    return next(iter(items[0].values()))["status"] if items else status


async def written(audit, operator, event_id):
    record = audit_record(event_id=event_id)
    await audit.write([record])
    return record, f"{operator.prefix}-{record.index_month}"


READS = {
    "get": ("GET", "/{index}/_doc/{id}", None),
    "get of the source": ("GET", "/{index}/_source/{id}", None),
    "mget": ("POST", "/_mget", {"docs": [{"_index": "{index}", "_id": "{id}"}]}),
    "search": ("POST", "/{index}/_search", EVERYTHING),
    "search of everything": ("POST", "/_search", EVERYTHING),
    "count": ("POST", "/{index}/_count", EVERYTHING),
    "scroll": ("POST", "/{index}/_search?scroll=1m", EVERYTHING),
    "point in time": ("POST", "/{index}/_search/point_in_time?keep_alive=1m", None),
    "term vectors": ("GET", "/{index}/_termvectors/{id}?fields=recipient", None),
    "explain": ("POST", "/{index}/_explain/{id}", EVERYTHING),
    "validate": ("POST", "/{index}/_validate/query?explain=true", EVERYTHING),
    "the proofs": ("POST", "/{prefix}-proof/_search", EVERYTHING),
    "the claims": ("POST", "/{prefix}-claims/_search", EVERYTHING),
}
CHANGES = {
    "update": ("POST", "/{index}/_update/{id}", {"doc": CHANGED}),
    "update by query": ("POST", "/{index}/_update_by_query", {"script": "ctx._source.outcome = 'refused'"}),
    "delete": ("DELETE", "/{index}/_doc/{id}", None),
    "delete by query": ("POST", "/{index}/_delete_by_query", EVERYTHING),
    "delete of the index": ("DELETE", "/{index}", None),
    "close of the index": ("POST", "/{index}/_close", None),
    "settings of the index": ("PUT", "/{index}/_settings", {"index.final_pipeline": "_none"}),
    "mapping of the index": ("PUT", "/{index}/_mapping", {"properties": {"x": {"type": "keyword"}}}),
    "alias": ("POST", "/_aliases", {"actions": [{"add": {"index": "{index}", "alias": "{prefix}-2x"}}]}),
    "reindex": ("POST", "/_reindex", {"source": {"index": "{index}"}, "dest": {"index": "{prefix}-2099.01"}}),
    "template": ("PUT", "/_index_template/{prefix}-v99", {"index_patterns": ["{prefix}-*"], "priority": 99999}),
    "pipeline": ("PUT", "/_ingest/pipeline/{prefix}-create-only", {"processors": []}),
    "delete of the pipeline": ("DELETE", "/_ingest/pipeline/{prefix}-create-only", None),
    "cluster settings": ("PUT", "/_cluster/settings", {"transient": {"action.auto_create_index": "true"}}),
    "another index": ("PUT", "/other-{prefix}/_doc/1", CHANGED),
    "the claims' index": ("PUT", "/{prefix}-claims/_doc/1", CHANGED),
    "users": ("PUT", "/_plugins/_security/api/internalusers/mallory", {"password": "Correct-Horse-7-Battery!"}),
    "own password": ("PUT", "/_plugins/_security/api/account", {"current_password": "x", "password": "y"}),
}
OVERWRITES = {
    "index": ("PUT", "/{index}/_doc/{id}"),
    "index as a later external version": ("PUT", "/{index}/_doc/{id}?version=9&version_type=external"),
    "index as an equal external version": ("PUT", "/{index}/_doc/{id}?version=1&version_type=external_gte"),
    "index at its number": ("PUT", "/{index}/_doc/{id}?if_seq_no={seq}&if_primary_term={term}"),
    "index without a pipeline": ("PUT", "/{index}/_doc/{id}?pipeline=_none"),
    "create": ("PUT", "/{index}/_create/{id}"),
}
BULK_CHANGES = {
    "index in a bulk": (("index", CHANGED), {}, 409),
    "index in a bulk, as a later version": (("index", CHANGED), {"version": 9, "version_type": "external"}, 409),
    "update in a bulk": (("update", {"doc": CHANGED}), {}, 403),
    "upsert in a bulk": (("update", {"doc": CHANGED, "doc_as_upsert": True}), {}, 403),
    "delete in a bulk": (("delete", None), {}, 403),
}


def filled(template, **names):
    text = json.dumps(template)
    for name, value in names.items():
        text = text.replace("{" + name + "}", str(value))
    return json.loads(text)


async def test_the_writer_creates_records_and_can_neither_read_nor_change_nor_delete_any(audit, operator):
    record, index = await written(audit, operator, "kept")
    before = operator.stored(index, record.document_id)
    place = operator.server.done("GET", f"/{index}/_doc/{record.document_id}")
    names = {"index": index, "id": record.document_id, "prefix": operator.prefix}
    names |= {"seq": place["_seq_no"], "term": place["_primary_term"]}
    writer, found = operator.login("postbote_writer"), {}
    for name, request in (READS | CHANGES).items():
        status, body = operator.server.request(*filled(request, **names), writer)
        # An mget is answered as a whole, each document with its error.
        found[name] = 403 if "security_exception" in json.dumps(body) and status == 200 else status
    assert {name: status for name, status in found.items() if status not in (401, 403)} == {"own password": 400}
    for name, request in OVERWRITES.items():
        assert operator.server.request(*filled(request, **names), CHANGED, writer)[0] == 409, name
    for name, ((action, body), meta, status) in BULK_CHANGES.items():
        lines = bulk(action, index, record.document_id, body, **meta)
        assert outcome(operator.server.request("POST", "/_bulk", lines, writer, kind=NDJSON)) == status, name
    assert operator.stored(index, record.document_id) == before


async def test_the_pipeline_is_what_keeps_the_writer_from_writing_over_a_record(audit, operator):
    record, index = await written(audit, operator, "unguarded")
    operator.server.done("PUT", f"/{index}/_settings", {"index.final_pipeline": "_none"})
    over, writer = f"/{index}/_doc/{record.document_id}", operator.login("postbote_writer")
    assert operator.server.request("PUT", over, CHANGED, writer)[0] == 200
    admin = OpenSearchLink(replace(operator.access("postbote_writer"), **vars(operator.server.admin)))
    await enforce(admin, operator.prefix, index)
    await admin.close()
    assert operator.server.request("PUT", over, CHANGED, writer)[0] == 409


async def test_a_month_that_is_not_there_is_the_one_thing_that_a_writer_can_make_otherwise(operator):
    """It may create months, and whoever creates one sets it up; it says so in docs/opensearch.md."""
    index, writer = f"{operator.prefix}-2031.01", operator.login("postbote_writer")
    made = operator.server.request("PUT", f"/{index}", {"settings": {"index.final_pipeline": "_none"}}, writer)
    assert made[0] == 200
    assert operator.server.request("PUT", f"/{index}/_doc/1", {"a": 1}, writer)[0] == 201
    assert operator.server.request("PUT", f"/{index}/_doc/1", {"a": 2}, writer)[0] == 200
    assert operator.server.request("DELETE", f"/{index}", None, writer)[0] == 403


async def test_an_immutable_index_takes_no_change_from_anybody_but_the_chief(operator):
    server, index = operator.server, f"{WORM}2026.11"
    server.done("PUT", f"/{index}/_doc/1", {"a": 1}, server.admin)
    assert server.request("PUT", f"/{index}/_doc/1", {"a": 2}, server.admin)[0] == 409
    for method, path, body in (("POST", f"/{index}/_update/1", {"doc": {"a": 2}}), ("DELETE", f"/{index}", None)):
        assert server.request(method, path, body, server.admin)[0] == 403, path
    assert operator.stored(index, "1") == {"a": 1}
    server.done("DELETE", f"/{index}")


async def test_lookups_see_a_record_at_once_and_nothing_of_it_but_whose_it_is(audit, operator):
    _, index = await written(audit, operator, "there before")
    operator.server.done("PUT", f"/{index}/_settings", {"index.refresh_interval": "1h"})
    record, _ = await written(audit, operator, "looked up")
    absent = audit_record(event_id="never written")
    ids = {each.document_id: each.index_month for each in (record, absent)}
    assert await audit.recorded(ids) == {record.document_id}
    lookup = operator.login("postbote_lookup")
    asked = {"docs": [{"_index": index, "_id": record.document_id}]}
    _, answer = operator.server.request("POST", "/_mget?refresh=true", asked, lookup)
    assert set(answer["docs"][0]["_source"]) <= {"@timestamp", "worker_id", "chain"}
    names = {"index": index, "id": record.document_id, "prefix": operator.prefix}
    changes = {name: CHANGES[name] for name in ("update", "delete", "delete of the index", "template", "pipeline")}
    overwriting = {name: (*request, CHANGED) for name, request in OVERWRITES.items() if "number" not in name}
    searching = {name: READS[name] for name in ("search", "count", "scroll", "point in time", "the proofs")}
    for name, request in (changes | overwriting | searching).items():
        assert operator.server.request(*filled(request, **names), lookup)[0] == 403, name


async def test_a_second_acceptance_is_stored_beside_the_first_by_the_same_two_users(audit, operator):
    first = audit_record(event_id="twice", worker_id="one")
    await audit.write([first])
    await audit.write([replace_worker(first, "two")])
    operator.refresh()
    query = {"query": {"term": {"event_id": "twice"}}}
    hits = operator.server.done("POST", f"/{operator.prefix}-*/_search", query)["hits"]["hits"]
    assert {hit["_source"]["worker_id"] for hit in hits} == {"one", "two"}


def replace_worker(record, worker_id):
    return record.model_copy(update={"worker_id": worker_id})


async def test_events_are_claimed_renewed_and_released_by_the_lookup_user(audit, operator):
    key = EventKey("acme", "dev", "/tests", "claimed")
    one, two = (OpenSearchClaims(audit.link, operator.prefix, name) for name in ("one", "two"))
    assert await one.claim(key)
    assert not await two.claim(key)
    await one._renew_all()
    assert one.holds(key)
    await one.release(key)
    assert await two.claim(key)
    await two.sweep()


async def test_the_reader_searches_pages_and_counts_and_changes_nothing(audit, operator):
    records = [audit_record(event_id="read", recipient=f"{n}@example.com") for n in range(3)]
    await audit.write(records)
    operator.refresh()
    search, stats = OpenSearchSearch(**operator.reading()), OpenSearchStats(**operator.reading())
    query = AuditQuery(event_id="read", limit=2)
    page = await search.search(query)
    assert (page.total, len(page.records)) == (3, 2)
    last = await search.search(replace(query, after=page.next))
    assert len(last.records) == 1
    counted = await stats.count(StatsQuery(records=query, by=By.OUTCOME))
    assert counted.total == 3
    await search.close()
    await stats.close()
    index = f"{operator.prefix}-{records[0].index_month}"
    names = {"index": index, "id": records[0].document_id, "prefix": operator.prefix, "seq": 0, "term": 1}
    reader = operator.login("postbote_reader")
    overwriting = {name: (*request, CHANGED) for name, request in OVERWRITES.items()}
    for name, request in (CHANGES | overwriting).items():
        assert operator.server.request(*filled(request, **names), reader)[0] in (400, 403), name
    lines = bulk("create", index, "new", CHANGED)
    assert outcome(operator.server.request("POST", "/_bulk", lines, reader, kind=NDJSON)) == 403
    assert operator.stored(index, records[0].document_id)["outcome"] == "accepted"


async def test_a_writer_that_may_not_install_templates_waits_for_them_and_says_what_to_do(secured_opensearch):
    fresh = Operator(secured_opensearch)
    fresh.set_up()
    audit = OpenSearchAudit(**fresh.writing())
    writing = asyncio.create_task(audit.write([audit_record(event_id="early")]))
    try:
        await settled(lambda: "run `postbote audit migrate`" in (audit.missing() or ""))
        assert not writing.done()
        await asyncio.to_thread(fresh.migrate)
        async with asyncio.timeout(20):
            await writing
        assert audit.missing() is None
    finally:
        await audit.close(1.0)
        fresh.clear()


async def test_records_wait_while_the_writer_has_no_role_and_lookups_say_that_theirs_is_missing(audit, operator):
    first, index = await written(audit, operator, "with a role")
    for role in ("postbote_writer", "postbote_lookup"):
        operator.take_role(role)
    record = audit_record(event_id="without a role")
    writing = asyncio.create_task(audit.write([record]))
    try:
        await settled(lambda: "no permissions for [indices:" in (audit.missing() or ""))
        with pytest.raises(AuditUnavailable, match=r"lookup|recorded"):
            await audit.recorded({first.document_id: first.index_month})
        await audit._lookup.check()
        await settled(lambda: "see POSTBOTE_OPENSEARCH_LOOKUP_USER" in (audit.link.health.state().reason or ""))
    finally:
        operator.apply("roles_mapping")
    async with asyncio.timeout(20):
        await writing
    await ready(audit)
    assert await audit.recorded({record.document_id: record.index_month}) == {record.document_id}
    assert operator.stored(index, record.document_id)["event_id"] == "without a role"
    assert operator.server.request("GET", f"/{operator.prefix}-deadletter")[0] == 404


async def test_what_is_refused_names_the_setting_and_no_password(operator):
    access = replace(operator.access("postbote_reader"), setting="POSTBOTE_OPENSEARCH_READER_USER")
    for wrong, said in ((access, "no permissions for"), (replace(access, password="wrong-password"), "(401)")):
        link = OpenSearchLink(wrong)
        with pytest.raises(AuditNotAllowed, match="see POSTBOTE_OPENSEARCH_READER_USER") as refused:
            await link.request(Call("PUT", f"/{operator.prefix}-2026.11/_doc/1", b"{}"))
        await link.close()
        assert said in str(refused.value)
        shown = f"{refused.value!r}{refused.value.__cause__!r}{wrong!r}{vars(link)!r}"
        assert not any(secret in shown for secret in ("wrong-password", operator.passwords["postbote_reader"]))
