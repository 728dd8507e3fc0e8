"""What claims promise, held against a real OpenSearch, against the embedded form's and against the fake."""

import asyncio
import contextlib
import json
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from schemas.audit_query import AuditQuery
from tests.integration.audit.conftest import refresh
from tests.services.processes import free_port
from tests.unit.audit.audit_samples import audit_record
from worker.audit import index_template
from worker.audit.claims import OpenSearchClaims, document_id
from worker.audit.claims_index import claims_index
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.search import OpenSearchSearch
from worker.delivery.claims import ClaimTimes, EventKey
from worker.embedded.claims import ClaimBook, MemoryClaims
from worker.errors import AuditUnavailable
from worker.testing import FakeClaims

TIMES = ClaimTimes(lasts_s=2.0, renew_s=0.2, margin_s=0.5)
# Of whoever must keep a claim: a machine that stands still for two seconds is no reason to lose it.
KEPT = ClaimTimes(lasts_s=8.0, renew_s=0.2, margin_s=0.5)
ROUNDS = 60


def key(number=0, **changes):
    return EventKey("acme", "dev", "/billing", f"event-{number}")._replace(**changes)


@dataclass
class Site:
    """Where several workers claim from one another; `start` makes one more."""

    make: Any
    started: list[Any] = field(default_factory=list)

    def start(self, holder, *, renewing=True, times=TIMES):
        claims = self.make(holder, times)
        if renewing and isinstance(claims, OpenSearchClaims):
            claims.start()
        self.started.append(claims)
        return claims


def link_to(url):
    return OpenSearchLink(OpenSearchAccess(url))


@pytest.fixture
async def over_opensearch_claims(opensearch, index_prefix):
    links = []

    def make(holder, times):
        links.append(link_to(opensearch.url))
        return OpenSearchClaims(links[-1], index_prefix, holder, times)

    site = Site(make)
    await index_is_made(site.start("first"))
    yield site
    for claims in site.started:
        await claims.close()
    for link in links:
        await link.close()


async def index_is_made(claims):
    """The first of all claims makes it, which takes a busy server longer than a claim may."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(AuditUnavailable):
                assert await claims.claim(key(-1))
                return


@pytest.fixture
def over_memory_claims():
    book = ClaimBook(TIMES)
    return Site(lambda holder, _times: MemoryClaims(holder, book))


@pytest.fixture
def over_fake_claims():
    book = ClaimBook(TIMES)
    return Site(lambda holder, _times: FakeClaims(holder, book))


@pytest.fixture(params=["opensearch", "memory", "fake"])
def site(request):
    # Resolved by name, so that the halves in memory need no server.
    return request.getfixturevalue(f"over_{request.param}_claims")


async def time_granted(claims, wanted, patience_s=20.0):
    """Ask until the event is ours; returns when that was, by the loop's clock."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(patience_s):
        while not await claims.claim(wanted):
            await asyncio.sleep(0.02)  # the end of a claim is announced to nobody
    return loop.time()


class TestContract:
    async def test_of_many_that_ask_at_once_exactly_one_gets_it(self, site):
        workers = [site.start(f"w{n}") for n in range(4)]
        for number in range(ROUNDS):
            granted = await asyncio.gather(*(worker.claim(key(number)) for worker in workers))
            assert Counter(granted) == {True: 1, False: 3}
            assert [worker.holds(key(number)) for worker in workers] == granted

    async def test_of_many_that_ask_for_what_has_ended_exactly_one_gets_it(self, site):
        dead, *others = (site.start(f"w{n}", renewing=n > 0) for n in range(4))
        keys = [key(number) for number in range(20)]
        assert all(await asyncio.gather(*(dead.claim(each) for each in keys)))
        for each in keys:
            dead.leave(each)
        wins = Counter()
        async with asyncio.timeout(20):
            while wins.total() < len(keys):
                for each in keys:
                    wins[each] += sum(await asyncio.gather(*(o.claim(each) for o in others if not o.holds(each))))
        for each in keys:
            assert [other.holds(each) for other in others].count(True) == 1
        assert set(wins.values()) == {1}

    async def test_what_was_released_is_free_at_once(self, site):
        one, two = site.start("w1"), site.start("w2")
        assert await one.claim(key())
        assert not await two.claim(key())
        await one.release(key())
        assert not one.holds(key())
        assert await two.claim(key())
        assert not await one.claim(key())

    async def test_what_was_left_ends_by_itself_and_not_sooner(self, site):
        one, two = site.start("w1"), site.start("w2")
        asked_at = asyncio.get_running_loop().time()
        assert await one.claim(key())
        one.leave(key())
        assert not one.holds(key())
        assert await time_granted(two, key()) >= asked_at + TIMES.lasts_s

    async def test_what_is_in_hand_is_nobody_elses_however_long_that_takes(self, site):
        one, two = site.start("w1", times=KEPT), site.start("w2")
        assert await one.claim(key())
        loop = asyncio.get_running_loop()
        over = loop.time() + KEPT.lasts_s + KEPT.margin_s + 1
        while loop.time() < over:
            assert not await two.claim(key())
            assert one.holds(key())
            await asyncio.sleep(0.05)

    async def test_a_worker_that_is_back_gets_at_once_what_it_had(self, site):
        killed, other, back = (site.start(name, renewing=False) for name in ("w1", "w2", "w1"))
        assert await killed.claim(key())
        assert not await other.claim(key())
        assert await back.claim(key())
        assert not await other.claim(key())

    @pytest.mark.parametrize(
        "other",
        [
            key(1),
            key(partner="globex"),
            key(org="prod"),
            key(org=None),
            key(partner=None, org=None),
            key(source="/crm"),
        ],
        ids=str,
    )
    async def test_other_events_are_other_claims(self, site, other):
        one, two = site.start("w1"), site.start("w2")
        assert await one.claim(key())
        assert await two.claim(other)

    async def test_nobody_gives_back_what_is_another_workers(self, site):
        one, two, three = (site.start(f"w{n}") for n in range(3))
        assert await one.claim(key())
        assert not await two.claim(key())
        await two.release(key())
        two.leave(key())
        assert not await three.claim(key())
        assert one.holds(key())


def fetch(server, path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.url}{path}", timeout=30) as reply:
        return json.load(reply)


class TestInOpenSearch:
    @pytest.fixture
    def site(self, over_opensearch_claims):
        return over_opensearch_claims

    async def test_a_holder_that_renews_no_more_knows_when_its_claim_may_be_anothers(self, site):
        frozen, other = site.start("w1", renewing=False), site.start("w2")
        assert await frozen.claim(key())
        assert frozen.holds(key())
        await time_granted(other, key())
        assert not frozen.holds(key())
        await frozen.release(key())
        assert not await site.start("w3").claim(key())

    async def test_a_claim_that_was_taken_over_is_given_up_by_whoever_wakes(self, site):
        frozen, other = site.start("w1", renewing=False), site.start("w2")
        assert await frozen.claim(key())
        await time_granted(other, key())
        frozen.start()
        async with asyncio.timeout(10):
            while frozen.held:
                await asyncio.sleep(0.02)
        assert other.holds(key())

    async def test_neither_the_audits_searches_nor_its_patterns_see_claims(self, site, opensearch, index_prefix):
        audit = OpenSearchAudit(opensearch.url, index_prefix=index_prefix)
        search = OpenSearchSearch(opensearch.url, index_prefix=index_prefix)
        await audit.write([audit_record()])
        assert await site.start("w1").claim(key())
        refresh(opensearch, index_prefix)
        page = await search.search(AuditQuery())
        assert [record["event_id"] for record in page.records] == ["event-0"]
        assert list(fetch(opensearch, f"/{index_prefix}-*")) == [f"{index_prefix}-2025.11"]
        await audit.close()
        await search.close()

    async def test_the_index_is_made_by_its_own_template_and_keeps_it_when_the_audits_is_upgraded(
        self, site, opensearch, index_prefix, monkeypatch
    ):
        link = link_to(opensearch.url)
        await index_template.ensure_template(link, index_prefix)
        assert await site.start("w1").claim(key())
        monkeypatch.setattr(index_template, "VERSION", 99)
        await index_template.ensure_template(link, index_prefix)
        await link.close()
        found = fetch(opensearch, f"/{claims_index(index_prefix)}")[claims_index(index_prefix)]
        settings = found["settings"]["index"]
        assert (settings["hidden"], settings["number_of_shards"]) == ("true", "1")
        assert list(found["mappings"]["properties"]) == ["until"]

    async def test_a_claim_says_who_has_which_event_until_when(self, site, opensearch, index_prefix):
        assert await site.start("w1").claim(key())
        path = f"/{claims_index(index_prefix)}/_doc/{document_id(key())}"
        found = fetch(opensearch, path)["_source"]
        assert found.pop("token")
        assert isinstance(found.pop("until"), int)
        assert found == {"holder": "w1", **key()._asdict()}

    async def test_claims_that_ended_long_ago_are_swept_away_and_no_others(self, site, opensearch, index_prefix):
        one = site.start("w1")
        assert await one.claim(key())
        link, index = link_to(opensearch.url), claims_index(index_prefix)
        old = orjson.dumps({"holder": "w9", "until": 1})
        await link.request(Call("PUT", f"/{index}/_doc/old?refresh=true", old))
        await one.sweep()
        await link.request(Call("POST", f"/{index}/_refresh"))
        found = await link.request(Call("POST", f"/{index}/_search"))
        assert {hit["_id"] for hit in found["hits"]["hits"]} == {document_id(key()), document_id(key(-1))}
        await link.close()

    async def test_sweeping_where_nobody_has_claimed_anything_is_no_fault(self, index_prefix, opensearch):
        link = link_to(opensearch.url)
        await OpenSearchClaims(link, index_prefix, "w1", TIMES).sweep()
        await link.close()
        assert not fetch(opensearch, f"/{claims_index(index_prefix)}?ignore_unavailable=true")


class TestOpenSearchAway:
    async def test_nobody_can_say_and_what_is_let_go_ends_by_itself(self, index_prefix):
        link = link_to(f"http://127.0.0.1:{free_port()}")
        claims = OpenSearchClaims(link, index_prefix, "w1", TIMES)
        with pytest.raises(AuditUnavailable):
            await claims.claim(key())
        assert not claims.holds(key())
        await claims.release(key())
        await link.close()

    async def test_one_that_is_known_to_be_away_is_not_asked(self, over_opensearch_claims):
        claims = over_opensearch_claims.start("w1")
        claims._link.health.failed("as seen by the audit")
        with pytest.raises(AuditUnavailable, match="away"):
            await claims.claim(key())

    async def test_frozen_it_is_waited_for_shortly_and_no_claim_is_trusted_until_it_could_be_renewed(
        self, over_opensearch_claims, opensearch
    ):
        one, two = over_opensearch_claims.start("w1"), over_opensearch_claims.start("w2")
        assert await one.claim(key())
        opensearch.pause()
        try:
            async with asyncio.timeout(10):
                with pytest.raises(AuditUnavailable):
                    await two.claim(key(1))
                while one.holds(key()):
                    await asyncio.sleep(0.02)
        finally:
            opensearch.resume()
        async with asyncio.timeout(20):  # nobody took it meanwhile, so it is renewed
            while not one.holds(key()):
                await asyncio.sleep(0.02)
        assert not await two.claim(key())

    async def test_the_fake_can_be_away(self):
        claims = FakeClaims()
        claims.away = True
        with pytest.raises(AuditUnavailable):
            await claims.claim(key())


class TestHundredsAtOnce:
    """A tier gives nothing back before its first is due, so that suspects come back together."""

    async def test_hundreds_that_ask_in_one_moment_share_a_few_calls(self, over_opensearch_claims, monkeypatch):
        calls = Counter()
        request = OpenSearchLink.request

        async def counted(link, call):
            calls[call.path.rpartition("/")[2]] += 1
            return await request(link, call)

        monkeypatch.setattr(OpenSearchLink, "request", counted)
        workers = [over_opensearch_claims.start(f"w{n}", renewing=False) for n in range(3)]
        wanted = [key(number) for number in range(300)]
        granted = await asyncio.gather(*(worker.claim(each) for each in wanted for worker in workers))
        assert [sum(granted[3 * n : 3 * n + 3]) for n in range(300)] == [1] * 300
        # Two hundred in one at best; a starved process sends as its claims come. One by one they would be nine hundred.
        assert calls["_bulk"] <= 90
        taken = [worker for n, worker in enumerate(workers * 300) if granted[n]]
        await asyncio.gather(*(worker.release(each) for worker, each in zip(taken, wanted, strict=True)))
        assert all(await asyncio.gather(*(workers[0].claim(each) for each in wanted)))
        assert calls.total() - calls["_bulk"] == 3, "each looks for the template once"

    async def test_who_is_refused_hears_why_and_the_others_are_served(self, over_opensearch_claims):
        claims = over_opensearch_claims.start("w", renewing=False)
        await over_opensearch_claims.started[0].claim(key(1))
        refused = claims._updates.update("1" * 40, b'{"doc":{"until":"not a time"},"doc_as_upsert":true}')
        answers = await asyncio.gather(refused, claims.claim(key(1)), claims.claim(key(2)), return_exceptions=True)
        assert (answers[0].status, answers[1:]) == (400, [False, True])
        assert "until" in answers[0].reason
