"""Which months may go, what their numbers look like, and what is put on record before one goes."""

from datetime import UTC, datetime, timedelta

import pytest

from schemas.audit_chain import ProofKind, digest_of, proof_id, pruned_document
from schemas.audit_change import ChangedBy
from worker.control.retention import (
    AgeError,
    Month,
    Pruning,
    Ranges,
    is_month,
    month_end,
    parse_age,
    prunable,
    prune_month,
)
from worker.errors import AuditUnavailable

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ACTOR = ChangedBy(kind="command", name="root", scope="controller")


@pytest.mark.parametrize(
    ("text", "days"), [("1d", 1), ("400d", 400), ("60w", 420), ("2y", 730), ("99999y", 36_499_635)]
)
def test_an_age_is_read(text, days):
    assert parse_age(text) == timedelta(days=days)


@pytest.mark.parametrize("text", ["", "400", "d", "-1d", "1.5d", "1m", "12h", "400 d", "400D", "٤d", "1d\n", "100000d"])
def test_what_is_no_age_is_refused_with_an_example(text):
    with pytest.raises(AgeError, match="such as 400d"):
        parse_age(text)


def test_less_than_a_day_is_refused():
    with pytest.raises(AgeError, match="1d or more"):
        parse_age("0w")


@pytest.mark.parametrize(
    ("name", "well"),
    [
        ("2025.01", True),
        ("2025.12", True),
        ("2025.13", False),
        ("2025.00", False),
        ("0000.01", False),
        ("9999.12", False),
    ],
)
def test_a_month_is_one_that_a_calendar_has(name, well):
    assert is_month(name) is well


def test_a_month_ends_where_the_next_begins():
    assert month_end("2025.12") == datetime(2026, 1, 1, tzinfo=UTC)
    assert month_end("2024.02") == datetime(2024, 3, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="is no month"):
        month_end("proof")


@pytest.mark.parametrize(
    ("age", "gone"),
    [
        ("1d", ["2025.01", "2026.09", "2026.10"]),  # never the current one, or one to come
        ("20d", ["2025.01", "2026.09", "2026.10"]),  # its last moment is 20 days and 12 hours ago
        ("21d", ["2025.01", "2026.09"]),
        ("400d", ["2025.01"]),
        ("2y", []),
        ("99999y", []),
    ],
)
def test_a_month_goes_once_its_last_moment_is_older_than_the_limit(age, gone):
    names = ["2026.10", "2027.01", "2026.11", "2025.01", "2026.09"]
    found = prunable([Month(name, 1, 1) for name in names], NOW, parse_age(age))
    assert [month.name for month in found] == gone


def test_numbers_become_ranges_by_writer():
    ranges = Ranges()
    for writer, numbers in (("b", [1, 2, 3, 7, 9, 10]), ("a", [5, 5, 5]), ("c", [1, 2, 2, 3])):
        for number in numbers:
            ranges.add(writer, number)
    assert ranges.texts() == {"a": "5", "b": "1-3,7,9-10", "c": "1-3"}
    assert list(ranges.texts()) == ["a", "b", "c"]


class Interrupted(Exception):
    pass


class MemoryAudit:
    """A month in memory that can be interrupted before any of its calls; it notes what was done."""

    def __init__(self, ranges, *, at=None, late=(), prunings=()):
        self.ranges, self.proofs, self.records, self.done = dict(ranges), {}, {}, []
        self.at, self.late, self.earlier = at, list(late), list(prunings)
        self.there = self.open = True

    def _pass(self, what):
        self.done.append(what)
        if len(self.done) == self.at:
            raise Interrupted

    async def close_month(self, _month):
        self._pass("close")
        self.open = False
        return dict(self.ranges)

    async def reopen(self, _month):
        self.open = True

    async def remove(self, _month, ranges):
        self._pass("remove")
        if self.late:
            self.ranges = self.late.pop()
        if ranges != self.ranges:
            return False
        self.there = False
        return True

    async def proof(self, document_id):
        self._pass("proof")
        return self.proofs.get(document_id)

    async def prunings(self, _month):
        self._pass("prunings")
        return self.earlier

    async def recorded(self, ids):
        self._pass("recorded")
        return frozenset(ids) & self.records.keys()

    async def record(self, change):
        self._pass("record")
        assert change.document_id not in self.records
        self.records[change.document_id] = change

    async def write_proof(self, document, document_id):
        self._pass("write_proof")
        self.proofs[document_id] = document


async def pruned(audit, now=NOW):
    await prune_month(audit, audit, "2025.01", now, ACTOR)


RANGES = {"w/1": "1-500,503"}


async def test_what_goes_is_on_record_before_it_goes():
    audit = MemoryAudit(RANGES)
    await pruned(audit)
    assert audit.done == ["close", "proof", "write_proof", "prunings", "recorded", "record", "remove"]
    ((document_id, document),) = audit.proofs.items()
    assert document == pruned_document("2025.01", RANGES, NOW.isoformat())
    assert document_id == proof_id(ProofKind.PRUNED, "2025.01", digest_of(RANGES))
    (record,) = audit.records.values()
    assert (record.subject, record.changed, record.actor) == ("2025.01", (digest_of(document),), ACTOR)
    assert not audit.there


@pytest.mark.parametrize("step", range(1, 8))
async def test_interrupted_anywhere_and_run_again_it_ends_the_same_and_tells_nothing_twice(step):
    whole, audit = MemoryAudit(RANGES), MemoryAudit(RANGES, at=step)
    await pruned(whole)
    with pytest.raises(Interrupted):
        await pruned(audit)
    assert audit.there
    assert audit.open, "the month takes records again"
    await pruned(audit, NOW + timedelta(days=30) if audit.proofs else NOW)
    assert (audit.proofs, audit.records, audit.there) == (whole.proofs, whole.records, False)


async def test_a_record_that_comes_in_between_is_put_on_record_too():
    audit = MemoryAudit(RANGES, late=[{"w/1": "1-500,503-504"}])
    await pruned(audit)
    assert [document["ranges"] for document in audit.proofs.values()] == [RANGES, {"w/1": "1-500,503-504"}]
    assert len(audit.records) == 2
    assert not audit.there


async def test_an_earlier_pruning_is_told_again_where_its_record_goes_with_the_month():
    earlier = Pruning("2023.05", "ab" * 32)
    audit = MemoryAudit(RANGES, prunings=[earlier])
    await pruned(audit)
    assert {(record.subject, *record.changed) for record in audit.records.values()} >= {earlier}
    assert len(audit.records) == 2


async def test_a_month_that_cannot_be_removed_is_open_again():
    class Refusing(MemoryAudit):
        async def remove(self, _month, _ranges):
            raise AuditUnavailable("no")

    audit = Refusing(RANGES)
    with pytest.raises(AuditUnavailable):
        await pruned(audit)
    assert audit.open
