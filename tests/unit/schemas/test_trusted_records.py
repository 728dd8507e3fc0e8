"""Records that are made without validation and written by hand: pydantic would make and write the very same."""

from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.audit import AuditRecord, ConfigUsed, Outcome, Reply, Timings, TlsUsed, index_month
from schemas.audit_chain import digest_of
from schemas.cloudevents import parse_event
from schemas.smtp_config import SmtpConfig, TlsMode
from schemas.trusted import trusted
from worker.delivery.outcome import decide
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply, TransactionResult
from worker.delivery.privacy import PLAIN, Privacy, RecipientMode
from worker.delivery.records import RecordWriter, Stopwatch

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CONFIG = SmtpConfig(host="smtp.test", port=587, tls=TlsMode.STARTTLS, from_address="noreply@acme.example")
TLS = TlsUsed(version="TLSv1.3", cipher="X", verified=True)
ANSWERS = {
    "accepted": Answer(Phase.FINAL, SmtpReply(250, "2.0.0 Ok: queued as 4F1")),
    "refused": Answer(Phase.RCPT, SmtpReply(550, "no such user")),
    "lost": Answer(Phase.BODY, fault=Fault.LOST, detail="reset"),
}

words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(2000, 1, 2), datetime(2099, 12, 30), timezones=zones)  # noqa: DTZ001 # the zones' bounds
amounts = st.floats(0, 1e9).map(lambda value: round(value, 3))
records = st.builds(
    AuditRecord,
    timestamp=times,
    outcome=st.sampled_from(Outcome),
    reason=st.none() | words,
    partner=st.none() | words,
    event_id=words,
    event_source=words,
    event_time=st.none() | times,
    recipient=st.none() | words,
    recipient_hash=st.none() | words,
    attempt=st.integers(1, 1000),
    config=st.none() | st.builds(ConfigUsed, name=words, version=st.integers(1, 2**53), port=st.integers(1, 65535)),
    tls=st.none() | st.just(TLS),
    reply=st.none() | st.builds(Reply, code=st.none() | st.integers(200, 599), text=words),
    possible_duplicate=st.booleans(),
    timings=st.none() | st.builds(Timings, queued_ms=st.none() | amounts, total_ms=amounts),
    next_attempt_at=st.none() | times,
)


def written(answer, time="2026-11-21T12:00:00Z", result=None, **data):
    data = {"to": ["r@test.example"], "subject": "s", "text": "t", **data}
    attributes = {"specversion": "1.0", "id": "1", "source": "/t", "type": "email.requested.v1", "time": time}
    event = parse_event(orjson.dumps({**attributes, "data": data}))
    writer = RecordWriter(event, "w1", Stopwatch(NOON, 1.23456, None, 0.0), CONFIG, "<1@test.example>")
    result = result or TransactionResult({"r@test.example": answer}, TLS, 0.0, 12.3456)
    return writer.of_verdict("r@test.example", decide(answer), answer, result, 2)


@given(records)
def test_a_record_is_written_as_pydantic_writes_it(record):
    assert record.to_json() == record.model_dump_json(by_alias=True, exclude_none=True).encode()


@given(records, st.sampled_from([PLAIN, *(Privacy(mode, b"k" * 32) for mode in RecipientMode)]))
def test_the_digest_of_a_draft_is_that_of_its_document(record, privacy):
    draft = privacy.document(record)
    assert draft.digest == digest_of(orjson.loads(draft.document))


@pytest.mark.parametrize("time", ["2026-11-21T12:00:00Z", "2026-11-21T12:00:00.5+02:00"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_a_writer_makes_is_what_validation_would_make(answer, time):
    record = written(answer, time, category="c", scope={"partner": "acme", "org": "dev"})
    validated = AuditRecord.model_validate(orjson.loads(record.to_json()))
    assert record == validated
    assert list(record.__dict__) == list(validated.__dict__) == list(AuditRecord.model_fields)
    for part in ("config", "tls", "reply", "timings"):
        mine, theirs = getattr(record, part), getattr(validated, part)
        assert [(name, type(value)) for name, value in mine] == [(name, type(value)) for name, value in theirs]


def test_a_trusted_record_can_be_copied_and_stays_frozen():
    record = written(ANSWERS["accepted"])
    assert record.model_copy(update={"worker_id": "w2"}).worker_id == "w2"
    assert record.worker_id == "w1"
    assert record.model_copy() == record == AuditRecord.model_validate(dict(record))
    with pytest.raises(ValueError, match="frozen"):
        record.worker_id = "w3"


def test_copies_of_one_trusted_record_do_not_change_what_others_say_was_set():
    first, second = (trusted(Reply, {"code": 250, "enhanced": None, "text": "", "phase": None}) for _ in range(2))
    first.model_copy(update={"code": 251}).model_fields_set.clear()
    assert second.model_fields_set == set(Reply.model_fields)


def test_timings_are_whole_microseconds():
    timings = written(ANSWERS["accepted"]).timings
    assert (timings.queued_ms, timings.resolve_ms, timings.render_ms, timings.transaction_ms) == (
        1.235,
        None,
        0,
        12.346,
    )


@pytest.mark.parametrize(
    ("time", "month"),
    {
        "2026-11-30T23:59:59.999999+00:00": "2026.11",
        "2026-12-01T00:00:00+00:00": "2026.12",
        "2026-12-01T00:30:00+02:00": "2026.11",
        "2024-02-29T20:00:00-06:00": "2024.03",
    }.items(),
)
def test_a_month_is_that_of_utc(time, month):
    assert index_month(datetime.fromisoformat(time)) == month
