"""``GET /v1/stats`` over an audit that counts by script, and how its parameters are read."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from schemas.audit_query import AuditQueryError
from schemas.audit_stats import By, Counted, Group, Latency, Percentiles, parse_stats_query, stats_document
from schemas.smtp_config import Scope
from tests.support.gates import as_, gate
from worker.api.server import make_application
from worker.api.stats import PARAMETERS, stats_router
from worker.errors import AuditUnavailable

NOW = datetime(2025, 11, 21, 12, 30, tzinfo=UTC)
HOUR_MS = 3_600_000


class ScriptedStats:
    def __init__(self):
        self.asked = []
        self.failure = None

    async def count(self, query):
        self.asked.append(query)
        if self.failure:
            raise self.failure
        return Counted(total=3, outcomes={"accepted": 3}, groups=(Group("accepted", 3),), took_ms=2)


@pytest.fixture
def stats():
    return ScriptedStats()


@pytest.fixture
async def client(stats):
    transport = httpx.ASGITransport(make_application([stats_router(stats, gate())]))
    headers = as_("viewer@controller")
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote", headers=headers) as opened:
        yield opened


async def test_without_parameters_a_week_is_counted(client, stats):
    answer = await client.get("/v1/stats?&")
    assert answer.status_code == 200
    assert (answer.json()["total"], answer.json()["outcomes"], answer.json()["by"]) == (3, {"accepted": 3}, "outcome")
    assert "email.delivery" in answer.json()["counted"]
    asked = stats.asked[0]
    assert asked.records.type == "email.delivery"
    assert asked.records.time_to - asked.records.time_from == timedelta(days=7)
    assert (asked.latencies, asked.interval_ms, asked.within) == (tuple(Latency), None, None)


async def test_parameters_reach_the_audit(client, stats):
    query = "by=host&interval=15m&limit=7&percentiles=queued_ms,total_ms&timefrom=now-1d&timeto=now-1h&outcome=refused"
    assert (await client.get(f"/v1/stats?{query}")).status_code == 200
    asked = stats.asked[0]
    assert (asked.by, asked.interval_ms, asked.groups) == (By.HOST, 900_000, 7)
    assert asked.latencies == (Latency.QUEUED, Latency.TOTAL)
    assert asked.records.outcome == "refused"
    assert asked.records.time_to - asked.records.time_from == timedelta(hours=23)


@pytest.mark.parametrize(
    ("query", "path", "remedy"),
    [
        ("colour=red", "colour", "known: by, interval"),
        ("type=x", "type", "known"),
        ("offset=1", "offset", "known"),
        ("by=*", "by", "outcome, partner, org"),
        ("by=org&by=host", "by", "more than once"),
        ("interval=0h", "interval", "5m, 1h or 1d"),
        ("interval=1s", "interval", "5m, 1h or 1d"),
        ("interval=1h30m", "interval", "5m, 1h or 1d"),
        ("interval=1m", "interval", "take a longer one, or a later timefrom"),
        ("interval=99999999d", "interval", "5m, 1h or 1d"),
        ("limit=0", "limit", "1 to 100"),
        ("limit=101", "limit", "1 to 100"),
        ("limit=100&interval=15m", "limit", "fewer groups, or a longer interval"),
        ("percentiles=p50", "percentiles", "total_ms,queued_ms,transaction_ms, or none"),
        ("percentiles=", "percentiles", "or none"),
        ("timefrom=now-900d", "timefrom", "ask for less at a time"),
        ("timefrom=1970-01-01T00:00:00Z", "timefrom", "ask for less at a time"),
        ("timefrom=now%2B1d", "timefrom", "later than"),
        ("timefrom=yesterday", "timefrom", "expected now"),
        ("outcome=great", "outcome", "known"),
        ("org=", "org", "empty"),
        ("by[]=org", "by[]", "known"),
        ("by=%00", "by", "outcome"),
        ("recipient=%00", "recipient", "control"),
        (f"{'x' * 20_000}=1", "x" * 100, "known"),
    ],
)
async def test_a_wrong_parameter_is_named_with_its_remedy_and_nothing_is_asked(client, stats, query, path, remedy):
    answer = await client.get(f"/v1/stats?{query}")
    assert answer.status_code == 400, answer.text
    [error] = answer.json()["errors"]
    assert error["path"] == path
    assert remedy in error["message"]
    assert (stats.asked, len(answer.content) < 2500) == ([], True)


@pytest.mark.parametrize(
    ("who", "filters", "asked"),
    [
        ("viewer@controller", "", (None, None, None)),
        ("viewer@controller", "partner=globex", ("globex", None, None)),
        ("viewer@partner:acme", "", ("acme", None, Scope("acme"))),
        ("viewer@partner:acme", "org=dev", ("acme", "dev", Scope("acme"))),
        ("admin@org:acme/dev", "", ("acme", "dev", Scope("acme", "dev"))),
        ("viewer@org:acme/dev", "partner=globex", None),
        ("viewer@org:acme/dev", "org=prod", None),
        ("viewer@partner:acme", "partner=*", None),
    ],
)
@pytest.mark.parametrize("by", list(By))
async def test_the_askers_scope_is_part_of_every_question(client, stats, who, filters, asked, by):
    answer = await client.get(f"/v1/stats?{filters}&by={by}&interval=1d", headers=as_(who))
    assert answer.status_code == 200
    if asked is None:
        assert stats.asked == []
        assert (answer.json()["total"], answer.json()["groups"]) == (0, [])
        assert answer.json()["percentiles"]["total_ms"]["count"] == 0
    else:
        query = stats.asked[0]
        assert (query.records.partner, query.records.org, query.within) == asked


async def test_what_is_foreign_and_what_is_not_there_have_one_answer(client):
    bodies = [
        (await client.get(f"/v1/stats?partner={p}&timefrom=0&timeto=1", headers=as_("viewer@org:acme/dev"))).content
        for p in ("globex", "no-such")
    ]
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("token", ["", "nobody", "viewer@nowhere"])
async def test_nobody_is_answered_without_a_principal(client, stats, token):
    answer = await client.get("/v1/stats", headers=as_(token))
    assert (answer.status_code, stats.asked) == (401, [])


async def test_an_audit_that_is_away_is_said_so(client, stats):
    stats.failure = AuditUnavailable("OpenSearch cannot be reached: audit.internal")
    answer = await client.get("/v1/stats")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "audit.internal" not in answer.text


async def test_every_parameter_that_is_read_is_in_the_schema(client):
    schema = (await client.get("/openapi.json")).json()
    described = {parameter["name"] for parameter in schema["paths"]["/v1/stats"]["get"]["parameters"]}
    with pytest.raises(AuditQueryError) as caught:
        parse_stats_query([("nothing", "x")], NOW)
    assert described == set(caught.value.message.partition("known: ")[2].split(", ")) == set(PARAMETERS)


@pytest.mark.parametrize(
    ("interval", "first", "count"), [("1h", "2025-11-14T12:00:00.000Z", 169), ("1d", "2025-11-14T00:00:00.000Z", 8)]
)
def test_buckets_begin_at_multiples_of_the_interval_and_cover_the_range(interval, first, count):
    query = parse_stats_query([("interval", interval)], NOW)
    start = query.starts()[1]
    counted = Counted(5, {"accepted": 5}, {start: {"accepted": 4}}, (Group("accepted", 5, {start: 4}),))
    document = stats_document(query, counted)
    assert (document["buckets"][0]["start"], len(document["buckets"])) == (first, count)
    assert [bucket["count"] for bucket in document["buckets"]][:3] == [0, 4, 0]
    assert document["groups"][0]["series"] == [0, 4, *[0] * (count - 2)]


def test_what_is_in_no_named_group_is_told_apart():
    query = parse_stats_query([("by", "host")], NOW)
    latencies = {Latency.TOTAL: Percentiles(2, {50: 1.0, 95: 2.0, 99: 2.0})}
    document = stats_document(query, Counted(20, {}, {}, (Group("a", 5), Group("b", 3)), 4, 6, 0, latencies))
    assert (document["other"], document["foreign"], document["without"]) == (4, 6, 2)
    assert document["percentiles"] == {"total_ms": {"count": 2, "p50": 1.0, "p95": 2.0, "p99": 2.0}}
    assert "buckets" not in document
