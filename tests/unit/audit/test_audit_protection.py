"""What protects the audit's store from its askers: bounds, places, and an end for whom nobody waits."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import pytest
from opensearchpy.exceptions import TransportError

from schemas.audit_query import AuditPage, AuditQuery
from schemas.audit_stats import Counted, parse_stats_query
from tests.support.gates import as_, gate
from tests.unit.audit.audit_samples import NOON, audit_record
from worker.api.audit_log import AuditDesk, audit_router
from worker.api.ops_audit_log import ops_audit_router
from worker.api.server import make_application, serving
from worker.api.stats import stats_router
from worker.api.turns import Places, Turns
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.audit.search import OpenSearchSearch
from worker.audit.search_body import require_whole
from worker.audit.stats import OpenSearchStats
from worker.control.throttle import PER_DASHBOARD, Throttle
from worker.embedded.audit import SqliteAudit
from worker.embedded.stats import SqliteStats
from worker.errors import AuditTooSlow, AuditUnavailable

OPS, DOCUMENTED = "/opsauditlogs/", "/event/v1/auditlog"


@dataclass
class HeldAudit:
    """A search and a count that answer once they are let go, and note who was cancelled."""

    asked: list = field(default_factory=list)
    cancelled: list = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def _held(self, query):
        async with self.arrived:
            self.asked.append(query)
            self.arrived.notify_all()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(query)
            raise

    async def number(self, count):
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.asked) >= count)

    async def search(self, query):
        await self._held(query)
        return AuditPage(0, [], query.offset, query.limit, 0)

    async def count(self, query):
        await self._held(query)
        return Counted()


@pytest.fixture
def held():
    return HeldAudit()


@pytest.fixture
def application(held):
    desk = AuditDesk(held)
    return make_application([audit_router(desk, gate()), ops_audit_router(desk, gate()), stats_router(held, gate())])


@pytest.fixture
async def client(application):
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote") as opened:
        yield opened


@pytest.mark.parametrize("prefix", ["", "filter."])
async def test_words_without_a_beginning_are_looked_for_in_31_days_and_the_answer_says_so(client, held, prefix):
    held.let_go.set()
    path = DOCUMENTED if prefix else OPS
    answer = await client.get(path, params={f"{prefix}text": "mailbox full"}, headers=as_("viewer@controller"))
    assert answer.status_code == 200
    since = datetime.fromisoformat(answer.json()["timefrom"])
    assert abs(datetime.now(UTC) - timedelta(days=31) - since) < timedelta(minutes=1)
    assert held.asked[0].time_from - since < timedelta(milliseconds=1)


async def test_the_31_days_count_from_the_end_that_is_given(client, held):
    held.let_go.set()
    asked = {"text": "mailbox full", "timeto": "2025-11-21T12:00:00Z"}
    answer = await client.get(OPS, params=asked, headers=as_("viewer@controller"))
    assert answer.json()["timefrom"] == "2025-10-21T12:00:00.000Z"
    assert held.asked[0].time_from == NOON - timedelta(days=31)


@pytest.mark.parametrize(
    "asked", [{"recipient": "ann@x.test"}, {"code": "5xx"}, {"text": "full", "timefrom": "now-90d"}, {}]
)
async def test_what_is_asked_by_name_or_with_a_beginning_is_left_as_it_is(client, held, asked):
    held.let_go.set()
    answer = await client.get(OPS, params=asked, headers=as_("viewer@controller"))
    assert "timefrom" not in answer.json()
    assert (held.asked[0].time_from is None) == ("timefrom" not in asked)


@pytest.mark.parametrize(
    ("prefix", "asked", "message"),
    [
        ("", {"text": "full", "format": "csv"}, "has to be given"),
        ("filter.", {"text": "full", "format": "ndjson"}, "has to be given"),
        ("", {"text": "full", "timefrom": "now-801d"}, "in 800 days at most"),
        ("", {"text": "full", "timefrom": "now-801d", "format": "csv"}, "in 800 days at most"),
        ("filter.", {"text": "full", "timefrom": "1970-01-01T00:00:00Z"}, "in 800 days at most"),
    ],
)
async def test_words_in_too_much_time_are_refused_by_name(client, held, prefix, asked, message):
    path = DOCUMENTED if prefix else OPS
    params = {f"{prefix}{name}": value for name, value in asked.items()}
    answer = await client.get(path, params=params, headers=as_("viewer@controller"))
    assert answer.status_code == 400, answer.text
    [error] = answer.json()["errors"]
    assert error["path"] == f"{prefix}timefrom"
    assert message in error["message"]
    assert held.asked == []


@asynccontextmanager
async def under_way(client, held, path, *askers):
    """As many requests as there are askers, all of them begun; they end with the block."""
    before = len(held.asked)
    tasks = [asyncio.create_task(client.get(path, headers=as_(who))) for who in askers]
    await held.number(before + len(tasks))
    yield tasks
    held.let_go.set()
    assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {200}


@pytest.mark.parametrize(
    ("path", "of_one", "at_once"), [(OPS, 8, 16), (f"{DOCUMENTED}?filter.limit=1", 8, 16), ("/v1/stats", 4, 8)]
)
async def test_one_scope_asks_so_much_at_once_and_all_together_not_much_more(client, held, path, of_one, at_once):
    acme, globex, third = "viewer@partner:acme", "viewer@partner:globex", "viewer@org:third/dev"
    async with under_way(client, held, path, *[acme] * of_one):
        answer = await client.get(path, headers=as_("admin@partner:acme"))  # another principal of that scope
        assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (429, True)
        assert answer.headers["content-type"] == "application/problem+json"
        async with under_way(client, held, path, *[globex] * (at_once - of_one)):
            assert (await client.get(path, headers=as_(third))).status_code == 429
            assert len(held.asked) == at_once
    for who in (acme, third):
        assert (await client.get(path, headers=as_(who))).status_code == 200


async def test_counts_begin_only_so_often_and_who_is_refused_hears_how_long_to_wait(held):
    now = [0.0]
    held.let_go.set()
    turns = Turns(Throttle(PER_DASHBOARD, clock=lambda: now[0]), at_once=8, of_one=4)
    transport = httpx.ASGITransport(make_application([stats_router(held, gate(), turns=turns)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://postbote") as client:
        who = as_("viewer@controller")
        statuses = [(await client.get("/v1/stats", headers=who)).status_code for _ in range(PER_DASHBOARD.burst)]
        assert set(statuses) == {200}
        answer = await client.get("/v1/stats", headers=who)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert (await client.get("/v1/stats", headers=as_("viewer@partner:acme"))).status_code == 200
        now[0] += float(answer.headers["retry-after"])
        assert (await client.get("/v1/stats", headers=who)).status_code == 200


async def test_what_is_none_of_the_askers_takes_no_place(client, held):
    async with under_way(client, held, OPS, *["viewer@partner:acme"] * 7):
        answers = [await client.get(f"{OPS}?partner=globex", headers=as_("viewer@partner:acme")) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}


class Frozen:
    """A server that takes requests, answers none, and sees its clients leave."""

    def __init__(self):
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def __call__(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        while await reader.read(1 << 16):
            pass
        self.left.set()
        writer.close()


@pytest.mark.parametrize("path", [OPS, "/opsauditlogs/?format=csv", f"{DOCUMENTED}?filter.limit=3", "/v1/stats"])
async def test_a_client_that_leaves_ends_its_question_at_opensearch_and_its_place_is_free(path):
    frozen = Frozen()
    async with await asyncio.start_server(frozen, "127.0.0.1", 0) as server, asyncio.timeout(8):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        search, stats, places = OpenSearchSearch(url), OpenSearchStats(url), Places(at_once=1, of_one=1)
        desk = AuditDesk(search, places=places)
        routers = [audit_router(desk, gate()), ops_audit_router(desk, gate()), stats_router(stats, gate())]
        async with serving(make_application(routers), "127.0.0.1", 0) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer viewer@controller\r\n\r\n"
            writer.write(head.encode())
            await frozen.asked.wait()
            assert not frozen.left.is_set()
            writer.close()
            await frozen.left.wait()
        with places.taken("another"):
            pass
        await search.close()
        await stats.close()
        del reader


REAL = {
    "root_cause": [{"type": "time_exceeded_exception", "reason": None}],
    "type": "search_phase_execution_exception",
    "reason": "Partial shards failure",
    "phase": "query",
}
CANCELLED = {
    "root_cause": [
        {
            "type": "task_cancelled_exception",
            "reason": "cancelled task with reason: Cancellation timeout of 10s is expired",
        }
    ],
    "type": "search_phase_execution_exception",
    "reason": "all shards failed",
}


class Refusing:
    """A transport that answers with one error."""

    def __init__(self, error):
        self._error = error

    async def perform_request(self, *_arguments, **_options):
        raise self._error

    async def close(self):
        pass


@pytest.mark.parametrize(
    ("status", "info", "kind"),
    [
        (500, {"error": REAL, "status": 500}, AuditTooSlow),
        (500, {"error": CANCELLED, "status": 500}, AuditTooSlow),
        (500, {"error": {**REAL, "root_cause": [{"type": "null_pointer_exception"}]}}, AuditUnavailable),
        (503, {"error": "a proxy's own words"}, AuditUnavailable),
        (500, "no JSON", AuditUnavailable),
    ],
)
async def test_opensearch_that_ran_out_of_time_is_told_apart_from_one_that_is_broken(status, info, kind):
    link = OpenSearchLink(OpenSearchAccess("http://x"), Refusing(TransportError(status, "some_exception", info)))
    with pytest.raises(AuditUnavailable) as caught:
        await link.request(Call("POST", "/_search"))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ({"timed_out": False}, True),
        ({"timed_out": False, "terminated_early": True}, True),  # said of whole counts that an index gave
        ({"timed_out": True}, False),
    ],
)
async def test_half_an_answer_is_none(answer, whole):
    body = orjson.dumps({"took": 1, "hits": {"total": {"value": 3}}, **answer})

    async def answering(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async with await asyncio.start_server(answering, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        search, stats = OpenSearchSearch(url), OpenSearchStats(url)
        for asking in (search.search(AuditQuery()), stats.count(parse_stats_query([], NOON))):
            if whole:
                assert (await asking).total == 3
            else:
                with pytest.raises(AuditTooSlow):
                    await asking
        await search.close()
        await stats.close()
    assert require_whole({"timed_out": False}) is None


async def test_a_question_that_takes_too_long_is_answered_with_what_to_do(client, held):
    async def slow(query):
        held.asked.append(query)
        raise AuditTooSlow

    held.search = held.count = slow
    for path in (OPS, DOCUMENTED, "/v1/stats", f"{OPS}?format=csv"):
        answer = await client.get(path, headers=as_("viewer@controller"))
        assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
        assert "less time" in answer.json()["detail"]
        assert "away" not in answer.text


@pytest.fixture
async def embedded(tmp_path):
    audit = await SqliteAudit(tmp_path / "audit.db").open()
    await audit.write([audit_record(n, seconds=n) for n in range(3000)])
    yield audit, SqliteStats(tmp_path / "audit.db")
    await audit.close()


async def test_the_embedded_form_ends_what_takes_too_long_and_goes_on(embedded, monkeypatch):
    audit, stats = embedded
    asked = parse_stats_query([("timefrom", "2025-11-21T12:00:00Z"), ("timeto", "2025-11-22T12:00:00Z")], NOON)
    monkeypatch.setattr("worker.embedded.audit_search.TIMEOUT_S", 0.0)
    with pytest.raises(AuditTooSlow):
        await audit.search(AuditQuery(text="queued"))
    with pytest.raises(AuditTooSlow):
        await stats.count(asked)
    monkeypatch.setattr("worker.embedded.audit_search.TIMEOUT_S", 60.0)
    assert (await audit.search(AuditQuery(text="queued"))).total == 3000
    assert (await stats.count(asked)).total == 3000


async def test_the_embedded_form_ends_a_question_that_nobody_waits_for(embedded, monkeypatch):
    """Words are looked for by a function of ours, which here lets the test leave in the middle."""
    audit, _ = embedded
    loop, begun, looked = asyncio.get_running_loop(), asyncio.Event(), []

    def words(text):
        looked.append(text)
        loop.call_soon_threadsafe(begun.set)
        return frozenset(text.split())

    monkeypatch.setattr("worker.embedded.audit_search.words_of", words)
    asking = asyncio.create_task(audit.search(AuditQuery(text="nothing has this")))
    await begun.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await audit.search(AuditQuery(limit=1))).total == 3000  # the thread is free again
    assert len(looked) < 3000
