"""The demo's events are what they claim, and its check notices when the audit tells another story."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from schemas.audit import Outcome
from schemas.cloudevents import STRUCTURED, InvalidEvent, parse_event
from worker.delivery.ports import Lane
from worker.demo.events import demo_events, sample_lines
from worker.demo.table import audit_table, summary
from worker.demo.verdict import differences, ends
from worker.embedded.sink import ReceivedMail

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SAMPLES = Path(__file__).parents[3] / "samples" / "demo.ndjson"


def test_the_shipped_samples_are_the_demos_events():
    assert SAMPLES.read_bytes() == sample_lines()


def test_every_event_is_valid_but_the_one_that_is_expected_to_be_invalid():
    for event in demo_events("run", NOW):
        expected = {one.recipient for one in event.expected}
        if event.expected[0].outcome is Outcome.INVALID:
            with pytest.raises(InvalidEvent, match="subject"):
                parse_event(event.body, STRUCTURED)
        else:
            parsed = parse_event(event.body, STRUCTURED)
            assert set(parsed.data.recipients()) == expected
            assert parsed.envelope.time == NOW


def test_two_runs_share_no_event_and_one_run_repeats_none():
    keys = [(e.document["source"], e.document["id"]) for run in ("a", "b") for e in demo_events(run, NOW)]
    assert len(set(keys)) == len(keys) == 60


def test_both_lanes_are_used():
    lanes = {event.lane for event in demo_events("run", NOW)}
    assert lanes == {Lane.TRANSACTIONAL, Lane.BULK}


def told(events):
    """The audit and the mails of a run in which everything went as expected."""
    records, mails = [], []
    for event in events:
        for one in event.expected:
            records += [_record(event, one, attempt) for attempt in range(1, one.attempts + 1)]
        reached = tuple(one.recipient for one in event.expected if one.outcome is Outcome.ACCEPTED)
        if reached:
            content = f"Message-ID: <{event.document['id']}@x.test>\r\n\r\nhi\r\n".encode()
            mails.append(ReceivedMail(1, "a@x.test", reached, "account", True, content, NOW))
    return records, mails


def _record(event, expected, attempt):
    outcome = expected.outcome if attempt == expected.attempts else Outcome.DEFERRED
    record = {"event_id": event.document["id"], "outcome": outcome.value, "attempt": attempt}
    if expected.recipient is None:
        return {**record, "reason": "data.subject: bad"}
    return {
        **record,
        "recipient": expected.recipient,
        "message_id": f"<{event.document['id']}@x.test>",
        "config": {"scope": str(expected.via)},
        "tls": {"version": "TLSv1.3", "cipher": "c", "verified": True},
        "reply": {"code": expected.code, "text": "[red]words"},
    }


def test_an_audit_as_expected_has_no_differences():
    events = demo_events("run", NOW)
    records, mails = told(events)
    stranger = ReceivedMail(1, "a@x.test", ("b@x.test",), None, True, b"Message-ID: <else@x.test>\r\n\r\n", NOW)
    assert differences(events, ends(reversed(records)), [*mails, stranger]) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r, m: r.pop(0), "root@ops.example (run-01): nothing is recorded"),
        (
            lambda r, m: r[0].update(outcome="refused"),
            "root@ops.example (run-01): outcome is refused, expected accepted",
        ),
        (
            lambda r, m: r[2]["config"].update(scope="controller"),
            "linus@dev.acme.example (run-03): sent through is controller, expected org:acme/dev",
        ),
        (lambda r, m: r[0].update(attempt=2), "root@ops.example (run-01): attempts is 2, expected 1"),
        (lambda r, m: r[0]["reply"].update(code=251), "root@ops.example (run-01): reply is 251, expected 250"),
        (lambda r, m: r[0]["tls"].update(verified=False), "root@ops.example (run-01): was not sent over verified TLS"),
        (lambda r, m: r[0].pop("tls"), "root@ops.example (run-01): was not sent over verified TLS"),
        (
            lambda r, m: r.append({**r[0], "recipient": "spy@x.test", "outcome": "refused"}),
            "spy@x.test (run-01): refused was not expected",
        ),
        (lambda r, m: m.pop(0), "root@ops.example: recorded as accepted, but the server has 1 fewer"),
        (lambda r, m: m.append(m[0]), "root@ops.example: the server has 1 more than the audit says"),
    ],
)
def test_each_difference_is_told_in_a_sentence(change, sentence):
    events = demo_events("run", NOW)
    records, mails = told(events)
    change(records, mails)
    assert sentence in differences(events, ends(records), mails)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_shows_each_outcome_whole_and_fits(width):
    records, _ = told(demo_events("run", NOW))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(audit_table(ends(records), {}, width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("accepted" in line for line in lines) == 31
    assert sum("refused" in line for line in lines) == 2
    if width == 200:
        assert sum("250 [red]words" in line for line in lines) == 31


def test_the_summary_counts_recipients_and_retries():
    found = ends(told(demo_events("run", NOW))[0])
    assert (
        summary(found, 30, 2.04)
        == "30 events, 33 recipients in 2.0 s: 31 accepted, 2 refused, 1 invalid; 1 after retries"
    )
