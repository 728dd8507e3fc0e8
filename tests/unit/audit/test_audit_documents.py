"""The index template, the search request and the dead letter, as data."""

import asyncio

import orjson
import pytest
from pydantic import BaseModel

from schemas.audit import AuditRecord, Outcome
from schemas.audit_change import ChangeRecord
from schemas.audit_query import AuditQuery
from tests.unit.audit.audit_samples import NOON, ScriptedTransport, audit_record, status_error
from worker.audit import index_template as module
from worker.audit.entries import Ticket, bury, entry_of, restore
from worker.audit.index_template import VERSION, ensure_template, index_template
from worker.audit.link import OpenSearchAccess, OpenSearchLink, connect
from worker.audit.pages import page_body
from worker.errors import AuditUnavailable

PIPELINE = "PUT /_ingest/pipeline/test-create-only"


def assert_mapped(model, properties):
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
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
    assert_mapped(ChangeRecord, mappings["properties"])
    fields = [*AuditRecord.model_fields.items(), *ChangeRecord.model_fields.items()]
    assert set(mappings["properties"]) - {"dead_letter", "chain"} == {
        field.alias or name for name, field in fields if not field.exclude
    }


def test_a_template_is_for_its_prefix_alone_and_the_longer_prefix_wins():
    short, long = index_template("audit"), index_template("audit-eu", "0-2")
    assert (short["index_patterns"], long["index_patterns"]) == (["audit-*"], ["audit-eu-*"])
    assert long["priority"] > short["priority"] + VERSION
    assert long["template"]["settings"]["index"]["auto_expand_replicas"] == "0-2"


def link_over(transport):
    return OpenSearchLink(OpenSearchAccess("http://127.0.0.1:1"), transport)


class TestEnsureTemplate:
    class Refusing(ScriptedTransport):
        """Refuses to create; `wins` is the version that another replica has created meanwhile."""

        def __init__(self, *, wins):
            super().__init__()
            self.wins = wins

        def _template(self, method, name):
            if method == "PUT":
                self.templates |= {self.wins} - {None}
                raise status_error(400, "illegal_argument_exception")
            return super()._template(method, name)

    @pytest.mark.parametrize("wins", [f"test-v{VERSION}", f"test-v{VERSION + 1}"], ids=["alike", "newer"])
    async def test_losing_the_race_against_another_replica_is_success(self, wins):
        transport = self.Refusing(wins=wins)
        await ensure_template(link_over(transport), "test")
        assert transport.templates == {wins}

    async def test_a_refusal_in_earnest_is_told_with_the_templates_name(self):
        with pytest.raises(AuditUnavailable, match=f"index template test-v{VERSION}"):
            await ensure_template(link_over(self.Refusing(wins=None)), "test")

    async def test_a_list_that_cannot_be_read_is_no_list(self):
        transport = ScriptedTransport()
        transport._template = lambda *_: ["what"]
        with pytest.raises(AuditUnavailable, match="list of index templates"):
            await ensure_template(link_over(transport), "test")

    @pytest.mark.parametrize(
        ("there", "version", "asked"),
        [
            (set(), 3, ["GET /_index_template/test-v*", PIPELINE, "PUT /_index_template/test-v3"]),
            ({"test-v3"}, 3, ["GET /_index_template/test-v*"]),
            ({"test-v4", "test-v1"}, 3, ["GET /_index_template/test-v*"]),
            ({"test-v10"}, 9, ["GET /_index_template/test-v*"]),
            (
                {"test-v2"},
                3,
                ["GET /_index_template/test-v*", "PUT /test-*/_mapping", PIPELINE, "PUT /_index_template/test-v3"],
            ),
            (
                {"test-vip-v7", "test-v", "test-v7x"},
                3,
                ["GET /_index_template/test-v*", PIPELINE, "PUT /_index_template/test-v3"],
            ),
        ],
        ids=["nothing", "itself", "a newer one", "a newer one of two digits", "an older one", "others' names"],
    )
    async def test_a_template_is_installed_or_upgraded_and_never_downgraded(self, monkeypatch, there, version, asked):
        monkeypatch.setattr(module, "VERSION", version)
        transport = ScriptedTransport()
        transport.templates = set(there)
        await ensure_template(link_over(transport), "test")
        assert [f"{method} {url}" for method, url in transport.requests] == asked
        assert there <= transport.templates

    async def test_indices_that_refuse_the_new_fields_do_not_hold_the_upgrade_up(self, monkeypatch):
        monkeypatch.setattr(module, "VERSION", 2)

        class Stubborn(ScriptedTransport):
            async def perform_request(self, method, url, *args, **kwargs):
                if url.endswith("_mapping"):
                    raise status_error(400, "mapper cannot be changed")
                return await super().perform_request(method, url, *args, **kwargs)

        transport = Stubborn()
        transport.templates = {"test-v1"}
        await ensure_template(link_over(transport), "test")
        assert transport.templates == {"test-v1", "test-v2"}


def test_a_question_becomes_terms_and_ranges_only():
    body = page_body(AuditQuery(time_from=NOON, time_to=NOON, recipient="a@b *", outcome=Outcome.REFUSED, offset=5))
    assert body["query"] == {
        "bool": {
            "filter": [
                {"term": {"outcome": "refused"}},
                {"term": {"recipient": "a@b *"}},
                {"range": {"@timestamp": {"gte": 1763726400000, "lte": 1763726400000, "format": "epoch_millis"}}},
            ]
        }
    }
    assert (body["from"], body["size"], body["track_total_hits"]) == (4, 12, True)  # with one more on either side
    assert page_body(AuditQuery())["query"] == {"bool": {"filter": []}}


async def test_a_dead_letter_gives_back_the_very_record():
    record = audit_record(recipient=None, outcome=Outcome.INVALID)
    entry = entry_of(record, "test", Ticket(1, asyncio.get_running_loop().create_future()))
    letter = bury(entry, "400 because")
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
