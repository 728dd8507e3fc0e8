"""Recipients that are masked, hashed or forgotten, against a real OpenSearch and the embedded file."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from schemas.audit import Outcome, Reply
from schemas.audit_chain import digest_of, link_hash
from schemas.audit_query import AuditQuery
from schemas.audit_stats import By, StatsQuery
from tests.control.shipping.shipping_samples import change_record
from tests.integration.audit.conftest import refresh
from tests.unit.audit.audit_samples import NOON, audit_record
from worker.audit.entries import Ticket, bury, entry_of
from worker.audit.forgetting import OpenSearchForgetting
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.audit.stats import OpenSearchStats
from worker.control.audit_walk import Walk
from worker.control.forgetting import PAGE, Forgotten, Told, forget
from worker.control.stories import tell
from worker.delivery.ports import Document
from worker.delivery.privacy import PLAIN, Privacy, RecipientMode
from worker.embedded.forgetting import SqliteForgetting
from worker.embedded.stats import SqliteStats
from worker.proof.chain import Chain
from worker.proof.sealed import SealedAudit
from worker.recipients import counting, finding

KEY = b"k" * 32
KEYED = Privacy(RecipientMode.PLAIN, KEY)
MASKED = Privacy(RecipientMode.MASKED, KEY)
HASHED = Privacy(RecipientMode.HASHED, KEY)
BOB, CAROL = "bob@dev.acme.example", "carol@dev.acme.example"
WHOM = Forgotten(BOB, str(KEYED.hash_of(BOB)))
SAID = Reply(code=550, enhanced="5.1.1", text="5.1.1 <BOB@dev.acme.example> unknown", phase="rcpt")


@dataclass
class Site:
    """An audit with all that reads and rewrites it."""

    audit: Any
    search: Any
    stats: Any
    forgetting: Any
    make_visible: Any

    async def write(self, privacy, *records, writer="w/1"):
        sealed = SealedAudit(self.audit, Chain(writer), privacy=privacy)
        await sealed.write(records)
        await sealed.close()
        self.make_visible()

    async def all(self, **filters):
        query = AuditQuery(type="email.delivery", limit=1000, **filters)
        return (await self.search.search(query)).records

    async def forget(self, whom=WHOM, **options):
        told = await forget(self.forgetting, whom, _nothing, **options)
        self.make_visible()
        return told


async def _nothing():
    """Nobody is told here."""


@pytest.fixture
async def on_opensearch(over_opensearch, opensearch):
    prefix = over_opensearch.prefix
    stats = OpenSearchStats(opensearch.url, index_prefix=prefix)
    forgetting = OpenSearchForgetting(opensearch.url, index_prefix=prefix)
    yield Site(
        over_opensearch.audit,
        finding(over_opensearch.searcher, KEYED),
        counting(stats, KEYED),
        forgetting,
        lambda: refresh(opensearch, prefix),
    )
    await forgetting.close()
    await stats.close()


@pytest.fixture
async def on_sqlite(over_sqlite, tmp_path):
    path = tmp_path / "audit.db"
    forgetting = await SqliteForgetting(path).open()
    yield Site(
        over_sqlite.audit,
        finding(over_sqlite.searcher, KEYED),
        counting(SqliteStats(path), KEYED),
        forgetting,
        lambda: None,
    )
    await forgetting.close()


@pytest.fixture(params=["opensearch", "sqlite"])
def site(request):
    # Resolved by name, so that the embedded half needs no server.
    return request.getfixturevalue(f"on_{request.param}")


async def mixed(site):
    """Bob and Carol in every mode, each event of its own but the last two."""
    for number, privacy in enumerate((PLAIN, KEYED, MASKED, HASHED)):
        of_both = [audit_record(2 * number + one, recipient=who) for one, who in enumerate((BOB, CAROL))]
        await site.write(privacy, *of_both, writer=f"w/{number}")


def proven(record):
    chain = record["chain"]
    return link_hash(chain["writer"], chain["seq"], chain["prev"], digest_of(record)) == chain["hash"]


class TestFinding:
    @pytest.mark.parametrize("asked", [BOB, "BOB@DEV.ACME.EXAMPLE"])
    async def test_one_persons_mails_are_found_whatever_the_records_say_of_the_address(self, site, asked):
        await mixed(site)
        assert {r["event_id"] for r in await site.all(recipient=asked)} == {f"event-{n}" for n in (0, 2, 4, 6)}
        assert await site.all(recipient="bo@dev.acme.example") == []

    async def test_whoever_sees_one_tenant_finds_that_tenants_alone(self, site):
        await site.write(HASHED, audit_record(1, recipient=BOB, partner="acme"), writer="w/1")
        await site.write(HASHED, audit_record(2, recipient=BOB, partner="globex"), writer="w/2")
        assert [r["event_id"] for r in await site.all(recipient=BOB, partner="globex")] == ["event-2"]
        assert await site.all(recipient=BOB, partner="initech") == []

    async def test_the_domain_is_found_where_it_is_kept(self, site):
        await mixed(site)
        assert {r["event_id"] for r in await site.all(domain="dev.acme.example")} == {f"event-{n}" for n in range(6)}

    async def test_they_are_counted_alike(self, site):
        await mixed(site)
        asked = AuditQuery(type="email.delivery", recipient=BOB, time_from=NOON, time_to=NOON)
        counted = await site.stats.count(StatsQuery(asked, By.ORG))
        assert (counted.total, counted.outcomes) == (4, {"accepted": 4})

    async def test_an_export_gives_each_of_a_crowd_in_one_millisecond_once(self, site, monkeypatch):
        monkeypatch.setattr("worker.control.audit_walk.PAGE", 3)
        crowd = [audit_record(0, recipient=f"user{n}@dev.acme.example") for n in range(10)]
        await site.write(HASHED, *crowd)
        walk = Walk(site.search, AuditQuery())
        found = [record["recipient_hash"] async for page in walk.pages() for record in page]
        assert sorted(found) == sorted(str(HASHED.hash_of(r.recipient)) for r in crowd)

    @pytest.mark.parametrize("privacy", [MASKED, HASHED], ids=["masked", "hashed"])
    async def test_a_story_keeps_apart_who_looks_alike(self, site, privacy):
        who = ("bob@dev.acme.example", "bill@dev.acme.example")
        of_both = [audit_record(0, recipient=each) for each in who]
        later = audit_record(0, recipient=who[0], outcome=Outcome.DEFERRED, seconds=-1)
        await site.write(privacy, *of_both, later)
        (story,) = tell(await site.all(event_id="event-0"), NOON)
        told = {each.recipient_hash: len(each.attempts) for each in story.recipients}
        assert told == {privacy.hash_of(who[0]): 2, privacy.hash_of(who[1]): 1}
        assert {each.recipient for each in story.recipients} == {privacy.shown(who[0])}


class TestForgetting:
    async def test_no_record_names_the_address_and_each_is_still_found_and_proven(self, site):
        for number, privacy in enumerate((KEYED, MASKED, HASHED)):
            records = [audit_record(number, recipient=who, reply=SAID) for who in (BOB, CAROL)]
            await site.write(privacy, *records, writer=f"w/{number}")
        assert await site.forget() == Told(1)
        records = await site.all()
        assert len(records) == 6
        assert b"bob@" not in orjson.dumps(records).lower()
        assert all(map(proven, records))
        assert {r["event_id"] for r in await site.all(recipient=BOB)} == {"event-0", "event-1", "event-2"}
        assert [r["recipient"] for r in await site.all(recipient=CAROL, event_id="event-0")] == [CAROL]
        assert await site.forget() == Told()

    async def test_what_was_chained_without_a_hash_is_left_unless_that_is_wanted(self, site):
        quoting = audit_record(2, recipient="dave@dev.acme.example", reply=SAID)
        await site.write(PLAIN, audit_record(1, recipient="Bob@dev.acme.example", reply=SAID), quoting)
        before = await site.all()
        assert await site.forget() == Told(unprovable=2)
        assert await site.all() == before
        assert await site.forget(Forgotten(BOB, WHOM.keyed_hash, unprovable=True)) == Told(2)
        after = await site.all()
        assert b"bob@" not in orjson.dumps(after).lower()
        assert not any(map(proven, after))
        assert [r["event_id"] for r in await site.all(recipient=BOB)] == ["event-1"]

    async def test_more_than_a_page_of_it_and_of_what_stays(self, site):
        many = [audit_record(n, recipient=BOB) for n in range(PAGE + 20)]
        await site.write(KEYED, *many, writer="w/1")
        await site.write(PLAIN, *(audit_record(PAGE + 20 + n, recipient=BOB) for n in range(PAGE + 20)), writer="w/2")
        assert await site.forget(dry_run=True) == Told(len(many), unprovable=PAGE + 20)
        assert await site.forget() == Told(len(many), unprovable=PAGE + 20)
        page = await site.search.search(AuditQuery(recipient=BOB))
        assert page.total == 2 * (PAGE + 20)

    async def test_an_accounts_address_in_a_change_is_no_recipients(self, site):
        change = change_record(subject=BOB)
        document = Document(change.document_id, change.index_month, change.to_json())
        await site.audit.write_documents([document])
        site.make_visible()
        assert await site.forget() == Told()
        (found,) = (await site.search.search(AuditQuery(type=str(change.type)))).records
        assert found["subject"] == BOB

    async def test_an_audit_that_nobody_wrote_to_names_nobody(self, site):
        assert await site.forget() == Told()


async def test_a_dead_letter_forgets_too(on_opensearch, over_opensearch):
    record = audit_record(1, recipient=BOB, recipient_hash=WHOM.keyed_hash)
    other = audit_record(2, recipient=CAROL, reply=SAID)
    for each in (record, other):
        letter = bury(entry_of(each, over_opensearch.prefix, Ticket(1, None)), f"Preview of value: '{BOB}'")
        await over_opensearch.audit.write_documents([Document(letter.document_id, letter.month, letter.document)])
    assert await on_opensearch.forget() == Told(2)
    found = await on_opensearch.all()
    assert b"bob@" not in orjson.dumps(found).lower()
    assert [r["event_id"] for r in await on_opensearch.all(recipient=BOB)] == ["event-1"]
    assert [r["event_id"] for r in found if r.get("recipient") == CAROL] == ["event-2"]


async def test_what_another_changes_meanwhile_is_not_overwritten(on_opensearch, over_opensearch, opensearch):
    """By optimistic concurrency: the page was read, and then the document is another."""
    await on_opensearch.write(KEYED, audit_record(1, recipient=BOB))
    link = OpenSearchLink(OpenSearchAccess(opensearch.url))
    place = {"_index": f"{over_opensearch.prefix}-2025.11", "_id": audit_record(1, recipient=BOB).document_id}

    async def meddle():
        body = orjson.dumps({"update": place}) + b'\n{"doc": {"trace_id": "of another"}}\n'
        call = Call("POST", "/_bulk", body, {"refresh": "true"}, content_type="application/x-ndjson")
        assert not (await link.request(call))["errors"]

    told = await forget(on_opensearch.forgetting, WHOM, meddle)
    await link.close()
    assert told == Told(1)
    on_opensearch.make_visible()
    (found,) = await on_opensearch.all(recipient=BOB)
    assert found["trace_id"] == "of another"
    assert "recipient" not in found


async def test_the_embedded_file_keeps_no_trace_of_what_was_overwritten(on_sqlite, over_sqlite, tmp_path):
    await on_sqlite.write(KEYED, *(audit_record(n, recipient="zebedee@dev.acme.example") for n in range(50)))
    whom = Forgotten("zebedee@dev.acme.example", str(KEYED.hash_of("zebedee@dev.acme.example")))
    assert await on_sqlite.forget(whom) == Told(50)
    await on_sqlite.forgetting.close()
    await over_sqlite.audit.close()
    assert not [path.name for path in tmp_path.iterdir() if b"zebedee" in path.read_bytes()]
