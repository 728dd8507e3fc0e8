"""What every audit promises, held against a real OpenSearch and against the embedded file."""

import asyncio
from datetime import datetime, timedelta

import pytest

from schemas.audit import ConfigUsed, Outcome, Reply
from schemas.audit_change import Action, ChangeType
from schemas.audit_query import AuditQuery
from tests.control.shipping.shipping_samples import change_record
from tests.unit.audit.audit_samples import NOON, audit_record, ids_of
from worker.audit import index_template
from worker.audit.link import Call
from worker.audit.opensearch import OpenSearchAudit
from worker.delivery.ports import Document
from worker.errors import AuditUnavailable


@pytest.fixture(params=["opensearch", "sqlite"])
def audit(request):
    # Resolved by name, so that the embedded half needs no server.
    return request.getfixturevalue(f"over_{request.param}")


def used(scope, name):
    return ConfigUsed(scope=scope, name=name, version=1, fingerprint="ab" * 8, host="smtp.example.org", port=587)


def found_ids(page):
    return [record["event_id"] for record in page.records]


class TestContract:
    async def test_a_record_is_found_as_it_was_written(self, audit):
        record = audit_record(reply=Reply(code=250, text="2.0.0 Ok\n\N{SNOWMAN} <script>", phase="final"))
        await audit.write(record)
        page = await audit.search(AuditQuery())
        assert (page.total, page.offset, page.limit) == (1, 0, 10)
        assert page.records == [record.model_dump(mode="json", by_alias=True, exclude_none=True)]

    async def test_an_audit_that_nobody_wrote_to_answers_nothing(self, audit):
        page = await audit.searcher.search(AuditQuery(partner="acme"))
        assert (page.total, page.records) == (0, [])

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, ["b", "c", "d", "e", "f", "g"]),
            ({"category": "SYSTEMAUDIT"}, ["b", "c", "d", "e", "f", "g"]),
            ({"category": "systemaudit"}, []),
            ({"type": "email.delivery"}, ["b", "c", "d", "e", "f", "g"]),
            ({"outcome": Outcome.REFUSED}, ["b"]),
            ({"partner": "globex"}, ["c"]),
            ({"partner": "GLOBEX"}, []),
            ({"org": "prod"}, ["d"]),
            ({"partner": "acme", "org": "dev"}, ["b", "e", "f", "g"]),
            ({"recipient": "ann.lee@example.org"}, ["e"]),
            ({"recipient": "ANN.LEE@Example.ORG"}, ["e"]),
            ({"recipient": "ann"}, []),
            ({"recipient": "*"}, []),
            ({"recipient": "ann.lee@example.org OR *"}, []),
            ({"event_id": "b"}, ["b"]),
            ({"event_id": "B"}, []),
            ({"event_source": "/crm"}, ["f"]),
            ({"event_source": "/crm", "outcome": Outcome.REFUSED}, []),
            ({"event_id": "' OR 1=1 --"}, []),
            ({"config": "spare"}, ["b"]),
            ({"config": "Spare"}, []),
            ({"config": "default", "config_scope": "org:acme/dev"}, ["d", "e", "f", "g"]),
            ({"config": "default", "config_scope": "controller"}, []),
            ({"config_scope": "partner:globex"}, ["c"]),
            ({"outcomes": (Outcome.REFUSED, Outcome.IN_DOUBT)}, ["b"]),
            ({"outcomes": (Outcome.REFUSED, Outcome.ACCEPTED), "config": "default", "partner": "globex"}, ["c"]),
        ],
        ids=str,
    )
    async def test_filters_match_exactly_and_together(self, audit, filters, expected):
        await audit.write(
            audit_record(event_id="b", outcome=Outcome.REFUSED, config=used("org:acme/dev", "spare")),
            audit_record(event_id="c", partner="globex", org=None, config=used("partner:globex", "default")),
            audit_record(event_id="d", org="prod"),
            audit_record(event_id="e", recipient="Ann.Lee@example.org"),
            audit_record(event_id="f", event_source="/crm"),
            audit_record(event_id="g", recipient=None),
        )
        page = await audit.search(AuditQuery(**filters))
        assert found_ids(page) == expected
        assert page.total == len(expected)

    @pytest.mark.parametrize(
        ("time_from", "time_to", "expected"),
        [
            (None, None, ["3", "2", "1", "0"]),
            (0, None, ["3", "2", "1", "0"]),
            (0.001, None, ["3", "2", "1"]),
            (2, None, ["3", "2"]),
            (None, 1, ["1", "0"]),
            (1, 2, ["2", "1"]),
            (1, 1, ["1"]),
            (1.0004, 1.0009, ["1"]),  # the same millisecond
            (1.001, 1.999, []),
            (60, None, []),
        ],
    )
    async def test_both_ends_of_a_time_range_belong_to_it(self, audit, time_from, time_to, expected):
        await audit.write(*(audit_record(n, seconds=n, event_id=str(n)) for n in range(4)))
        bounds = {
            name: NOON + timedelta(seconds=offset)
            for name, offset in (("time_from", time_from), ("time_to", time_to))
            if offset is not None
        }
        page = await audit.search(AuditQuery(**bounds))
        assert found_ids(page) == expected
        assert page.total == len(expected)

    async def test_the_month_of_the_event_does_not_matter_to_a_search(self, audit):
        await audit.write(
            audit_record(event_id="old", event_time=NOON - timedelta(days=40)),
            audit_record(event_id="new", seconds=1),
            audit_record(event_id="timeless", seconds=2, event_time=None),
        )
        assert found_ids(await audit.search(AuditQuery(time_from=NOON))) == ["timeless", "new", "old"]

    async def test_pages_follow_each_other_and_the_total_counts_all(self, audit):
        await audit.write(*(audit_record(n, seconds=n % 3, event_id=f"{n:02}") for n in range(25)))
        pages = [await audit.search(AuditQuery(offset=offset, limit=10)) for offset in (0, 10, 20, 30)]
        assert [page.total for page in pages] == [25] * 4
        assert [len(page.records) for page in pages] == [10, 10, 5, 0]
        seen = [record["event_id"] for page in pages for record in page.records]
        assert seen == sorted((f"{n:02}" for n in range(25)), key=lambda name: (-(int(name) % 3), name))

    async def test_records_of_one_millisecond_have_one_order(self, audit):
        at = {"timestamp": NOON, "event_id": "same"}
        await audit.write(
            audit_record(**at, recipient=None, outcome=Outcome.INVALID),
            audit_record(**at, recipient="B@example.org"),
            audit_record(**at, recipient="a@example.org", outcome=Outcome.DEFERRED, attempt=1),
            audit_record(**at, recipient="a@example.org", outcome=Outcome.THROTTLED, attempt=2),
            audit_record(**at, recipient="a@example.org", outcome=Outcome.ACCEPTED, attempt=1),
            audit_record(timestamp=NOON, event_id="later in the alphabet"),
        )
        page = await audit.search(AuditQuery())
        shown = [(r["event_id"], r.get("recipient"), r["attempt"], r["outcome"]) for r in page.records]
        assert shown == [
            ("later in the alphabet", "user0@example.org", 1, "accepted"),
            ("same", "a@example.org", 2, "throttled"),
            ("same", "a@example.org", 1, "accepted"),
            ("same", "a@example.org", 1, "deferred"),
            ("same", "B@example.org", 1, "accepted"),
            ("same", None, 1, "invalid"),
        ]

    async def test_a_record_written_twice_is_one_and_stays_the_first(self, audit):
        first = audit_record()
        await audit.write(first, first)
        await audit.write(audit_record(attempt=7))  # accepted: whatever the attempt
        page = await audit.search(AuditQuery())
        assert [(record["worker_id"], record["attempt"]) for record in page.records] == [("worker-1", 1)]

    async def test_attempts_are_records_of_their_own_until_one_is_accepted(self, audit):
        deferred = [audit_record(outcome=Outcome.DEFERRED, attempt=n, seconds=n) for n in (1, 2)]
        await audit.write(*deferred, audit_record(attempt=3, seconds=3))
        page = await audit.search(AuditQuery())
        assert [(r["outcome"], r["attempt"]) for r in page.records] == [
            ("accepted", 3),
            ("deferred", 2),
            ("deferred", 1),
        ]

    async def test_what_was_written_is_looked_up_at_once(self, audit):
        written, missing = audit_record(1), audit_record(2)
        assert await audit.audit.recorded(ids_of(written, missing)) == frozenset()
        await audit.write(written)
        assert await audit.audit.recorded(ids_of(written, missing)) == {written.document_id}
        assert await audit.audit.recorded({}) == frozenset()

    async def test_many_records_of_several_months_are_looked_up_together(self, audit):
        records = [audit_record(n, event_time=NOON - timedelta(days=31 * (n % 3))) for n in range(1200)]
        await audit.write(*records[::2])
        assert await audit.audit.recorded(ids_of(*records)) == {record.document_id for record in records[::2]}

    async def test_a_change_is_found_as_it_was_written_among_the_mails(self, audit):
        change = change_record(3)
        await audit.write(audit_record(event_id="mail"))
        await audit.write_changes(change, change)
        await audit.write_changes(change)  # told twice
        page = await audit.search(AuditQuery(type="smtp_config.changed"))
        assert page.records == [change.model_dump(mode="json", by_alias=True, exclude_none=True)]
        assert (await audit.search(AuditQuery(category="SYSTEMAUDIT"))).total == 2
        assert found_ids(await audit.search(AuditQuery(type="email.delivery"))) == ["mail"]
        assert await audit.audit.recorded({change.document_id: change.index_month}) == {change.document_id}

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"type": "secret.changed"}, ["2"]),
            ({"type": "smtp_config.changed", "partner": "acme"}, ["1", "4"]),
            ({"partner": "acme", "org": "dev"}, ["1"]),
            ({"partner": "globex"}, ["3"]),
            ({"outcome": Outcome.ACCEPTED}, []),
            ({"event_id": "change-1"}, []),
            ({"type": "*.changed"}, []),
            ({"config": "default"}, []),
        ],
        ids=str,
    )
    async def test_changes_are_filtered_like_mails(self, audit, filters, expected):
        await audit.write_changes(
            change_record(1, subject="1"),
            change_record(2, subject="2", type=ChangeType.SECRET, partner=None, org=None),
            change_record(3, subject="3", partner="globex"),
            change_record(4, subject="4", org=None, version=None, changed=()),
        )
        page = await audit.search(AuditQuery(**filters))
        assert [record["subject"] for record in page.records] == expected
        assert page.total == len(expected)

    async def test_changes_of_one_millisecond_have_one_order_after_the_mails(self, audit):
        await audit.write(audit_record(event_id="mail", timestamp=NOON))
        await audit.write_changes(
            change_record(2, subject="b"),
            change_record(3, subject="a", version=2),
            change_record(4, subject="a", version=10),
            change_record(5, subject="a", version=None),
            change_record(6, subject="a", type=ChangeType.SECRET),
            change_record(7, subject="b", version=2, action=Action.DELETED),
        )
        page = await audit.search(AuditQuery())
        shown = [(r["type"].split(".")[0], r.get("subject"), r.get("version"), r.get("action")) for r in page.records]
        assert shown == [
            ("email", None, None, None),
            ("secret", "a", 6, "updated"),
            ("smtp_config", "a", 10, "updated"),
            ("smtp_config", "a", 2, "updated"),
            ("smtp_config", "a", None, "updated"),
            ("smtp_config", "b", 2, "deleted"),
            ("smtp_config", "b", 2, "updated"),
        ]

    async def test_it_is_ready_while_open_and_refuses_once_closed(self, audit):
        await audit.audit.ready()
        await audit.audit.close()
        with pytest.raises(AuditUnavailable):
            await audit.write(audit_record())
        with pytest.raises(AuditUnavailable):
            await audit.audit.recorded(ids_of(audit_record()))


async def test_a_record_that_opensearch_cannot_index_is_kept_found_and_known(over_opensearch):
    audit = over_opensearch
    beyond_an_integer = audit_record(1, outcome=Outcome.DEFERRED, attempt=2**40)
    await audit.write(audit_record(0), beyond_an_integer, audit_record(2))
    assert await audit.audit.recorded(ids_of(beyond_an_integer)) == {beyond_an_integer.document_id}
    page = await audit.search(AuditQuery(recipient="USER1@example.org", time_from=NOON, outcome=Outcome.DEFERRED))
    assert page.total == 1
    letter = page.records[0].pop("dead_letter")
    assert page.records[0] == beyond_an_integer.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert letter["index"].endswith("-2025.11")
    assert "attempt" in letter["error"]
    assert (await audit.search(AuditQuery())).total == 3


async def test_what_two_workers_were_told_250_for_is_recorded_twice_and_said_so(over_opensearch):
    audit = over_opensearch
    first, second, same_bulk = (audit_record(worker_id=f"worker-{n}", seconds=n) for n in (1, 2, 3))
    await audit.write(first, same_bulk)
    await audit.write(second)
    await audit.write(first, second, same_bulk)  # shipped again: nothing is added
    page = await audit.search(AuditQuery())
    shown = [(record["worker_id"], record["possible_duplicate"]) for record in page.records]
    assert shown == [("worker-3", True), ("worker-2", True), ("worker-1", False)]


async def test_an_upgrade_makes_new_fields_searchable_in_the_months_that_exist(over_opensearch, monkeypatch):
    audit = over_opensearch
    await audit.write(audit_record())
    link = audit.audit._link
    this = index_template.VERSION
    monkeypatch.setattr(index_template, "VERSION", this + 1)
    monkeypatch.setitem(index_template._PROPERTIES, "colour", {"type": "keyword"})
    await asyncio.gather(*(index_template.ensure_template(link, audit.prefix) for _ in range(5)))
    mapping = await link.request(Call("GET", f"/{audit.prefix}-2025.11/_mapping"))
    assert mapping[f"{audit.prefix}-2025.11"]["mappings"]["properties"]["colour"] == {"type": "keyword"}
    monkeypatch.setattr(index_template, "VERSION", this)  # an older replica
    await index_template.ensure_template(link, audit.prefix)
    await audit.write(audit_record(event_time=NOON.replace(month=1)))
    mapping = await link.request(Call("GET", f"/{audit.prefix}-2025.01/_mapping"))
    assert "colour" in mapping[f"{audit.prefix}-2025.01"]["mappings"]["properties"]


async def test_changes_are_searchable_in_months_that_version_1_made(over_opensearch, opensearch, monkeypatch):
    audit = over_opensearch
    with monkeypatch.context() as before:
        before.setattr(index_template, "VERSION", 1)
        for field in ("action", "subject", "version", "changed", "actor"):
            before.delitem(index_template._PROPERTIES, field)
        await audit.write(audit_record())
    upgraded = OpenSearchAudit(opensearch.url, index_prefix=audit.prefix)
    await upgraded.start()
    change = change_record()
    await upgraded.write_documents([Document(change.document_id, change.index_month, change.to_json())])
    mapping = await audit.audit._link.request(Call("GET", f"/{audit.prefix}-2025.11/_mapping"))
    properties = mapping[f"{audit.prefix}-2025.11"]["mappings"]["properties"]
    assert properties["actor"] == index_template._PROPERTIES["actor"] | {"dynamic": "false"}
    assert (await audit.search(AuditQuery(type="smtp_config.changed"))).total == 1
    await upgraded.close()


async def test_a_page_that_reaches_the_last_searchable_record_is_answered(over_opensearch):
    await over_opensearch.write(audit_record())
    page = await over_opensearch.search(AuditQuery(offset=9000, limit=1000))
    assert (page.total, page.records) == (1, [])


async def test_times_come_back_as_they_were_written(over_sqlite):
    await over_sqlite.write(audit_record(timestamp=datetime.fromisoformat("2025-11-21T14:00:00.123456+02:00")))
    page = await over_sqlite.search(AuditQuery())
    assert datetime.fromisoformat(page.records[0]["@timestamp"]) == NOON + timedelta(microseconds=123_456)
