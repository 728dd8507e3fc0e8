"""One event through the core, over fakes: what the queue is told, what the audit holds, what was sent."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from schemas.smtp_config import Scope, SmtpConfig, TlsMode
from worker.delivery.pipeline import Pipeline, PipelinePorts
from worker.delivery.ports import Ack, Fault, Incoming, Later, Park, Phase, Return, Settlement, Tier
from worker.delivery.progress import read_progress
from worker.delivery.retry import RetryPolicy
from worker.errors import SecretUnreadable, StoreUnavailable
from worker.testing import ACCEPT, FakeMailer, MemoryAudit, StaticConfigs, fault, reply

CONTROLLER = SmtpConfig(host="mx.example.com", port=25, tls=TlsMode.NONE, from_address="noreply@example.com")
ACME = SmtpConfig(
    partner="acme", host="mx.acme.example", port=587, tls=TlsMode.STARTTLS, from_address="relay@acme.example"
)
DEV = SmtpConfig(
    partner="acme", org="dev", host="mx.dev.example", port=465, tls=TlsMode.SSL, from_address="dev@acme.example"
)

BUSY = reply(Phase.RCPT, 451, "4.3.0 try again later")
UNKNOWN = reply(Phase.RCPT, 550, "5.1.1 no such user")
LOST_BEFORE = fault(Phase.BODY, Fault.LOST)
LOST_AFTER = fault(Phase.FINAL, Fault.LOST)
BAD_LOGIN = reply(Phase.AUTH, 535, "5.7.8 authentication failed")


def event(*to: str, id: str = "1", scope: dict[str, str] | None = None, **data: object) -> Incoming:
    body = {
        "specversion": "1.0",
        "id": id,
        "source": "/tests",
        "type": "email.requested.v1",
        "time": "2026-11-20T10:00:00Z",
        "data": {"to": list(to), "subject": "hello", "text": "hi", "scope": scope or {}, **data},
    }
    return Incoming(json.dumps(body).encode(), "application/cloudevents+json")


def ended(settlement: Settlement) -> object:
    """The end, the reason of a parking, or the tier that an event rests in."""
    match settlement:
        case Park():
            return settlement.reason
        case Later():
            return settlement.tier
        case _:
            return settlement


def again(incoming: Incoming, settlement: Settlement, *, redelivered: bool = False) -> Incoming:
    """The same message as it comes back from a tier, from its lane or from the parked queue."""
    assert not isinstance(settlement, Ack)
    return Incoming(incoming.body, incoming.content_type, settlement.headers, incoming.lane, redelivered)


class World:
    """A pipeline over fakes, with the fakes in reach."""

    def __init__(self, scripts: dict | None = None, records: dict | None = None, **policy: float) -> None:
        self.mailer = FakeMailer(scripts or {})
        self.audit = MemoryAudit()
        self.configs = StaticConfigs({Scope(): CONTROLLER} if records is None else records)
        ports = PipelinePorts(self.configs, self.mailer, self.audit, self.audit)
        self.pipeline = Pipeline(
            ports,
            worker_id="w1",
            retry=RetryPolicy(**{"budget_s": 5, "first_wait_s": 0.001, "doubt_wait_s": 0.001, **policy}),
        )

    async def handle(self, incoming: Incoming):
        return await self.pipeline.handle(incoming)


async def test_an_accepted_mail_is_acked_with_one_record_for_each_recipient() -> None:
    world = World()
    assert await world.handle(event("a@example.com", "b@example.com")) == Ack()
    assert world.audit.outcomes() == [("a@example.com", "accepted", 1), ("b@example.com", "accepted", 1)]
    [record, _] = world.audit.records.values()
    assert record.config.scope == "controller"
    assert record.reply.code == 250
    assert record.remote_queue_id == "4F1A22C0DE"
    assert record.message_id
    assert not record.possible_duplicate


@pytest.mark.parametrize(
    ("name", "script", "settlement", "outcomes"),
    [
        ("a refusal is final and not retried", [UNKNOWN], Ack(), ["refused"]),
        (
            "a transient failure is tried again until it is accepted",
            [BUSY, BUSY],
            Ack(),
            ["deferred", "deferred", "accepted"],
        ),
        ("a connection lost before the dot is tried again at once", [LOST_BEFORE], Ack(), ["deferred", "accepted"]),
        (
            "a connection lost after the dot is in doubt, and sent again after a wait",
            [LOST_AFTER],
            Ack(),
            ["in_doubt", "accepted"],
        ),
        ("a second doubt is an operator's", [LOST_AFTER] * 2, "in_doubt", ["in_doubt"] * 2),
        ("a wrong password is not tried again here", [BAD_LOGIN], Tier.TEN_SECONDS, ["config_fault"]),
        ("retries here end with the record's number of them", [BUSY] * 9, Tier.ONE_MINUTE, ["deferred"] * 4),
    ],
)
async def test_what_a_recipient_gets_for_what_the_server_said(name, script, settlement, outcomes) -> None:
    world = World({"a@example.com": script})
    found = await world.handle(event("a@example.com"))
    assert ended(found) == settlement
    assert [o for _, o, _ in world.audit.outcomes()] == outcomes
    assert [a for _, _, a in world.audit.outcomes()] == list(range(1, len(outcomes) + 1))


async def test_only_pending_recipients_are_sent_again() -> None:
    world = World({"b@example.com": [BUSY], "c@example.com": [UNKNOWN]})
    assert await world.handle(event("a@example.com", "b@example.com", "c@example.com")) == Ack()
    assert [s.envelope.recipients for s in world.mailer.sent] == [
        ("a@example.com", "b@example.com", "c@example.com"),
        ("b@example.com",),
    ]
    assert world.audit.outcomes() == [
        ("a@example.com", "accepted", 1),
        ("c@example.com", "refused", 1),
        ("b@example.com", "deferred", 1),
        ("b@example.com", "accepted", 2),
    ]


async def test_a_deferral_says_when_the_next_attempt_is() -> None:
    world = World({"a@example.com": [BUSY]})
    await world.handle(event("a@example.com"))
    deferred = next(r for r in world.audit.records.values() if r.outcome == "deferred")
    assert deferred.next_attempt_at > deferred.timestamp


async def test_a_recipient_limit_costs_no_retry() -> None:
    full = reply(Phase.RCPT, 452, "4.5.3 too many recipients")
    many = [f"r{i}@example.com" for i in range(20)]
    world = World({r: [full] * i for i, r in enumerate(many)})
    assert await world.handle(event(*many)) == Ack()
    assert sum(o == "accepted" for _, o, _ in world.audit.outcomes()) == 20


async def test_a_recipient_limit_that_takes_nobody_is_no_endless_loop() -> None:
    full = reply(Phase.RCPT, 452, "4.5.3 too many recipients")
    world = World({"a@example.com": [full] * 50})
    settlement = await world.handle(event("a@example.com"))
    assert ended(settlement) is Tier.ONE_MINUTE
    assert len(world.mailer.sent) == 4


async def test_only_the_first_lost_connection_is_tried_again_without_a_wait() -> None:
    world = World({"a@example.com": [LOST_BEFORE] * 2}, first_wait_s=0.2)
    began = asyncio.get_running_loop().time()
    assert await world.handle(event("a@example.com")) == Ack()
    assert asyncio.get_running_loop().time() - began >= 0.2
    first, second, _ = world.audit.records.values()
    assert first.next_attempt_at - first.timestamp < timedelta(milliseconds=50)
    assert second.next_attempt_at - second.timestamp > timedelta(milliseconds=150)


async def test_the_same_event_again_sends_nothing() -> None:
    world = World({"b@example.com": [UNKNOWN]})
    for _ in range(3):
        assert await world.handle(event("a@example.com", "b@example.com")) == Ack()
    assert len(world.mailer.sent) == 1


async def test_a_suspect_that_a_later_attempt_refused_is_not_sent_again() -> None:
    world = World({"a@example.com": [BUSY, UNKNOWN]})
    first = event("a@example.com")
    assert await world.handle(first) == Ack()
    assert await world.handle(again(first, Return(), redelivered=True)) == Ack()
    assert len(world.mailer.sent) == 2


async def test_a_copy_that_comes_while_the_first_is_in_flight_shares_its_end() -> None:
    world = World()
    world.mailer.gate = asyncio.Event()
    copies = [asyncio.ensure_future(world.handle(event("a@example.com"))) for _ in range(3)]
    while not world.mailer.sent:
        await asyncio.sleep(0)
    world.mailer.gate.set()
    assert await asyncio.gather(*copies) == [Ack()] * 3
    assert len(world.mailer.sent) == 1


async def test_a_cancelled_delivery_goes_on_and_a_redelivery_joins_it() -> None:
    world = World()
    world.mailer.gate = asyncio.Event()
    first = asyncio.ensure_future(world.handle(event("a@example.com")))
    while not world.mailer.sent:
        await asyncio.sleep(0)
    first.cancel()
    second = asyncio.ensure_future(world.handle(event("a@example.com")))
    await asyncio.sleep(0)
    world.mailer.gate.set()
    assert await second == Ack()
    assert len(world.mailer.sent) == 1


async def test_the_same_id_of_another_tenant_is_another_event() -> None:
    world = World(records={Scope(): CONTROLLER, Scope("acme"): ACME})
    await world.handle(event("a@example.com"))
    await world.handle(event("a@example.com", scope={"partner": "acme"}))
    assert [s.config.host for s in world.mailer.sent] == ["mx.example.com", "mx.acme.example"]


async def test_an_unknown_redelivery_waits_for_a_neighbours_journal_and_is_then_marked() -> None:
    world = World()
    incoming = event("a@example.com")
    suspect = await world.handle(again(incoming, Return(), redelivered=True))
    assert ended(suspect) is Tier.TEN_SECONDS
    assert not world.mailer.sent
    assert await world.handle(again(incoming, suspect)) == Ack()
    assert [r.possible_duplicate for r in world.audit.records.values()] == [True]


async def test_a_known_redelivery_needs_no_wait() -> None:
    world = World()
    await world.handle(event("a@example.com"))
    assert await world.handle(again(event("a@example.com"), Return(), redelivered=True)) == Ack()
    assert len(world.mailer.sent) == 1


async def test_a_redelivery_waits_while_records_are_on_their_way_to_the_audit() -> None:
    world = World()
    incoming = event("a@example.com")
    settlement: Settlement = Return()
    world.audit.complete = False
    for _ in range(3):
        settlement = await world.handle(again(incoming, settlement, redelivered=True))
        assert ended(settlement) is Tier.TEN_SECONDS
    world.audit.complete = True
    assert await world.handle(again(incoming, settlement)) == Ack()


async def test_while_the_audit_cannot_be_asked_new_mail_flows_and_a_redelivery_waits() -> None:
    world = World()
    world.audit.away = True
    assert await world.handle(event("a@example.com")) == Ack()
    redelivered = await world.handle(again(event("b@example.com", id="2"), Return(), redelivered=True))
    assert ended(redelivered) is Tier.TEN_SECONDS
    assert [s.envelope.recipients for s in world.mailer.sent] == [("a@example.com",)]
    assert [r.possible_duplicate for r in world.audit.records.values()] == [False]


async def test_nothing_is_settled_before_the_audit_is_durable() -> None:
    world = World()
    world.audit.hold = asyncio.Event()
    handled = asyncio.ensure_future(world.handle(event("a@example.com")))
    while not world.mailer.sent:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not handled.done()
    world.audit.hold.set()
    assert await handled == Ack()


@pytest.mark.parametrize(
    ("name", "body", "path"),
    [
        ("no JSON", b"\xff", "body"),
        ("a list", b"[]", "body"),
        ("a line break in a subject", event("a@example.com", subject="a\r\nBcc: x@example.com").body, "data.subject"),
        ("a line break in an address", event("a@example.com\r\nRCPT TO:<x@example.com>").body, "data.to.0"),
        ("a misspelt field", event("a@example.com", expire_at="2026-01-01T00:00:00Z").body, "data.expire_at"),
        ("a kind that nobody mails", event("a@example.com").body.replace(b"email.requested.v1", b"nothing.v9"), "type"),
    ],
)
async def test_an_invalid_event_is_recorded_and_parked_with_the_fields_path(name, body, path) -> None:
    world = World()
    settlement = await world.handle(Incoming(body, "application/cloudevents+json"))
    assert isinstance(settlement, Park)
    assert settlement.reason == "invalid"
    assert settlement.detail.startswith(path)
    [record] = world.audit.records.values()
    assert record.outcome == "invalid"
    assert path in record.reason
    assert not world.mailer.sent


async def test_without_any_record_the_event_is_unconfigured_and_parked() -> None:
    world = World(records={})
    settlement = await world.handle(event("a@example.com", scope={"partner": "acme", "org": "dev"}))
    assert isinstance(settlement, Park)
    assert settlement.reason == "unconfigured"
    assert world.audit.outcomes() == [("a@example.com", "unconfigured", 1)]


@pytest.mark.parametrize(
    ("name", "org_enabled", "stored", "host"),
    [
        ("org over partner over controller", True, (CONTROLLER, ACME, DEV), "mx.dev.example"),
        ("the org's record does not count while its feature is off", False, (CONTROLLER, ACME, DEV), "mx.acme.example"),
        ("partner where the org has none", True, (CONTROLLER, ACME), "mx.acme.example"),
        ("controller where nobody else has one", True, (CONTROLLER,), "mx.example.com"),
    ],
)
async def test_the_most_specific_record_sends(name, org_enabled, stored, host) -> None:
    world = World(records={c.scope: c for c in stored})
    world.configs.org_enabled = org_enabled
    await world.handle(event("a@example.com", scope={"partner": "acme", "org": "dev"}))
    assert [s.config.host for s in world.mailer.sent] == [host]


async def test_an_expired_event_is_recorded_and_not_sent() -> None:
    world = World()
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert await world.handle(event("a@example.com", expires_at=past)) == Ack()
    assert world.audit.outcomes() == [("a@example.com", "expired", 1)]
    assert not world.mailer.sent


async def test_not_before_is_waited_for_where_it_is_near_and_rests_in_a_tier_where_it_is_far() -> None:
    world = World(budget_s=5)
    soon = (datetime.now(UTC) + timedelta(seconds=0.05)).isoformat()
    far = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert await world.handle(event("a@example.com", not_before=soon)) == Ack()
    resting = await world.handle(event("a@example.com", id="2", not_before=far))
    assert ended(resting) is Tier.THIRTY_MINUTES
    assert len(world.mailer.sent) == 1


async def test_stopping_returns_what_waits_for_a_retry_with_its_progress() -> None:
    world = World({"a@example.com": [BUSY]}, first_wait_s=3)
    handled = asyncio.ensure_future(world.handle(event("a@example.com")))
    while not world.audit.records:
        await asyncio.sleep(0)
    world.pipeline.stop()
    settlement = await handled
    assert isinstance(settlement, Return)
    assert read_progress(settlement.headers, ["a@example.com"]).attempt == 1
    assert world.audit.outcomes() == [("a@example.com", "deferred", 1)]
    assert await World().handle(again(event("a@example.com"), settlement)) == Ack()


async def test_stopping_also_returns_who_waited_already_when_a_doubt_was_sent_again(monkeypatch) -> None:
    world = World({"a@example.com": [BUSY] * 9, "b@example.com": [LOST_AFTER, *[BUSY] * 9]})
    write = MemoryAudit.write

    async def stop_once_b_is_deferred(audit, records) -> None:
        await write(audit, records)
        if ("b@example.com", "deferred") in [(record.recipient, record.outcome.value) for record in records]:
            world.pipeline.stop()

    monkeypatch.setattr(MemoryAudit, "write", stop_once_b_is_deferred)
    settlement = await world.handle(event("a@example.com", "b@example.com"))
    assert isinstance(settlement, Return)
    everybody = ("a@example.com", "b@example.com")
    assert sorted(read_progress(settlement.headers, everybody).pending) == list(everybody)


async def test_stopping_begins_nothing_new() -> None:
    world = World()
    world.pipeline.stop()
    settlement = await world.handle(event("a@example.com"))
    assert isinstance(settlement, Return)
    assert read_progress(settlement.headers, ["a@example.com"]).attempt == 0
    assert not world.mailer.sent


async def test_an_absent_store_is_waited_for() -> None:
    world = World()
    failures = iter([StoreUnavailable("locked")])

    def absent_once() -> None:
        for failure in failures:
            raise failure

    world.configs.before = absent_once
    assert await world.handle(event("a@example.com")) == Ack()


async def test_an_unreadable_secret_is_a_config_fault_and_no_other_record_is_used_instead() -> None:
    world = World(records={Scope(): CONTROLLER, Scope("acme"): ACME})

    def unreadable() -> None:
        raise SecretUnreadable("partner:acme (default): no key opens it")

    world.configs.before = unreadable
    settlement = await world.handle(event("a@example.com", scope={"partner": "acme"}))
    assert isinstance(settlement, Park)
    assert settlement.reason == "config_fault"
    assert not world.mailer.sent


async def test_the_accepted_keep_their_record_when_the_rest_is_tried_later() -> None:
    world = World({"b@example.com": [BUSY] * 4})
    incoming = event("a@example.com", "b@example.com")
    settlement = await world.handle(incoming)
    assert ended(settlement) is Tier.ONE_MINUTE
    assert ("a@example.com", "accepted", 1) in world.audit.outcomes()
    assert await world.handle(again(incoming, settlement)) == Ack()
    assert world.mailer.sent[-1].envelope.recipients == ("b@example.com",)
    assert world.audit.outcomes()[-1] == ("b@example.com", "accepted", 5)


async def test_a_mail_in_doubt_is_sent_again_with_the_same_bytes_and_marked() -> None:
    world = World({"a@example.com": [LOST_AFTER]})
    assert await world.handle(event("a@example.com", "b@example.com")) == Ack()
    first, second = world.mailer.sent
    assert second.message == first.message
    assert second.envelope.recipients == ("a@example.com",)
    marks = {(r.recipient, r.outcome.value): r.possible_duplicate for r in world.audit.records.values()}
    assert marks == {
        ("a@example.com", "in_doubt"): False,
        ("b@example.com", "accepted"): False,
        ("a@example.com", "accepted"): True,
    }


async def test_hold_parks_a_mail_in_doubt_and_a_redelivery_does_not_send_it() -> None:
    world = World({"a@example.com": [LOST_AFTER]})
    held = event("a@example.com", "b@example.com", on_doubt="hold")
    for _ in range(2):
        settlement = await world.handle(held)
        assert isinstance(settlement, Park)
        assert (settlement.reason, settlement.pending) == ("in_doubt", ("a@example.com",))
    assert len(world.mailer.sent) == 1


async def test_a_large_event_is_worked_on_beside_the_loop_and_sent_alike() -> None:
    world = World()
    assert await world.handle(event("a@example.com", text="x" * 400_000)) == Ack()
    assert len(world.mailer.sent[0].message.content) > 400_000


def test_the_shipped_acceptance_is_a_final_reply() -> None:
    assert ACCEPT.phase is Phase.FINAL
