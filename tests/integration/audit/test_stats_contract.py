"""Counts of 3,000 records, by a real OpenSearch and by the embedded file, against a count in Python."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from schemas.audit import Outcome, Reply, Timings
from schemas.audit_stats import By, Latency, StatsQuery, parse_stats_query, stats_document
from schemas.smtp_config import Scope
from tests.control.shipping.shipping_samples import change_record
from tests.support.gates import as_, gate
from tests.unit.audit.audit_samples import NOON, audit_record
from tests.unit.audit_stats.stats_samples import by_start, counted, key_of, many_records
from worker.api.server import make_application
from worker.api.stats import stats_router
from worker.audit.stats import OpenSearchStats
from worker.embedded.stats import SqliteStats
from worker.errors import AuditUnavailable

RECORDS = many_records()
RANGE = [("timefrom", "2025-11-21T12:00:00Z"), ("timeto", "2025-11-24T12:00:00Z")]


@dataclass
class StatsUnderTest:
    stats: Any
    audit: Any

    async def write(self, *records):
        await self.audit.write(*records)
        self.audit.make_visible()

    async def ask(self, *params, times=RANGE, within=None):
        query = parse_stats_query([*times, *params], datetime.now(UTC))
        if within:
            query = StatsQuery(query.records, query.by, query.interval_ms, query.groups, query.latencies, within)
        return stats_document(query, await self.stats.count(query))


@pytest.fixture
async def stats_opensearch(over_opensearch, opensearch):
    stats = OpenSearchStats(opensearch.url, index_prefix=over_opensearch.prefix)
    yield StatsUnderTest(stats, over_opensearch)
    await stats.close()


@pytest.fixture
def stats_sqlite(over_sqlite, tmp_path):
    return StatsUnderTest(SqliteStats(tmp_path / "audit.db"), over_sqlite)


@pytest.fixture(params=["opensearch", "sqlite"])
def empty(request):
    # Resolved by name, so that the embedded half needs no server.
    return request.getfixturevalue(f"stats_{request.param}")


@pytest.fixture
async def filled(empty):
    await empty.write(*RECORDS)
    return empty


def pairs(document):
    return [(group["key"], group["count"]) for group in document["groups"]]


async def test_an_audit_that_nobody_wrote_to_counts_nothing(empty):
    found = await empty.ask(("interval", "1d"), ("by", "org"))
    assert (found["total"], found["outcomes"], found["groups"], found["other"], found["without"]) == (0, {}, [], 0, 0)
    assert [bucket["count"] for bucket in found["buckets"]] == [0, 0, 0, 0]
    assert found["percentiles"]["total_ms"] == {"count": 0, "p50": None, "p95": None, "p99": None}


async def test_every_grouping_is_what_python_counts(filled):
    for by in By:
        for groups in (1, 5, 20, 100):
            found = await filled.ask(("by", by.value), ("limit", str(groups)), ("percentiles", "none"))
            named, other, without = counted(RECORDS, by, groups)
            assert (pairs(found), found["other"], found["without"]) == (named, other, without), (by, groups)
            assert (found["total"], found["foreign"], found["count_error"]) == (len(RECORDS), 0, 0)
            assert sum(found["outcomes"].values()) == len(RECORDS)


async def test_time_buckets_and_the_series_of_groups_are_what_python_counts(filled):
    for interval, length in (("1d", 86_400_000), ("1h", 3_600_000), ("7m", 420_000)):
        wanted = by_start(RECORDS, length)
        for by in (By.OUTCOME, By.ORG, By.HOST, By.CODE):
            found = await filled.ask(("interval", interval), ("by", by.value), ("limit", "7"), ("percentiles", "none"))
            starts = [round(datetime.fromisoformat(b["start"]).timestamp() * 1000) for b in found["buckets"]]
            assert starts == list(range(starts[0], starts[-1] + 1, length))
            outcomes = {s: b["outcomes"] for s, b in zip(starts, found["buckets"], strict=True) if b["count"]}
            assert outcomes == wanted
            assert sum(b["count"] for b in found["buckets"]) == len(RECORDS)
            for group in found["groups"]:
                own = by_start([r for r in RECORDS if key_of(r, by) == group["key"]], length)
                assert group["series"] == [sum(own.get(start, {}).values()) for start in starts], (by, group["key"])


async def test_percentiles_are_where_they_belong_among_the_values(filled):
    found = (await filled.ask())["percentiles"]
    assert set(found) == {each.value for each in Latency}
    for name, values in found.items():
        of = sorted(getattr(r.timings, name) for r in RECORDS if r.timings and r.reply)
        assert values["count"] == len(of)
        for percent, tolerance in ((50, 0.5), (95, 0.2), (99, 0.1)):  # in percent of the ranks
            low, high = (of[int(len(of) * (percent + off) / 100)] for off in (-tolerance, tolerance))
            assert low * 0.9999 <= values[f"p{percent}"] <= high * 1.0001, (name, percent)


async def test_how_long_a_server_kept_silent_is_no_latency(empty):
    timings = Timings(queued_ms=1, transaction_ms=0, total_ms=30_000)
    silent = Reply(phase="connect")
    await empty.write(audit_record(1, outcome=Outcome.DEFERRED, reply=silent, timings=timings))
    found = (await empty.ask())["percentiles"]
    assert [values["count"] for values in found.values()] == [0, 0, 0]


async def test_filters_and_both_ends_of_the_range_hold_for_every_number(filled):
    first, last = NOON + timedelta(hours=10), NOON + timedelta(hours=30)
    chosen = [
        r for r in RECORDS if r.outcome is Outcome.ACCEPTED and r.partner == "acme" and first <= r.timestamp <= last
    ]
    times = [("timefrom", first.isoformat()), ("timeto", last.isoformat())]
    asked = [("outcome", "accepted"), ("partner", "acme"), ("by", "org"), ("interval", "1h")]
    found = await filled.ask(*asked, times=times)
    assert 0 < found["total"] == len(chosen)
    assert found["outcomes"] == {"accepted": len(chosen)}
    assert pairs(found) == counted(chosen, By.ORG)[0]
    assert sum(bucket["count"] for bucket in found["buckets"]) == len(chosen)
    assert found["percentiles"]["total_ms"]["count"] == sum(bool(r.timings and r.reply) for r in chosen)


async def test_only_deliveries_count(empty):
    await empty.audit.write_changes(change_record(1), change_record(2))
    await empty.write(audit_record(1), audit_record(2, type="email.verification"))
    assert (await empty.ask())["total"] == 1


@pytest.mark.parametrize("within", [Scope("acme"), Scope("acme", "dev"), Scope("partner-0")], ids=str)
async def test_hosts_and_names_of_records_out_of_reach_are_one_number(filled, within):
    for by in (By.HOST, By.CONFIG):
        found = await filled.ask(("by", by.value), ("limit", "100"), ("interval", "1d"), within=within)
        own = [r for r in RECORDS if r.config and within in Scope.parse(r.config.scope).lineage()]
        assert (pairs(found), found["other"]) == counted(own, by, 100)[:2]
        assert found["foreign"] == sum(r.config is not None for r in RECORDS) - len(own)
        assert found["without"] == sum(r.config is None for r in RECORDS)
        assert sum(sum(group["series"]) for group in found["groups"]) == len(own)


async def test_every_asker_counts_exactly_what_is_theirs(filled):
    transport = httpx.ASGITransport(make_application([stats_router(filled.stats, gate())]))
    who = {"controller": Scope(), "partner:acme": Scope("acme"), "org:acme/dev": Scope("acme", "dev")}
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote") as client:
        for text, scope in who.items():
            mine = [r for r in RECORDS if scope in Scope(r.partner, r.org).lineage()]
            for by in By:
                params = [*RANGE, ("by", by.value), ("limit", "100"), ("interval", "1d")]
                answer = await client.get("/v1/stats", params=params, headers=as_(f"viewer@{text}"))
                assert answer.status_code == 200, answer.text
                found = answer.json()
                assert found["total"] == len(mine)
                if by in (By.HOST, By.CONFIG):
                    mine_shown = [r for r in mine if r.config and scope in Scope.parse(r.config.scope).lineage()]
                    assert pairs(found) == counted(mine_shown, by, 100)[0]
                    assert "operator" not in answer.text or scope == Scope()
                else:
                    assert pairs(found) == counted(mine, by, 100)[0]


async def test_as_many_cells_as_may_be_asked_for_are_answered(filled):
    last = NOON + timedelta(minutes=999)
    times = [("timefrom", NOON.isoformat()), ("timeto", last.isoformat())]
    found = await filled.ask(("interval", "1m"), ("by", "org"), ("limit", "20"), times=times)
    assert len(found["buckets"]) == 1000
    assert sum(b["count"] for b in found["buckets"]) == sum(NOON <= r.timestamp <= last for r in RECORDS)


async def test_an_audit_file_that_is_not_there_or_too_slow_is_said_so(tmp_path, stats_sqlite, monkeypatch):
    query = parse_stats_query(RANGE, datetime.now(UTC))
    with pytest.raises(AuditUnavailable, match="unable to open"):
        await SqliteStats(tmp_path / "nowhere" / "audit.db").count(query)
    await stats_sqlite.write(*RECORDS)
    monkeypatch.setattr("worker.embedded.audit_search.TIMEOUT_S", 0.0)
    with pytest.raises(AuditUnavailable, match="interrupted"):
        await stats_sqlite.stats.count(query)


async def test_an_opensearch_that_is_away_is_said_so():
    stats = OpenSearchStats("http://127.0.0.1:1")
    async with asyncio.timeout(20):
        with pytest.raises(AuditUnavailable):
            await stats.count(parse_stats_query(RANGE, datetime.now(UTC)))
    await stats.close()
