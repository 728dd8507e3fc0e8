"""A real OpenSearch that freezes, stops or comes back empty in the middle of writing."""

import asyncio

import pytest

from schemas.audit import Outcome
from schemas.audit_query import AuditQuery
from tests.integration.audit.conftest import refresh
from tests.unit.audit.audit_samples import audit_record, ids_of
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.search import OpenSearchSearch
from worker.errors import AuditUnavailable


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


def writing(audit, numbers):
    return {asyncio.create_task(audit.write([audit_record(n)])) for n in numbers}


async def assert_all_there(search, opensearch, index_prefix, numbers):
    refresh(opensearch, index_prefix)
    page = await search.search(AuditQuery(limit=1000))
    assert page.total == len(numbers)
    assert {record["event_id"] for record in page.records} == {f"event-{n}" for n in numbers}


async def test_writers_wait_while_opensearch_is_frozen_and_nothing_is_lost(audit, search, opensearch, index_prefix):
    await audit.write([audit_record(n) for n in range(50)])
    opensearch.pause()
    tasks = writing(audit, range(50, 100))
    done, _ = await asyncio.wait(tasks, timeout=0.5)
    assert not done
    assert audit.state.waiting == 50
    opensearch.resume()
    await asyncio.gather(*tasks)
    assert audit.state.waiting == 0
    await assert_all_there(search, opensearch, index_prefix, range(100))


async def test_writers_wait_and_askers_are_told_while_opensearch_is_stopped(audit, search, opensearch, index_prefix):
    await audit.write([audit_record(0)])
    tasks = writing(audit, range(1, 100))
    stopping = asyncio.create_task(asyncio.to_thread(opensearch.stop))
    for start in range(100, 300, 20):  # while it goes down
        tasks |= writing(audit, range(start, start + 20))
        await asyncio.sleep(0.05)
    await stopping
    late = writing(audit, range(300, 320))
    async with asyncio.timeout(20):
        with pytest.raises(AuditUnavailable):
            await audit.recorded(ids_of(audit_record(0)))
    done, _ = await asyncio.wait(late, timeout=0.5)
    assert not done
    assert "failing since" in audit.missing()
    with pytest.raises(AuditUnavailable, match="cannot be reached"):
        await audit.ready()
    with pytest.raises(AuditUnavailable, match="cannot be reached"):
        await search.search(AuditQuery())
    await asyncio.to_thread(opensearch.start)
    await asyncio.gather(*tasks, *late)
    assert await audit.recorded(ids_of(audit_record(0), audit_record(999))) == {audit_record(0).document_id}
    assert audit.missing() is None
    await assert_all_there(search, opensearch, index_prefix, range(320))


async def test_what_was_answered_survives_a_crash(audit, search, opensearch, index_prefix):
    tasks = writing(audit, range(200))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(opensearch.kill)
    await asyncio.to_thread(opensearch.start)
    await asyncio.gather(*tasks)
    await assert_all_there(search, opensearch, index_prefix, range(200))


async def test_starting_waits_for_opensearch_and_installs_the_template(audit, opensearch, index_prefix):
    opensearch.pause()
    starting = asyncio.create_task(audit.start())
    done, _ = await asyncio.wait({starting}, timeout=0.3)
    assert not done
    opensearch.resume()
    await starting
    await audit.write([audit_record(outcome=Outcome.REFUSED)])
    assert audit.missing() is None


async def test_replicas_that_start_together_install_one_template(opensearch, index_prefix):
    replicas = [OpenSearchAudit(opensearch.url, index_prefix=index_prefix) for _ in range(5)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    await asyncio.gather(*(replica.write([audit_record(0)]) for replica in replicas))
    for replica in replicas:
        await replica.close()


async def test_closing_while_opensearch_is_frozen_fails_the_writers_and_claims_nothing(audit, opensearch):
    opensearch.pause()
    task = asyncio.create_task(audit.write([audit_record()]))
    await asyncio.sleep(0)
    await audit.close(0.2)
    with pytest.raises(AuditUnavailable):
        await task
    opensearch.resume()
