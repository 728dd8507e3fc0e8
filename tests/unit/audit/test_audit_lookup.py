"""Looking records up against a transport that answers by script."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest

from tests.unit.audit.audit_samples import AWAY, SILENT, ScriptedTransport, audit_record, ids_of, status_error
from worker.audit.link import OpenSearchAccess, OpenSearchLink
from worker.audit.lookup import RecordLookup
from worker.errors import AuditUnavailable

RECORD = audit_record()
IDS = ids_of(RECORD)


def lookup_over(transport, patience_s=30):
    return RecordLookup(OpenSearchLink(OpenSearchAccess("http://127.0.0.1:1"), transport), "test", patience_s)


def holding(*records, index="test-2025.11", steps=()):
    transport = ScriptedTransport(*steps)
    transport.documents = {(index, record.document_id): {} for record in records}
    return transport


async def test_what_exists_is_found_and_the_rest_is_not():
    others = [audit_record(n) for n in range(1, 4)]
    found = await lookup_over(holding(RECORD, others[1])).recorded(ids_of(RECORD, *others))
    assert found == {RECORD.document_id, others[1].document_id}


async def test_a_dead_letter_counts_as_recorded():
    assert await lookup_over(holding(RECORD, index="test-deadletter")).recorded(IDS) == set(IDS)


async def test_asking_for_nothing_asks_nobody():
    transport = holding()
    assert await lookup_over(transport).recorded({}) == frozenset()
    assert transport.requests == []


async def test_a_missing_index_means_not_recorded():
    transport = holding(steps=[lambda _doc: {"error": {"type": "index_not_found_exception"}}])
    assert await lookup_over(transport).recorded(IDS) == frozenset()


async def test_many_askers_share_one_request():
    records = [audit_record(n) for n in range(40)]
    transport = holding(*records)
    lookup = lookup_over(transport)
    answers = await asyncio.gather(*(lookup.recorded(ids_of(record)) for record in records))
    assert all(answers)
    assert len(transport.requests) == 1


@pytest.mark.parametrize("silent", [False, True], ids=["answered", "not answered in time"])
async def test_few_askers_go_on_in_one_turn_of_the_loop(silent):
    records = [audit_record(n) for n in range(200)]
    transport, turn, went_on = holding(*records), 0, []
    if silent:
        transport.held.clear()
    lookup = lookup_over(transport, patience_s=0.05)

    async def ask(record):
        with contextlib.suppress(AuditUnavailable):
            await lookup.recorded(ids_of(record))
        went_on.append(turn)

    asking = asyncio.gather(*(ask(record) for record in records))
    while not asking.done():
        turn += 1
        await asyncio.sleep(0)
    assert len(went_on) == 200
    assert max(Counter(went_on).values()) <= 50
    transport.held.set()
    await lookup.close()


async def test_few_go_on_in_one_turn_of_the_loop_though_the_patience_of_more_ends_meanwhile(monkeypatch):
    first, second = (tuple(audit_record(n) for n in some) for some in (range(70), range(70, 140)))
    transport, turn, went_on = holding(*first, *second), 0, []
    transport.held.clear()
    expire = RecordLookup._expire

    def expire_slowly(lookup):
        expire(lookup)
        time.sleep(0.01)

    monkeypatch.setattr(RecordLookup, "_expire", expire_slowly)
    lookup = lookup_over(transport, patience_s=0.05)

    async def ask(record):
        with contextlib.suppress(AuditUnavailable):
            await lookup.recorded(ids_of(record))
        went_on.append(turn)

    asking = [asyncio.ensure_future(ask(record)) for record in first]
    await asyncio.sleep(0)
    await asyncio.sleep(0.015)
    asking += [asyncio.ensure_future(ask(record)) for record in second]
    while not all(each.done() for each in asking):
        turn += 1
        await asyncio.sleep(0)
    assert max(Counter(went_on).values()) <= 50
    transport.held.set()
    await lookup.close()


async def test_more_than_five_hundred_ids_take_several_requests():
    records = [audit_record(n) for n in range(1001)]
    transport = holding(*records)
    assert len(await lookup_over(transport).recorded(ids_of(*records))) == 1001
    assert len(transport.requests) == 3


@pytest.mark.parametrize(
    "failure",
    [
        AWAY,
        SILENT,
        *(status_error(status) for status in (404, 429, 503)),
        {"took": 1},
        {"docs": []},
        {"docs": [1]},
        lambda _doc: {"error": {"type": "no_shard_available_action_exception"}},
    ],
    ids=["refused", "silent", "404", "429", "503", "without documents", "too few", "no document", "no shard"],
)
async def test_a_lookup_without_an_answer_is_asked_again_and_never_means_no(failure):
    lookup = lookup_over(holding(RECORD, steps=[failure, failure]))
    assert await lookup.recorded(IDS) == set(IDS)
    assert lookup._link.health.state().failing_since is None


async def test_an_item_that_cannot_be_read_does_not_hold_up_the_others():
    other = audit_record(1)

    def closed_for_other(doc):
        if doc["_id"] == other.document_id:
            return {"error": {"type": "index_closed_exception"}}
        return {"found": True}

    lookup = lookup_over(holding(RECORD, other, steps=[closed_for_other] * 3))
    slow = asyncio.create_task(lookup.recorded(ids_of(other)))
    assert await lookup.recorded(IDS) == set(IDS)
    assert not slow.done()
    assert await slow == {other.document_id}


@pytest.mark.parametrize("arrived", [True, False], ids=["after the request left", "before the request left"])
async def test_closing_fails_who_waits(arrived):
    transport = holding(steps=[AWAY] * 10_000)
    lookup = lookup_over(transport)
    asking = asyncio.create_task(lookup.recorded(IDS))
    if arrived:
        await transport.arrived.wait()
    else:
        await asyncio.sleep(0)
    await lookup.close()
    with pytest.raises(AuditUnavailable):
        await asyncio.wait_for(asking, 5)
    with pytest.raises(AuditUnavailable):
        await lookup.recorded(IDS)


@pytest.mark.parametrize("hangs", [True, False], ids=["frozen", "refusing connections"])
async def test_an_asker_is_told_in_time_that_nobody_knows(hangs):
    transport = holding(RECORD, steps=[AWAY] * 10_000)
    if hangs:
        transport.held.clear()
    lookup = lookup_over(transport, patience_s=0.05)
    began = asyncio.get_running_loop().time()
    with pytest.raises(AuditUnavailable, match=r"within 0\.05 s"):
        await lookup.recorded(IDS)
    assert 0.04 < asyncio.get_running_loop().time() - began < 5.0
    await lookup.close()


async def test_each_asker_has_the_whole_patience():
    transport = holding(RECORD)
    transport.held.clear()
    lookup = lookup_over(transport, patience_s=30)
    first = asyncio.create_task(lookup.recorded(IDS))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(lookup.recorded(IDS))
    await asyncio.sleep(0)
    one, two = lookup._questions
    assert two.deadline - one.deadline >= 0.04
    one.deadline = 0  # as if the first had waited for all of its patience
    lookup._expire()
    with pytest.raises(AuditUnavailable):
        await first
    assert not two.answer.done()
    transport.held.set()
    assert await second == set(IDS)


async def test_nobody_waits_while_the_link_is_known_to_fail_and_one_in_a_while_finds_out(monkeypatch):
    transport = holding(RECORD)
    lookup = lookup_over(transport)
    lookup._link.health.failed("away, as the writer saw")
    with pytest.raises(AuditUnavailable, match="is away"):
        await lookup.recorded(IDS)
    assert transport.requests == []
    monkeypatch.setattr("worker.audit.lookup._PROBE_EVERY_S", 0.0)
    assert await lookup.recorded(IDS) == set(IDS)
    assert not lookup._link.health.failing


async def test_records_that_are_refused_do_not_keep_lookups_from_being_answered():
    lookup = lookup_over(holding(RECORD))
    lookup._link.health.refused("the disk is full")
    assert await lookup.recorded(IDS) == set(IDS)
    assert lookup._link.health.failing


async def test_an_asker_who_left_holds_up_nobody():
    transport = holding(RECORD)
    transport.held.clear()
    lookup = lookup_over(transport)
    left, stays = (asyncio.create_task(lookup.recorded(IDS)) for _ in range(2))
    await transport.arrived.wait()
    left.cancel()
    transport.held.set()
    assert await stays == set(IDS)
