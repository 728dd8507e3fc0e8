"""The default and its fallbacks: which record sends a mail, what is recorded, and that nobody is sent to twice."""

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.audit import Outcome
from schemas.smtp_config import Scope, SmtpConfig, TlsMode
from worker.delivery.admission import Admission
from worker.delivery.breakers import BreakerKey, Breakers, Change, State
from worker.delivery.choosing import in_turn
from worker.delivery.lines import Lines
from worker.delivery.outcome import decide
from worker.delivery.pipeline import Pipeline, PipelinePorts
from worker.delivery.ports import (
    Ack,
    Answer,
    Fault,
    Heard,
    Incoming,
    Lane,
    Later,
    MailEnvelope,
    Park,
    Phase,
    RenderedMessage,
    Return,
    ScopedConfigs,
    Settlement,
    TransactionResult,
)
from worker.delivery.progress import Progress, read_progress
from worker.delivery.resolution import Resolved, Unresolved, resolve
from worker.delivery.retry import RetryPolicy
from worker.testing import ACCEPT, FakeMailer, MemoryAudit, StaticConfigs, fault, reply

ACME = Scope("acme")
BAD_LOGIN = reply(Phase.AUTH, 535, "5.7.8 authentication failed")
UNTRUSTED = fault(Phase.TLS, Fault.TLS_UNTRUSTED)
UNREACHABLE = fault(Phase.CONNECT, Fault.UNREACHABLE)
BUSY = reply(Phase.RCPT, 451, "4.3.0 try again later")
UNKNOWN = reply(Phase.RCPT, 550, "5.1.1 no such user")
BAD_SENDER = reply(Phase.MAIL, 553, "5.7.1 sender address not owned by user")
LOST_AFTER = fault(Phase.FINAL, Fault.LOST)
A, B = "a@example.com", "b@example.com"


def record(name: str, scope: Scope = ACME, **fields: object) -> SmtpConfig:
    given = {"host": f"{name}.example", "port": 587, "tls": TlsMode.STARTTLS, "from_address": "relay@acme.example"}
    return SmtpConfig(partner=scope.partner, org=scope.org, display_name=name, retries=1, **{**given, **fields})


FIRST, SECOND, THIRD = record("first"), record("second"), record("third")
CONTROLLER = record("controller", Scope())


def event(*to: str, **data: object) -> Incoming:
    body = {
        "specversion": "1.0",
        "id": "1",
        "source": "/tests",
        "type": "email.requested.v1",
        "time": "2026-11-20T10:00:00Z",
        "data": {"to": list(to), "subject": "hello", "text": "hi", "scope": {"partner": "acme"}, **data},
    }
    return Incoming(json.dumps(body).encode(), "application/cloudevents+json")


def again(incoming: Incoming, settlement: Settlement) -> Incoming:
    assert not isinstance(settlement, Ack)
    return Incoming(incoming.body, incoming.content_type, settlement.headers, incoming.lane)


@dataclass(slots=True)
class Witness(FakeMailer):
    """Remembers of each recipient which record was answered what, in order."""

    told: dict[str, list[tuple[str, Answer]]] = field(default_factory=lambda: defaultdict(list))

    async def send(
        self, config: SmtpConfig, envelope: MailEnvelope, message: RenderedMessage, heard: Heard | None = None
    ) -> TransactionResult:
        result = await FakeMailer.send(self, config, envelope, message, heard)
        for recipient, answer in result.answers.items():
            self.told[recipient].append((config.display_name, answer))
        return result


class World:
    """A pipeline over fakes: a partner's records in their order, and the controller's, which is not for it."""

    def __init__(
        self,
        *records: SmtpConfig,
        hosts: dict | None = None,
        scripts: dict | None = None,
        per_provider: int = 50,
        doubt_wait_s: float = 60,
    ) -> None:
        self.mailer = Witness(scripts or {}, {f"{name}.example": told for name, told in (hosts or {}).items()})
        self.audit = MemoryAudit()
        self.breakers = Breakers(draw=lambda: 0.0)
        self.admission = Admission(50, per_provider)
        first, *fallbacks = records or (FIRST, SECOND, THIRD)
        configs = StaticConfigs({ACME: first, Scope(): CONTROLLER}, fallbacks={ACME: tuple(fallbacks)})
        ports = PipelinePorts(configs, self.mailer, self.audit, self.audit, self.breakers, Lines(self.admission))
        retry = RetryPolicy(budget_s=5, first_wait_s=0.001, doubt_wait_s=doubt_wait_s)
        self.pipeline = Pipeline(ports, worker_id="w1", retry=retry, jitter=lambda: 0.5)

    def become(self, record: SmtpConfig, state: State, *, ago: float = 0.0) -> None:
        """Have another replica say so; an opening of long ago is due for its probe."""
        known = [b.last.at for b in self.breakers._breakers.values()]
        at = max([time.time() - ago, *(last + 0.001 for last in known)])
        assert self.breakers.apply(Change(BreakerKey.of(record), state, at, 1, f"{record.display_name}-refused"), at)

    async def handle(self, incoming: Incoming) -> Settlement:
        return await self.pipeline.handle(incoming)

    def used(self) -> list[str]:
        return [sent.config.display_name for sent in self.mailer.sent]

    def recorded(self) -> list[tuple[str, str, int]]:
        """By which record, with what outcome, at which attempt."""
        found = self.audit.records.values()
        return [(r.config.name if r.config else "", r.outcome.value, r.attempt) for r in found]


@pytest.mark.parametrize(
    ("name", "resting", "hosts", "used", "recorded"),
    [
        ("a default that works sends alone", [], {}, ["first"], [("first", "accepted", 1)]),
        ("while the default rests the first fallback sends", [FIRST], {}, ["second"], [("second", "accepted", 1)]),
        ("a fallback that rests is passed over", [FIRST, SECOND], {}, ["third"], [("third", "accepted", 1)]),
        ("a fallback that rests is no matter while the default works", [SECOND], {}, ["first"], None),
        (
            "the mail that finds the default broken goes on by the fallback at once",
            [],
            {"first": [BAD_LOGIN]},
            ["first", "second"],
            [("first", "config_fault", 1), ("second", "accepted", 2)],
        ),
        (
            "also by the one after that",
            [],
            {"first": [UNTRUSTED], "second": [BAD_LOGIN]},
            ["first", "second", "third"],
            [("first", "config_fault", 1), ("second", "config_fault", 2), ("third", "accepted", 3)],
        ),
        ("a server that is away is waited for as ever", [], {"first": [UNREACHABLE]}, ["first", "first"], None),
        ("a refusal is the mail's and no other record's", [], {"first": [UNKNOWN]}, ["first"], None),
        ("a config fault at MAIL may be the sender's, and is no other record's", [], {"first": [BAD_SENDER]}, ["first"], None),
    ],
)  # fmt: skip
async def test_the_first_record_that_works_sends(name, resting, hosts, used, recorded) -> None:
    world = World(hosts=hosts)
    for each in resting:
        world.become(each, State.OPEN)
    await world.handle(event(A))
    assert world.used() == used
    assert recorded is None or world.recorded() == recorded


async def test_where_all_of_them_rest_the_event_rests_and_is_told_of_the_default() -> None:
    world = World()
    for each in (FIRST, SECOND, THIRD):
        world.become(each, State.OPEN)
    assert isinstance(await world.handle(event(A)), Later)
    assert world.used() == []
    assert world.recorded() == [("first", "config_fault", 1)]


async def test_where_the_default_turns_out_broken_and_the_fallbacks_rest_its_record_says_when_it_is_tried_again() -> (
    None
):
    world = World(hosts={"first": [BAD_LOGIN]})
    for each in (SECOND, THIRD):
        world.become(each, State.OPEN)
    settlement = await world.handle(event(A))
    assert isinstance(settlement, Later)
    assert world.recorded() == [("first", "config_fault", 1)]
    [found] = world.audit.records.values()
    assert (found.next_attempt_at - found.timestamp).total_seconds() == pytest.approx(settlement.wait_s, abs=1)


async def test_a_fallback_that_stops_working_while_mail_stands_in_line_for_it_leaves_it_resting_for_the_default() -> (
    None
):
    world = World(FIRST, SECOND, per_provider=1)
    world.become(FIRST, State.OPEN)
    before = world.admission.try_enter(Scope("other"), (SECOND.host, SECOND.port), Lane.TRANSACTIONAL)
    handled = asyncio.ensure_future(world.handle(event(A)))
    while not len(world.pipeline._ports.lines):
        await asyncio.sleep(0)
    world.become(SECOND, State.OPEN)
    before.leave()
    assert isinstance(await handled, Later)
    assert world.recorded() == [("first", "config_fault", 1)]
    [found] = world.audit.records.values()
    assert "first-refused" in found.reason


async def test_where_all_turn_out_broken_the_event_rests_with_each_of_them_recorded() -> None:
    world = World(hosts={name: [BAD_LOGIN] for name in ("first", "second", "third")})
    settlement = await world.handle(event(A))
    assert isinstance(settlement, Later)
    assert world.recorded() == [(name, "config_fault", n) for n, name in enumerate(("first", "second", "third"), 1)]
    assert isinstance(await world.handle(again(event(A), settlement)), Later)
    assert len(world.used()) == 3  # nobody is asked again before its backoff is over


async def test_a_probe_that_fails_costs_its_mail_no_rest_and_one_that_succeeds_ends_the_fallbacks_turn() -> None:
    world = World(hosts={"first": [BAD_LOGIN]})
    world.become(FIRST, State.OPEN, ago=60)
    assert await world.handle(event(A)) == Ack()
    assert world.used() == ["first", "second"]
    assert await world.handle(event(A, B)) == Ack()
    assert world.used()[2:] == ["second"]  # its backoff has begun anew
    world.breakers._breakers.clear()
    world.become(FIRST, State.OPEN, ago=60)
    assert await world.handle(event("c@example.com")) == Ack()
    assert await world.handle(event("d@example.com")) == Ack()
    assert world.used()[3:] == ["first", "first"]


async def test_of_many_at_once_one_probes_the_default_and_the_others_go_by_the_fallback() -> None:
    world = World()
    world.become(FIRST, State.OPEN, ago=60)
    world.mailer.gate = asyncio.Event()
    to = [f"r{n}@example.com" for n in range(20)]
    handled = [asyncio.ensure_future(world.handle(event(each, subject=each))) for each in to[:1]]
    bodies = [event(each) for each in to[1:]]
    named = [
        Incoming(e.body.replace(b'"id": "1"', b'"id": "%d"' % (n + 2)), e.content_type) for n, e in enumerate(bodies)
    ]
    handled += [asyncio.ensure_future(world.handle(each)) for each in named]
    while len(world.mailer.sent) < len(to):
        await asyncio.sleep(0)
    assert world.admission._providers.under_way(("first.example", 587)) == 1
    assert world.admission._providers.under_way(("second.example", 587)) == len(to) - 1
    world.mailer.gate.set()
    assert await asyncio.gather(*handled) == [Ack()] * len(to)
    assert sorted(world.used()) == ["first", *["second"] * 19]
    assert len(world.admission) == 0


async def test_a_place_is_taken_at_the_server_that_is_used_and_only_there() -> None:
    """The default's cap is full with mail that was under way before it rested: the fallback has room."""
    world = World(per_provider=1)
    full = world.admission.try_enter(Scope("other"), (FIRST.host, FIRST.port), Lane.TRANSACTIONAL)
    world.become(FIRST, State.OPEN)
    assert await world.handle(event(A)) == Ack()
    assert world.used() == ["second"]
    full.leave()


async def test_a_fallback_that_has_no_sender_for_the_event_is_passed_over() -> None:
    world = World(FIRST, record("second", from_address=None), THIRD)
    world.become(FIRST, State.OPEN)
    assert await world.handle(event(A)) == Ack()
    assert world.used() == ["third"]


async def test_only_who_met_the_config_fault_goes_on_and_the_accepted_are_not_sent_to_again() -> None:
    world = World(scripts={B: [BUSY, BAD_LOGIN]})
    assert await world.handle(event(A, B)) == Ack()
    sent = [(s.config.display_name, s.envelope.recipients) for s in world.mailer.sent]
    assert sent == [("first", (A, B)), ("first", (B,)), ("second", (B,))]


async def test_whoever_is_in_doubt_waits_for_the_record_whose_server_may_have_the_mail() -> None:
    world = World(hosts={"second": [LOST_AFTER]})
    world.become(FIRST, State.OPEN)
    doubtful = await world.handle(event(A))
    assert isinstance(doubtful, Later)
    assert read_progress(doubtful.headers, [A]).doubtful_by == "second"
    world.become(FIRST, State.CLOSED)
    world.become(SECOND, State.OPEN)
    resting = await world.handle(again(event(A), doubtful))
    assert isinstance(resting, Later)
    assert world.used() == ["second"]
    world.become(SECOND, State.CLOSED)
    assert await world.handle(again(event(A), resting)) == Ack()
    assert world.used() == ["second", "second"]


@pytest.mark.parametrize("wait_s", [0.001, 60], ids=["in process", "in a tier"])
async def test_a_doubt_that_is_followed_by_a_config_fault_stays_with_its_record(wait_s) -> None:
    world = World(hosts={"first": [LOST_AFTER, BAD_LOGIN]}, doubt_wait_s=wait_s)
    settlement = await world.handle(event(A))
    for _ in range(3):
        assert isinstance(settlement, Later)
        settlement = await world.handle(again(event(A), settlement))
    assert world.used() == ["first", "first"]


async def test_whoever_waits_for_something_else_is_not_forgotten_when_another_meets_a_config_fault() -> None:
    world = World(scripts={A: [BUSY] * 9, B: [BAD_LOGIN]})
    settlement = await world.handle(event(A, B))
    assert isinstance(settlement, Later)
    assert set(read_progress(settlement.headers, [A, B]).pending) == {A, B}


async def test_stopping_between_two_records_returns_the_mail_for_whoever_is_left(monkeypatch) -> None:
    world = World(hosts={"first": [BAD_LOGIN]})
    write = MemoryAudit.write

    async def stop_at_the_fault(audit, records) -> None:
        await write(audit, records)
        world.pipeline.stop()

    monkeypatch.setattr(MemoryAudit, "write", stop_at_the_fault)
    settlement = await world.handle(event(A, B))
    assert isinstance(settlement, Return)
    progress = read_progress(settlement.headers, [A, B])
    assert (progress.attempt, progress.pending) == (1, (A, B))
    assert world.used() == ["first"]


# As decisions


def test_a_fallback_of_another_scope_is_never_a_candidate() -> None:
    stored = ScopedConfigs(
        {ACME: FIRST, Scope(): CONTROLLER}, fallbacks={ACME: (SECOND, CONTROLLER), Scope(): (THIRD,)}
    )
    assert resolve(ACME, stored) == Resolved(FIRST, (Scope(),), (SECOND,))


def test_without_a_default_there_are_no_fallbacks() -> None:
    assert resolve(ACME, ScopedConfigs({}, fallbacks={ACME: (SECOND,)})) == Unresolved((ACME, Scope()))


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("nobody in doubt", Progress(pending=(A,)), (FIRST, (SECOND, THIRD))),
        ("in doubt by the default", Progress(pending=(A,), doubtful=(A,), doubtful_by="first"), (FIRST, ())),
        ("in doubt by a fallback", Progress(pending=(A, B), doubtful=(B,), doubtful_by="third"), (THIRD, ())),
        ("in doubt by one that is gone", Progress(pending=(A,), doubtful=(A,), doubtful_by="gone"), (FIRST, ())),
        ("in doubt, before there were fallbacks", Progress(pending=(A,), doubtful=(A,)), (FIRST, ())),
        ("in doubt, but held", Progress(pending=(A,), doubtful=(B,), held=(B,), doubtful_by="third"), (FIRST, (SECOND, THIRD))),
    ],
)  # fmt: skip
def test_a_doubt_decides_which_records_may_send(name, progress, expected) -> None:
    assert in_turn(Resolved(FIRST, (), (SECOND, THIRD)), progress) == expected


def accounted_for(settlement: Settlement, world: World) -> set[str]:
    """Who is still to be sent to, is an operator's, or has an end."""
    left = read_progress(getattr(settlement, "headers", {}), [A, B])
    ends = {r.recipient for r in world.audit.records.values() if r.outcome in {Outcome.ACCEPTED, Outcome.REFUSED}}
    return ends | set(left.pending or ()) | set(left.held)


ANSWERS = st.sampled_from([BAD_LOGIN, UNTRUSTED, UNREACHABLE, BUSY, UNKNOWN, BAD_SENDER, LOST_AFTER, ACCEPT])
STATES = st.sampled_from([None, (State.OPEN, 0.0), (State.OPEN, 60.0), (State.PROBING, 0.0), (State.CLOSED, 0.0)])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), count=st.integers(1, 3))
def test_a_mail_goes_through_one_server_unless_the_others_answers_prove_that_they_have_nothing(data, count) -> None:
    records = (FIRST, SECOND, THIRD)[:count]
    script = st.lists(ANSWERS, max_size=4)
    doubt_wait_s = data.draw(st.sampled_from([0.001, 60]))
    hosts = {each.display_name: data.draw(script) for each in records}
    scripts = {each: data.draw(script) for each in (A, B)}

    async def play() -> World:
        world = World(*records, hosts=hosts, scripts=scripts, doubt_wait_s=doubt_wait_s)
        incoming = event(A, B)
        for _ in range(5):
            for each in records:
                state = data.draw(STATES)
                if state is not None:
                    world.breakers._breakers.pop((ACME, each.display_name), None)
                    world.breakers.apply(
                        Change(BreakerKey.of(each), state[0], time.time() - state[1], 1, "x"), time.time()
                    )
            settlement = await world.handle(incoming)
            assert accounted_for(settlement, world) == {A, B}
            if not isinstance(settlement, Later):
                assert isinstance(settlement, Ack | Park)
                break
            incoming = again(event(A, B), settlement)
        return world

    world = asyncio.run(play())
    assert {sent.config.scope for sent in world.mailer.sent} <= {ACME}
    for told in world.mailer.told.values():
        outcomes = [(name, decide(answer).outcome) for name, answer in told]
        for n, (name, _) in enumerate(outcomes):
            assert Outcome.ACCEPTED not in [outcome for _, outcome in outcomes[:n]]
            assert Outcome.IN_DOUBT not in [outcome for other, outcome in outcomes[:n] if other != name]
    by_attempt = {(r.recipient, r.attempt): r.config for r in world.audit.records.values() if r.outcome == "accepted"}
    for (recipient, _), used in by_attempt.items():
        assert used.name == world.mailer.told[recipient][-1][0]
