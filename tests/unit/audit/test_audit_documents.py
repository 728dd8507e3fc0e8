"""The index template, the search request and the dead letter, as data."""

import asyncio

import orjson
import pytest
from pydantic import BaseModel

from schemas.audit import AuditRecord, Outcome
from schemas.audit_query import AuditQuery
from tests.unit.audit.audit_samples import NOON, ScriptedTransport, audit_record, status_error
from worker.audit.entries import Ticket, bury, entry_of, restore
from worker.audit.index_template import VERSION, ensure_template, index_template
from worker.audit.link import OpenSearchAccess, OpenSearchLink, connect
from worker.audit.search import search_body
from worker.errors import AuditUnavailable


def assert_mapped(model, properties):
    for name, field in model.model_fields.items():
        key = field.alias or name
        assert key in properties, f"{model.__name__}.{name} is not mapped"
        inner = [
            kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(kind, type)
        ]
        for kind in inner:
            if issubclass(kind, BaseModel):
                assert properties[key]["dynamic"] is False
                assert_mapped(kind, properties[key]["properties"])


def test_every_field_of_a_record_is_mapped_and_no_other_can_be():
    mappings = index_template()["template"]["mappings"]
    assert mappings["dynamic"] is False
    assert_mapped(AuditRecord, mappings["properties"])
    assert set(mappings["properties"]) - {"dead_letter"} == {
        field.alias or name for name, field in AuditRecord.model_fields.items()
    }


def test_a_template_is_for_its_prefix_alone_and_the_longer_prefix_wins():
    short, long = index_template("audit"), index_template("audit-eu", "0-2")
    assert (short["index_patterns"], long["index_patterns"]) == (["audit-*"], ["audit-eu-*"])
    assert long["priority"] > short["priority"] + VERSION
    assert long["template"]["settings"]["index"]["auto_expand_replicas"] == "0-2"


class TestEnsureTemplate:
    class Transport(ScriptedTransport):
        """Refuses to create; `wins` tells whether another replica has created meanwhile."""

        def __init__(self, *, wins):
            super().__init__()
            self.wins = wins

        async def perform_request(self, method, url, params=None, body=None, **_):
            if method == "PUT":
                self.template_there = self.wins
                raise status_error(400, "illegal_argument_exception")
            return self.template_there

    async def test_losing_the_race_against_another_replica_is_success(self):
        transport = self.Transport(wins=True)
        await ensure_template(OpenSearchLink(OpenSearchAccess("http://127.0.0.1:1"), transport), "test")
        assert transport.template_there

    async def test_a_refusal_in_earnest_is_told_with_the_templates_name(self):
        with pytest.raises(AuditUnavailable, match="index template test-v1"):
            await ensure_template(
                OpenSearchLink(OpenSearchAccess("http://127.0.0.1:1"), self.Transport(wins=False)), "test"
            )


def test_a_question_becomes_terms_and_ranges_only():
    body = search_body(AuditQuery(time_from=NOON, time_to=NOON, recipient="a@b *", outcome=Outcome.REFUSED, offset=5))
    assert body["query"] == {
        "bool": {
            "filter": [
                {"term": {"outcome": "refused"}},
                {"term": {"recipient": "a@b *"}},
                {"range": {"@timestamp": {"gte": 1763726400000, "lte": 1763726400000, "format": "epoch_millis"}}},
            ]
        }
    }
    assert (body["from"], body["size"], body["track_total_hits"]) == (5, 10, True)
    assert search_body(AuditQuery())["query"] == {"bool": {"filter": []}}


async def test_a_dead_letter_gives_back_the_very_record():
    record = audit_record(recipient=None, outcome=Outcome.INVALID)
    entry = entry_of(record, "test", Ticket(1, asyncio.get_running_loop().create_future()))
    letter = bury(entry, "test", "400 because")
    document = orjson.loads(letter.document)
    assert (letter.index, letter.document_id, letter.ticket) == ("test-deadletter", record.document_id, entry.ticket)
    restored = restore(document)
    assert restored.pop("dead_letter") == {"index": "test-2025.11", "error": "400 because"}
    assert restored == orjson.loads(record.to_json())
    assert restore(restored) == restored


def test_a_ca_file_that_cannot_be_read_is_one_line(tmp_path):
    bad = tmp_path / "ca.pem"
    bad.write_text("not a certificate")
    for ca_file in (bad, tmp_path / "absent.pem"):
        with pytest.raises(AuditUnavailable, match=r"the CA file .*\.pem of OpenSearch"):
            connect(OpenSearchAccess("https://localhost:1", ca_file=ca_file))


def test_a_password_is_not_part_of_what_is_printed():
    assert "s3cret" not in repr(OpenSearchAccess("http://localhost:1", "user", "s3cret"))
