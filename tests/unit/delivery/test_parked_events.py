"""What a parked event is picked by, and what it carries when it is replayed."""

from datetime import UTC, datetime, timedelta

import pika
import pytest

from schemas.smtp_config import Scope
from tests.support.events import body_of, make_event
from worker.delivery.parked import ParkedFilter, ParkedMessage, describe, replayed_headers
from worker.delivery.ports import Lane
from worker.delivery.progress import Progress, read_progress
from worker.rabbit.parked import read_parked

NOW = datetime(2026, 5, 5, 12, tzinfo=UTC)
TO = ("a@x.test", "b@x.test", "c@x.test")


def message(reason="exhausted", pending=(), progress=None, body=None, **headers):
    return ParkedMessage(
        body=body_of(make_event(*TO, id="e1", scope={"partner": "acme", "org": "dev"})) if body is None else body,
        content_type="application/cloudevents+json",
        headers={**headers, **(progress or Progress()).headers()},
        reason=reason,
        pending=pending,
        lane=Lane.BULK,
        first_seen=NOW - timedelta(hours=3),
    )


def replayed(parked, recipients=TO):
    return read_progress(replayed_headers(parked, NOW), recipients)


HARD = Progress(
    4,
    3,
    2,
    pending=TO[1:],
    doubtful=TO[2:],
    doubtful_by="spare",
    first_seen=NOW - timedelta(days=1),
    due=NOW,
    suspect=True,
)


@pytest.mark.parametrize(
    ("parked", "expected"),
    [
        (message(), Progress(first_seen=NOW)),
        (
            message(pending=TO[1:], progress=HARD),
            Progress(4, pending=TO[1:], doubtful=TO[2:], doubtful_by="spare", first_seen=NOW),
        ),
        (
            message(pending=TO[:1], progress=Progress(2, held=TO[2:], held_reason="config_fault", held_detail="d")),
            Progress(2, pending=(TO[0], TO[2]), first_seen=NOW),
        ),
        (
            message("in_doubt", pending=TO[:1], progress=Progress(1, pending=TO[:1], held=TO[:1])),
            Progress(1, pending=TO[:1], doubtful=TO[:1], first_seen=NOW),
        ),
        (message(pending=("stranger@x.test",), progress=Progress(2)), Progress(2, first_seen=NOW)),
        (message("delivery_limit", progress=Progress(2)), Progress(2, first_seen=NOW, suspect=True)),
        (message("too_large"), Progress(first_seen=NOW, suspect=True)),
    ],
    ids=[
        "an event without progress is sent to all",
        "the attempts go on and the schedule begins anew",
        "who was held is pending again",
        "who was held in doubt may have the mail already",
        "a recipient whom the event does not name is not believed",
        "what came of its last deliveries is unknown: a second mail is marked",
        "what came of the delivery that could not be put off is unknown, too",
    ],
)
def test_replaying_keeps_what_is_known_of_the_recipients(parked, expected):
    assert replayed(parked) == expected


def test_replaying_keeps_the_publishers_headers_and_drops_why_it_was_parked():
    parked = message(traceparent="t", **{"x-postbote-reason": "r", "x-death": [{}], "cloudEvents:id": "7"})
    own = {name for name in replayed_headers(parked, NOW) if not name.startswith("x-postbote")}
    assert own == {"traceparent", "cloudEvents:id"}
    assert "x-postbote-reason" not in replayed_headers(parked, NOW)


def test_an_event_that_cannot_be_read_keeps_the_progress_of_the_recipients_that_are_known():
    parked = message(body=b"{", pending=TO[:2], progress=Progress(3, pending=TO[:2], doubtful=TO[:1]))
    assert replayed(parked) == Progress(3, pending=TO[:2], doubtful=TO[:1], first_seen=NOW)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"id": 5, "data": {"scope": 3}}', b"[" * 900]
)
def test_whatever_the_body_is_it_has_an_id_of_its_hash_and_unknown_age_without_a_time(body):
    parked = ParkedMessage(body, None, {}, "invalid")
    event = describe(parked)
    assert event.id.startswith("sha256:")
    assert (len(event.id), event.source, event.scope, event.age(NOW)) == (39, "unknown", Scope(), None)
    assert replayed_headers(parked, NOW)["x-postbote-first-seen"] == NOW.isoformat()


def test_the_hash_id_is_the_one_in_the_audit():
    from schemas.cloudevents import InvalidEvent, parse_event
    from worker.delivery.records import of_invalid

    with pytest.raises(InvalidEvent) as caught:
        parse_event(b"{nothing")
    assert of_invalid(caught.value, b"{nothing", "w").event_id == describe(message(body=b"{nothing")).id


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (ParkedFilter(), True),
        (ParkedFilter(ids=frozenset({"e1", "e2"})), True),
        (ParkedFilter(ids=frozenset({"e2"})), False),
        (ParkedFilter(ids=frozenset({"e1"}), source="/other"), False),
        (ParkedFilter(reason="exhausted", source="/tests"), True),
        (ParkedFilter(reason="invalid"), False),
        (ParkedFilter(partner="acme"), True),
        (ParkedFilter(partner="acme", org="dev"), True),
        (ParkedFilter(partner="acme", org="qa"), False),
        (ParkedFilter(partner="other"), False),
        (ParkedFilter(older_than=timedelta(hours=3)), True),
        (ParkedFilter(older_than=timedelta(hours=3, seconds=1)), False),
        (ParkedFilter(newer_than=timedelta(hours=3)), False),
        (ParkedFilter(newer_than=timedelta(hours=4), older_than=timedelta(hours=2)), True),
    ],
)
def test_a_filter_picks_by_every_condition_together(wanted, matches):
    assert wanted.matches(describe(message()), NOW) is matches


@pytest.mark.parametrize("wanted", [ParkedFilter(older_than=timedelta()), ParkedFilter(newer_than=timedelta(days=9))])
def test_an_event_of_unknown_age_is_neither_older_nor_newer(wanted):
    assert not wanted.matches(describe(ParkedMessage(b"{", None, {}, "unrouted")), NOW)


DEATH = {"queue": "postbote.lane.bulk", "reason": "delivery_limit", "count": 1}
TIRED = {"queue": "postbote.retry.bulk.10s", "reason": "expired", "count": 3}
WRITTEN = {"x-postbote-reason": "invalid", "x-postbote-detail": "d", "x-postbote-lane": "bulk"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (WRITTEN, ("invalid", "d", Lane.BULK)),
        ({**WRITTEN, "x-death": [TIRED]}, ("invalid", "d", Lane.BULK)),
        (None, ("unrouted", "no queue is bound for the routing key 'odd.key'", None)),
        ({"x-death": [DEATH, TIRED]}, ("delivery_limit", None, Lane.BULK)),
        ({"x-death": [TIRED, DEATH]}, ("delivery_limit", None, Lane.BULK)),
        ({"x-death": [{**DEATH, "reason": "rejected"}, TIRED]}, ("too_large", None, Lane.BULK)),
        ({"x-death": [{**DEATH, "reason": "expired"}]}, ("expired", None, Lane.BULK)),
        ({"x-postbote-reason": 5, "x-postbote-lane": []}, ("unrouted", None, None)),
        ({**WRITTEN, "x-postbote-lane": "fast"}, ("invalid", "d", None)),
        ({"x-death": "nonsense"}, ("unrouted", None, None)),
        ({"x-death": 7}, ("unrouted", None, None)),
    ],
)
def test_why_a_message_was_parked_is_read_from_its_headers(headers, expected):
    read = read_parked(pika.BasicProperties(headers=headers), b"x", "odd.key")
    reason, detail, lane = expected
    assert (read.reason, read.lane) == (reason, lane)
    assert detail is None or read.detail == detail
