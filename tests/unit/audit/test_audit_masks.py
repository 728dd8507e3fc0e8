"""What a tenant reads of a server that is not its own, and of one that was not reached; every outcome rule."""

from datetime import UTC, datetime

import orjson
import pytest

from schemas.audit import Outcome, TlsUsed
from schemas.cloudevents import parse_event
from schemas.smtp_config import Scope, SmtpConfig
from tests.support.events import body_of, make_event
from tests.support.gates import principal_of
from worker.control.audit_scope import shown_to
from worker.delivery.outcome import decide
from worker.delivery.outcome_rules import FAULT_RULES, REPLY_RULES, Blame
from worker.delivery.ports import Answer, Document, Fault, Phase, SmtpReply, TransactionResult
from worker.delivery.records import RecordWriter, Stopwatch
from worker.proof.chain import Chain

EVENT = parse_event(body_of(make_event("r@example.org")), "application/cloudevents+json")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORG, PARTNER, CONTROLLER = "viewer@org:acme/dev", "viewer@partner:acme", "viewer@controller"
OF_THE_RECORD = ("smtp.secret.internal", "relay of the house", '"port"', "10.9.8.7", "INTERNALWORDS", "QUEUEID1")


def config_of(scope):
    owner = Scope.parse(scope)
    return SmtpConfig(
        partner=owner.partner, org=owner.org, display_name="relay of the house", host="smtp.secret.internal", port=2525,
        tls="none", from_address="a@example.com", version=7,
    )  # fmt: skip


def record_of(answer, scope, *, outcome=None, connect_ms=3.25):
    """A delivery record as the worker makes it, and as the audit gives it back."""
    result = TransactionResult(
        {"r@example.org": answer}, TlsUsed(version="TLSv1.3", cipher="X", verified=True), connect_ms, 1.5
    )
    writer = RecordWriter(EVENT, "w1", Stopwatch(NOW, 1.0, 2.0, 3.0), config_of(scope))
    verdict = decide(answer)
    record = writer.of_verdict("r@example.org", verdict, answer, result, 1, outcome=outcome)
    return orjson.loads(record.to_json())


def said(phase, text):
    return Answer(phase, SmtpReply(int(text[:3]), text[4:]), detail="INTERNALWORDS 10.9.8.7")


SAMPLES = {
    **{rule.name: said(max(rule.phases), f"{rule.sample} INTERNALWORDS 10.9.8.7") for rule in REPLY_RULES},
    **{
        rule.name: Answer(min(rule.phases), fault=min(rule.faults), detail="INTERNALWORDS 10.9.8.7")
        for rule in FAULT_RULES
    },
}


def traces(shown):
    text = orjson.dumps(shown).decode()
    return [word for word in OF_THE_RECORD if word in text]


@pytest.mark.parametrize(("who", "scope"), [(ORG, "partner:acme"), (ORG, "controller"), (PARTNER, "controller")])
def test_of_a_wider_record_and_its_server_no_answer_says_more_than_codes(who, scope):
    for name, answer in SAMPLES.items():
        record = record_of(answer, scope)
        assert traces(record), name
        shown = shown_to(record, principal_of(who))
        assert traces(shown) == [], name
        assert (shown["outcome"], shown["config"]) == (record["outcome"], {"scope": scope})
        assert shown["reply"].get("code") == record["reply"].get("code")
        assert shown["reply"].get("enhanced") == record["reply"].get("enhanced")
        assert shown["reason"], name


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.EXHAUSTED, Outcome.PARKED])
def test_nor_does_one_that_ended_otherwise_than_its_rule_says(outcome):
    for name, answer in SAMPLES.items():
        assert traces(shown_to(record_of(answer, "controller", outcome=outcome), principal_of(ORG))) == [], name


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("a recipient", said(Phase.RCPT, "550 5.1.1 no such user"), "recipient-unknown: The server does not know this"),
        ("the content", said(Phase.FINAL, "552 5.3.4 too big"), "message-too-big: The message is larger than"),
        ("a login", said(Phase.AUTH, "535 5.7.8 no"), "the SMTP record that applies does not work now"),
        ("a certificate", Answer(Phase.TLS, fault=Fault.TLS_UNTRUSTED), "the SMTP record that applies does not work"),
        ("a busy server", said(Phase.MAIL, "451 4.3.0 later"), "the server did not take it now"),
        ("too fast", said(Phase.MAIL, "454 Throttling failure"), "the server takes less mail now"),
        ("a doubt", Answer(Phase.FINAL, fault=Fault.LOST), "whether the server took it is not known"),
    ],
)
def test_what_concerns_the_mail_is_said_and_what_concerns_the_record_is_not(name, answer, reason):
    assert shown_to(record_of(answer, "controller"), principal_of(ORG))["reason"].startswith(reason), name


@pytest.mark.parametrize(("who", "scope"), [(ORG, "org:acme/dev"), (PARTNER, "partner:acme"), (PARTNER, "org:acme/x")])
def test_of_the_own_record_everything_is_said_but_why_it_was_not_reached_and_which_worker_sent(who, scope):
    for name, answer in SAMPLES.items():
        record = record_of(answer, scope)
        if name in {"egress-denied", "host-not-found", "dns-unavailable", "unreachable"}:
            continue
        if name == "timed-out" and answer.phase in {Phase.RESOLVE, Phase.CONNECT}:
            continue
        hosts_of_the_operator = {"worker_id"}
        said = {field: value for field, value in record.items() if field not in hosts_of_the_operator}
        assert shown_to(record, principal_of(who)) == said, name


@pytest.mark.parametrize("who", [ORG, PARTNER])
@pytest.mark.parametrize("kind", ["a mail", "a change"])
def test_no_tenant_learns_which_worker_wrote_a_record_and_how_many_it_wrote(who, kind):
    change = {"type": "token.changed", "actor": {"scope": "partner:acme"}, "worker_id": "host-7"}
    record = change if kind == "a change" else record_of(next(iter(SAMPLES.values())), "org:acme/dev")
    (sealed,) = Chain("host-7/0").seal([Document("1", "2026.11", orjson.dumps(record))])
    shown = shown_to(orjson.loads(sealed.document), principal_of(who))
    assert "chain" not in shown
    assert "host-7" not in str(shown)
    assert "chain" in shown_to(orjson.loads(sealed.document), principal_of(CONTROLLER))


# Whatever comes before a connection stands, with the outcome that the retry schedule needs.
WAYS = [
    (Answer(Phase.RESOLVE, fault=Fault.EGRESS_DENIED, detail="10.9.8.7 is private"), 0.5),
    (Answer(Phase.CONNECT, fault=Fault.EGRESS_DENIED, detail="port 2525 is not permitted"), 0.0),
    (Answer(Phase.RESOLVE, fault=Fault.DNS_NOT_FOUND), 80.0),
    (Answer(Phase.RESOLVE, fault=Fault.DNS_UNAVAILABLE), 5000.0),
    (Answer(Phase.CONNECT, fault=Fault.UNREACHABLE, detail="Connection refused"), 1.5),
    (Answer(Phase.CONNECT, fault=Fault.TIMEOUT), 9000.0),
]


@pytest.mark.parametrize(("who", "scope"), [(ORG, "org:acme/dev"), (PARTNER, "partner:acme"), (PARTNER, "org:acme/x")])
def test_every_way_not_to_reach_a_server_looks_the_same_to_a_tenant(who, scope):
    seen = [shown_to(record_of(answer, scope, connect_ms=took), principal_of(who)) for answer, took in WAYS]
    for each in seen:
        assert each["timings"].keys() == {"queued_ms", "resolve_ms", "render_ms"}
        assert each["reason"] == "unreachable: The server cannot be reached."
        for own in ("@timestamp", "outcome"):  # the schedule is what it is, and tells a fault from a failure
            del each[own]
    assert all(each == seen[0] for each in seen)


@pytest.mark.parametrize("scope", ["org:acme/dev", "partner:acme", "controller"])
def test_the_controller_sees_everything_as_it_is(scope):
    for answer in [*SAMPLES.values(), *(way for way, _ in WAYS)]:
        record = record_of(answer, scope)
        assert shown_to(record, principal_of(CONTROLLER)) == record


RESTS = "the SMTP record does not work ({}): waiting for its next trial, or for another version"
NO_WORD = "the SMTP record that applies does not work now"


@pytest.mark.parametrize(
    ("outcome", "reason", "scope", "shown"),
    [
        ("config_fault", RESTS.format("egress-denied"), "org:acme/dev", RESTS.format("unreachable")),
        ("config_fault", RESTS.format("host-not-found"), "org:acme/dev", RESTS.format("unreachable")),
        ("config_fault", RESTS.format("credentials-refused"), "org:acme/dev", RESTS.format("credentials-refused")),
        ("config_fault", RESTS.format("egress-denied"), "controller", NO_WORD),
        ("config_fault", "no_from_address: the record names no sender", "controller", NO_WORD),
        ("expired", "expires_at passed before delivery", "controller", "expires_at passed before delivery"),
        ("invalid", "template: no such name", "controller", "template: no such name"),
        ("parked", "relay of the house", "controller", "the reason is known to whom the SMTP record belongs"),
        ("anything", "relay of the house", "controller", "the reason is known to whom the SMTP record belongs"),
        (
            "config_fault", "secret: the password of record 'relay of the house' of controller cannot be read", None,
            "secret: the password of the SMTP record that applies cannot be read now",
        ),
        ("unconfigured", "no SMTP record for org:acme/dev", None, "no SMTP record for org:acme/dev"),
    ],
)  # fmt: skip
def test_reasons_that_no_reply_stands_behind(outcome, reason, scope, shown):
    record = {"outcome": outcome, "reason": reason, **({"config": {"scope": scope, "name": "x"}} if scope else {})}
    assert shown_to(record, principal_of(ORG))["reason"] == shown
    assert shown_to(record, principal_of(CONTROLLER))["reason"] == reason


@pytest.mark.parametrize(
    "odd", [{}, {"reason": None}, {"reason": 7, "reply": "x", "timings": [1]}, {"reason": "egress-denied: x"}]
)
def test_documents_of_others_in_the_index_are_no_error(odd):
    for config in ({}, {"config": {"scope": "controller"}}, {"config": {"scope": 7}}, {"config": "x"}):
        assert isinstance(shown_to({**odd, **config}, principal_of(ORG)), dict)


def test_every_rule_is_somebodys():
    concerned = {rule.end[1] for rule in (*REPLY_RULES, *FAULT_RULES)}
    assert concerned == set(Blame)
