"""The messages of the config topic: what they say, what is refused, and that no password is in clear."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from schemas.config_change import (
    MAX_BATCH_BYTES,
    MAX_CHANGES,
    ConfigMessageError,
    Marker,
    PublishedConfig,
    in_batches,
    read_message,
)
from schemas.smtp_config import SECRETS, SmtpConfig
from tests.unit.config_topic.samples import (
    ACME,
    DEV,
    DKIM_KEY,
    NOW,
    PASSWORD,
    SEALED,
    SEALED_KEY,
    begin,
    changes,
    delete,
    end,
    feature,
    put,
)

PUBLISHED = Path(__file__).resolve().parents[3] / "schemas" / "published"
ALL_KINDS = [
    changes(put(ACME, secret=SEALED), put(DEV, "second", 7, order=3), delete(ACME, "old", 4), feature()),
    changes(put(), snapshot="s"),
    changes(put(ACME, dkim_secret=SEALED_KEY, chunking=True)),
    begin(),
    end(12),
    Marker(published_at=NOW, marker="m"),
]


@pytest.mark.parametrize("message", ALL_KINDS, ids=lambda m: m.kind)
def test_what_is_written_is_read_again(message):
    reading = read_message(message.model_dump_json().encode())
    assert (reading.message, reading.faults) == (message, ())


def test_a_published_record_has_every_field_of_a_record_but_the_secrets():
    assert set(PublishedConfig.model_fields) == set(SmtpConfig.model_fields) - set(SECRETS)


def test_a_record_comes_out_as_it_went_in():
    record = SmtpConfig(
        partner="acme", org="dev", display_name="main", host="smtp.example.net", port=465, tls="ssl", verify_tls=True,
        ca_bundle="PEM", username="mailer", password=PASSWORD, from_address="a@example.net", reply_to="b@example.net",
        allowed_from=("*@example.net",), retries=1, max_connections=2, rate_per_minute=3, timeout_s=4.5, version=9,
        chunking=True, require_tls=True, dkim_domain="example.net", dkim_selector="s1", dkim_key=DKIM_KEY,
    )  # fmt: skip
    published = PublishedConfig.model_validate_json(record.model_dump_json(exclude=set(SECRETS)))
    sent = put().model_copy(update={"config": published, "secret": SEALED, "dkim_secret": SEALED_KEY})
    travelled = read_message(changes(sent).model_dump_json().encode())
    [found] = travelled.message.items
    assert found.config.opened(PASSWORD, DKIM_KEY) == record


def test_a_put_from_before_a_field_was_added_is_read():
    added = {"chunking", "require_tls", "dkim_domain", "dkim_selector"}
    item = as_json(put(ACME))
    item["config"] = {name: value for name, value in item["config"].items() if name not in added}
    del item["dkim_secret"]
    assert read_message(raw(item)).message.items == (put(ACME),)


def raw(item=None, **message):
    body = {"kind": "changes", "published_at": NOW.isoformat(), "items": [item] if item else [], **message}
    return json.dumps(body).encode()


def as_json(change, path="", value=None):
    data = change.model_dump(mode="json")
    *parents, last = path.split(".")
    inner = data
    for parent in parents:
        inner = inner[parent]
    if last:
        inner[last] = value
    return data


@pytest.mark.parametrize(
    "item",
    [
        as_json(put(), "config.password", PASSWORD),
        as_json(put(secret=SEALED), "secret", PASSWORD),
        as_json(put(secret=SEALED), "secret", "gAAAA" + "short"),
        as_json(put(), "secret", SEALED),  # a password without a user
        as_json(put(secret=SEALED), "secret", None),  # a user without a password
        as_json(put(dkim_secret=SEALED_KEY), "dkim_secret", DKIM_KEY),
        as_json(put(dkim_secret=SEALED_KEY), "dkim_secret", None),  # a domain and a selector without a key
        as_json(put(), "dkim_secret", SEALED_KEY),  # a key without a domain
        as_json(put(dkim_secret=SEALED_KEY), "config.dkim_key", DKIM_KEY),
        as_json(put(secret=SEALED), "config.tls", "none"),
        as_json(put(), "config.hots", "misspelt"),
        as_json(put(), "config.version", 0),
        as_json(put(), "config.port", 70_000),
        as_json(put(), "config.org", "dev"),  # an org without its partner
        as_json(put(), "order", -1),
        as_json(delete(), "version", 0),
        as_json(delete(), "partner", "not a name"),
        as_json(delete(), "unknown", 1),
        as_json(feature(), "org", None),
        {"kind": "rename"},
        "put",
        7,
    ],
    ids=lambda item: str(item)[:60],
)
def test_a_change_that_cannot_be_read_takes_none_of_its_neighbours_with_it(item):
    good = [put(ACME).model_dump(mode="json"), delete(DEV).model_dump(mode="json")]
    reading = read_message(raw(items=[good[0], item, good[1]]))
    assert reading.message.items == (put(ACME), delete(DEV))
    assert len(reading.faults) == 1
    assert PASSWORD not in reading.faults[0]


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"null", b"[]", b"7", b"{}", b'{"kind":"changes"}', raw(kind="nothing"), raw(extra=1), raw(snapshot=""),
     raw(published_at="yesterday"), begin().model_dump_json().replace('"snapshot":', '"snap":').encode(), b"[" * 100_000],
    ids=lambda b: b[:40].decode("latin-1"),
)  # fmt: skip
def test_what_is_no_message_is_one_error_that_quotes_nothing(body):
    with pytest.raises(ConfigMessageError) as caught:
        read_message(body)
    assert len(str(caught.value)) < 300


def test_changes_travel_in_batches_of_bounded_count_and_size():
    many = [put(ACME, f"n{n}") for n in range(MAX_CHANGES * 2 + 1)]
    assert [len(batch) for batch in in_batches(many)] == [MAX_CHANGES, MAX_CHANGES, 1]
    large = [put(ACME, f"n{n}", ca_bundle="x" * (MAX_BATCH_BYTES // 3)) for n in range(5)]
    batches = list(in_batches(large))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [change for batch in batches for change in batch] == large
    assert list(in_batches([])) == []


def test_a_record_larger_than_a_batch_travels_alone():
    huge = put(ACME, ca_bundle="x" * (2 * MAX_BATCH_BYTES))
    assert [len(batch) for batch in in_batches([put(), huge, put()])] == [1, 1, 1]


def test_reading_the_topic_needs_no_database_library():
    code = (
        "import sys, worker.rabbit.config_topic, worker.store.secrets, worker.store.controller\n"
        "print({'sqlalchemy', 'alembic', 'fastapi'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("message", ALL_KINDS, ids=lambda m: m.kind)
def test_what_is_written_fits_the_published_schema(message):
    schema = json.loads((PUBLISHED / "config-topic-message.schema.json").read_text())
    jsonschema.validate(json.loads(message.model_dump_json()), schema)
