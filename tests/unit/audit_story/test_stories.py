"""From records to the story: tables of made-up records, and where each says that the event is."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.audit import Outcome, Reply
from schemas.audit_story import Standing
from tests.support.gates import principal_of
from tests.unit.audit.audit_samples import NOON, audit_record
from worker.control.audit_scope import shown_to
from worker.control.stories import tell

NOW = NOON + timedelta(hours=1)
BOB, ANN = "bob@example.org", "ann@example.org"


def at(minutes):
    return NOON + timedelta(minutes=minutes)


def record(minutes, outcome, recipient=BOB, *, again=None, **changes):
    values = {"outcome": Outcome(outcome), "recipient": recipient, "event_id": "e1", "timestamp": at(minutes)}
    made = audit_record(**values, next_attempt_at=None if again is None else at(again), **changes)
    return made.model_dump(mode="json", by_alias=True, exclude_none=True)


def only(*records, now=NOW, complete=True):
    [story] = tell(records, now, complete=complete)
    return story


@pytest.mark.parametrize(
    ("records", "state", "says"),
    [
        pytest.param([record(0, "accepted")], "done", "done: every recipient", id="accepted"),
        pytest.param([record(0, "refused")], "done", "done", id="refused"),
        pytest.param([record(0, "expired")], "done", "done", id="expired"),
        pytest.param([record(0, "suppressed")], "done", "done", id="suppressed"),
        pytest.param([record(59, "deferred", again=61)], "waiting", "in the tier 5m", id="deferred for two minutes"),
        pytest.param([record(50, "deferred", again=75)], "waiting", "in the tier 30m", id="deferred for 25 minutes"),
        pytest.param([record(59.9, "deferred", again=60.1)], "waiting", "in the worker that", id="for 12 seconds"),
        pytest.param([record(59.9, "throttled", again=60.6)], "waiting", "in the tier 1m", id="throttled"),
        pytest.param([record(0, "config_fault", again=61)], "waiting", "in the tier 2h", id="a broken record"),
        pytest.param([record(0, "deferred", again=1)], "due", "due since 2025-11-21 12:01:00Z", id="its time has come"),
        pytest.param([record(0, "deferred", again=60)], "due", "due since", id="its time comes now"),
        pytest.param([record(0, "in_doubt")], "in_doubt", "the records don't say", id="in doubt once"),
        pytest.param([record(0, "in_doubt"), record(2, "in_doubt", attempt=2)], "parked", "twice", id="twice in doubt"),
        pytest.param([record(0, "in_doubt"), record(2, "accepted", attempt=2)], "done", "done", id="doubt, then 250"),
        pytest.param([record(0, "unconfigured")], "parked", "parked: unconfigured", id="no record"),
        pytest.param([record(0, "config_fault")], "parked", "parked: config_fault", id="no usable sender"),
        pytest.param([record(0, "invalid", None)], "parked", "parked: invalid", id="an event that cannot be read"),
        pytest.param([record(0, "deferred", again=1), record(1, "exhausted")], "parked", "exhausted", id="given up"),
        pytest.param([record(0, "parked")], "parked", "parked", id="parked"),
        pytest.param([record(0, "deferred")], "unknown", "no record says what follows", id="deferred without a time"),
        pytest.param(
            [{**record(0, "refused"), "outcome": "teleported"}], "unknown", "unknown", id="of another version"
        ),
        pytest.param([record(0, "exhausted"), record(9, "accepted")], "done", "done", id="parked, replayed, accepted"),
        pytest.param([record(0, "accepted"), record(1, "in_doubt")], "done", "done", id="accepted stays accepted"),
        pytest.param(
            [record(0, "deferred", again=70, type="email.verification")], "done", "done", id="a test mail is tried once"
        ),
    ],
)
def test_where_an_event_of_one_recipient_is(records, state, says):
    story = only(*records)
    assert (story.where.state, story.where.derived_from) == (Standing(state), "records")
    assert says in story.where.says
    assert only(*reversed(records)) == story  # in whatever order the audit answers


@pytest.mark.parametrize(
    ("records", "state", "of_bob"),
    [
        pytest.param([record(0, "accepted", ANN), record(0, "refused")], "done", "done", id="both have an end"),
        pytest.param(
            [record(0, "accepted", ANN), record(0, "deferred", again=90)], "waiting", "waiting", id="bob waits"
        ),
        pytest.param([record(0, "deferred", ANN, again=90), record(0, "config_fault")], "waiting", "held", id="held"),
        pytest.param(
            [record(0, "deferred", ANN, again=30), record(0, "in_doubt")], "due", "in_doubt", id="a doubt waits"
        ),
        pytest.param([record(0, "accepted", ANN), record(0, "config_fault")], "parked", "parked", id="then parked"),
        pytest.param([record(0, "deferred", ANN), record(0, "exhausted")], "unknown", "parked", id="unknown is said"),
    ],
)
def test_where_an_event_of_two_recipients_is(records, state, of_bob):
    story = only(*records)
    assert [recipient.recipient for recipient in story.recipients] == [ANN, BOB]
    assert (story.where.state, story.recipients[1].where.state) == (Standing(state), Standing(of_bob))


def test_the_whole_of_it_in_order():
    story = only(
        record(0, "deferred", again=1, reply=Reply(code=450, enhanced="4.2.0", text="busy"), reason="mailbox-busy: x"),
        record(1, "deferred", again=6, attempt=2),
        record(62, "accepted", attempt=3, possible_duplicate=True),
        now=at(70),
    )
    assert (story.source, story.id, story.scope, story.time) == ("/billing", "e1", "org:acme/dev", NOON)
    assert (story.records, story.complete, story.message_id) == (3, True, "<0@postbote.example>")
    [bob] = story.recipients
    assert [(one.attempt, one.outcome, one.at, one.next_attempt_at) for one in bob.attempts] == [
        (1, "deferred", at(0), at(1)),
        (2, "deferred", at(1), at(6)),
        (3, "accepted", at(62), None),
    ]
    first, last = bob.attempts[0], bob.attempts[-1]
    assert (first.reply, first.reason) == ({"code": 450, "enhanced": "4.2.0", "text": "busy"}, "mailbox-busy: x")
    assert (last.config["name"], last.tls["version"], last.timings["transaction_ms"]) == ("default", "TLSv1.3", 12.25)
    assert (last.possible_duplicate, last.remote_queue_id, last.worker_id) == (True, "4XyZ", "worker-1")
    assert bob.took_ms == 62 * 60_000


def test_one_id_in_several_sources_and_scopes_are_several_events():
    records = [
        record(0, "accepted"),
        record(0, "refused", partner="globex"),
        record(0, "refused", event_source="/crm"),
        record(0, "refused", org=None),
        record(0, "refused", partner=None, org=None),
    ]
    told = [(story.source, story.scope, story.records) for story in tell(records, NOW)]
    assert told == [
        ("/billing", "controller", 1),
        ("/billing", "org:acme/dev", 1),
        ("/billing", "org:globex/dev", 1),
        ("/billing", "partner:acme", 1),
        ("/crm", "org:acme/dev", 1),
    ]


def test_of_more_records_than_are_read_nothing_is_called_done():
    assert only(record(0, "accepted"), complete=False).where.state is Standing.UNKNOWN
    assert only(record(0, "deferred", again=90), complete=False).where.state is Standing.WAITING


def test_what_a_tenant_may_not_know_stands_nowhere_in_its_story():
    said = Reply(code=535, enhanced="5.7.8", text="relay7.operator.example: bad password of relay-user")
    used = {"scope": "controller", "name": "Backbone", "version": 1, "fingerprint": "f" * 16, "host": "x.example"}
    whole = record(0, "config_fault", reply=said, reason="bad-credentials: x (relay7)") | {
        "config": {**used, "port": 25}
    }
    shown = shown_to(whole, principal_of("viewer@org:acme/dev"))
    text = only(shown).model_dump_json()
    for secret in ("relay7", "relay-user", "Backbone", "x.example", "f" * 16):
        assert secret in only(whole).model_dump_json()
        assert secret not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["2025-11-21T12:00:00Z", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
FIELDS = sorted({*record(0, "deferred", again=1), "possible_duplicate", "reason", "trace_id"})


@given(
    st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON), max_size=4), st.lists(st.sampled_from(FIELDS), max_size=4)
)
def test_whatever_stands_in_an_index_a_story_is_told(strange, missing):
    mine = {name: value for name, value in record(0, "deferred", again=1).items() if name not in missing}
    for story in tell([*strange, *(mine | each for each in strange), mine], NOW):
        assert story.model_dump_json()


def test_every_outcome_has_a_place():
    for outcome in Outcome:
        expected = {Outcome.IN_DOUBT: "in_doubt", Outcome.DEFERRED: "unknown", Outcome.THROTTLED: "unknown"}
        ends = {Outcome.ACCEPTED, Outcome.REFUSED, Outcome.EXPIRED, Outcome.SUPPRESSED}
        wanted = expected.get(outcome, "done" if outcome in ends else "parked")
        assert only(record(0, outcome)).where.state == wanted
