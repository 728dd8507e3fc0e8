"""The bench of the audit's reads: its records are real ones, it judges rightly, and a small run of it works."""

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from schemas.audit import AuditRecord
from schemas.audit_chain import chained, genesis, read_link
from tests.bench import audit_load, audit_reads
from tests.bench.audit_load import Loaded, documents, end_of, load
from tests.bench.audit_reads import Exported, Measured, Reads, judge, percentile

pytestmark = pytest.mark.alone

END = end_of(datetime(2026, 3, 4, 5, 6, tzinfo=UTC))
LOADED = Loaded("http://x", "bench", 10, END)


def test_its_records_are_audit_records_over_months_tenants_and_providers() -> None:
    found = list(documents(3000, END))
    assert {month for month, _, _ in found} == {"2025.11", "2025.12", "2026.01", "2026.02", "2026.03"}
    assert len({identity for _, identity, _ in found}) == 3000
    assert len({document["org"] for _, _, document in found}) > 150
    assert len({document["config"]["host"] for _, _, document in found}) == audit_load.PROVIDERS
    for month, identity, document in found:
        record = AuditRecord.model_validate(document)
        bare = {name: value for name, value in document.items() if name != "chain"}
        assert (record.document_id, orjson.loads(record.to_json())) == (identity, bare)
        assert document["@timestamp"][:7].replace("-", ".") == month


def test_its_chains_hold() -> None:
    ends: dict[str, tuple[int, str]] = {}
    for _, _, document in documents(400, END):
        link = read_link(document)
        assert link is not None
        seq, prev = ends.get(link.writer, (0, genesis(link.writer)))
        assert chained(document, link.writer, seq + 1, prev)[1] == link
        ends[link.writer] = (link.seq, link.hash)
    assert [seq for seq, _ in ends.values()] == [100] * 4


def test_the_same_number_is_the_same_record() -> None:
    assert list(documents(50, END)) == list(documents(50, END))


@pytest.mark.parametrize(
    ("sentence", "api_p95", "bare_p95", "reached"),
    [
        ("as fast as OpenSearch is fast enough", 10.0, 10.0, True),
        ("1.3 times and 5 ms is the bound", 18.0, 10.0, True),
        ("and anything above is too slow", 18.1, 10.0, False),
    ],
)
def test_the_aim_is_a_bound_on_the_95th_percentile(sentence, api_p95, bare_p95, reached) -> None:
    reads = Reads(LOADED, [Measured("documented", 100, 1.0, api_p95, 1.0, bare_p95)])
    judge(reads)
    assert (reads.measured[0].reached, reads.failures == []) == (reached, reached), sentence


def test_an_export_that_lacks_a_record_is_a_failure() -> None:
    reads = Reads(LOADED, [], [Exported("csv", 9, 1.0, 1.0, 1.0, 1.0)])
    judge(reads)
    assert reads.failures == ["csv has 9 of 10 records"]


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([float(n) for n in range(1, 101)], percent) for percent in (50, 95)] == [50.0, 95.0]
    assert percentile([3.0], 95) == 3.0


async def test_what_is_loaded_is_found_and_used_again(opensearch) -> None:
    try:
        first, second = await load(opensearch.url, 500), await load(opensearch.url, 500)
        assert (first.prefix, second.seconds) == (second.prefix, 0.0)
    finally:
        opensearch.delete_indices("bench-reads-*-500*")


def test_a_small_run_asks_all_and_exports_all(opensearch, amqp_url, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(audit_reads, "TURNS", 3)
    monkeypatch.setattr(audit_reads, "WARM_UP", 1)
    monkeypatch.setattr(audit_reads.venv, "BUILD", tmp_path / "build")
    try:
        reads = audit_reads.measure(opensearch.url, amqp_url, tmp_path, records=6000)
    finally:
        opensearch.delete_indices("bench-reads-*-6000*")
    assert [(each.turns, each.api_p50 > 0, each.bare_p50 > 0) for each in reads.measured] == [(3, True, True)] * 5
    assert [(each.form, each.records) for each in reads.exported] == [("csv", 6000), ("ndjson", 6000)]
    assert orjson.loads((tmp_path / "build/audit-reads.json").read_bytes())["records"] == 6000
