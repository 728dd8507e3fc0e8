"""Copies of one event in two workers: two pipelines that share an audit and a book of claims, and mail apart."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.audit import AuditRecord
from schemas.cloudevents import parse_event
from schemas.smtp_config import Scope
from tests.unit.delivery.test_pipeline import (
    BAD_LOGIN,
    BUSY,
    CONTROLLER,
    LOST_AFTER,
    LOST_BEFORE,
    UNKNOWN,
    again,
    ended,
    event,
)
from worker.delivery.claims import EventKey, Unclaimed
from worker.delivery.pipeline import Pipeline, PipelinePorts
from worker.delivery.ports import Ack, Incoming, Later, Return, Tier
from worker.delivery.progress import SUSPECT, Progress, read_progress
from worker.delivery.retry import RetryPolicy
from worker.embedded.claims import ClaimBook
from worker.errors import AuditUnavailable
from worker.testing import ACCEPT, FakeClaims, FakeMailer, MemoryAudit, StaticConfigs

SUSPECTED = Progress(suspect=True)


@dataclass(slots=True)
class Mailer(FakeMailer):
    """Calls `at_sending`, where one is set, with every transaction."""

    at_sending: Callable[[], None] | None = None

    async def send(self, *arguments):
        if self.at_sending:
            self.at_sending()
        return await FakeMailer.send(self, *arguments)


class Worker:
    """One worker's pipeline; `mails` counts its transactions."""

    def __init__(self, name: str, audit, book: ClaimBook, scripts: Mapping | None = None) -> None:
        self.mailer = Mailer(scripts or {})
        self.claims = FakeClaims(name, book)
        ports = PipelinePorts(StaticConfigs({Scope(): CONTROLLER}), self.mailer, audit, audit, claims=self.claims)
        self.pipeline = Pipeline(ports, worker_id=name, retry=RetryPolicy(5, 0.001, 0.001))

    async def handle(self, incoming: Incoming):
        return await self.pipeline.handle(incoming)

    @property
    def mails(self) -> int:
        return len(self.mailer.sent)


class Pair:
    """Two workers over one audit."""

    def __init__(self, audit: MemoryAudit | None = None, scripts: Mapping | None = None) -> None:
        self.now = 0.0
        self.audit = audit or MemoryAudit()
        self.book = ClaimBook(clock=lambda: self.now)
        self.one = Worker("w1", self.audit, self.book, scripts)
        self.two = Worker("w2", self.audit, self.book, scripts)

    @property
    def mails(self) -> int:
        return self.one.mails + self.two.mails


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def suspect(incoming: Incoming, *, redelivered: bool = False) -> Incoming:
    """A copy that has rested as a suspect."""
    return again(incoming, Return(SUSPECTED.headers()), redelivered=redelivered)


def key_of(incoming: Incoming) -> EventKey:
    return EventKey.of(parse_event(incoming.body, incoming.content_type, incoming.headers))


MAIL = event("a@example.com")
TWO = event("a@example.com", "b@example.com")


@pytest.mark.parametrize(
    ("name", "copy", "redelivered"),
    [
        ("both rested", MAIL, (False, False)),
        ("both rested, and one was in a killed worker's hands since", MAIL, (True, False)),
        ("both rested, and both were in killed workers' hands since", MAIL, (True, True)),
        ("with several recipients", TWO, (False, False)),
        ("that ask to be held in doubt", event("a@example.com", on_doubt="hold"), (False, False)),
    ],
)
async def test_of_two_copies_that_come_back_together_one_is_sent_and_the_other_finds_its_record(
    name, copy, redelivered
) -> None:
    pair = Pair()
    first, second = (suspect(copy, redelivered=each) for each in redelivered)
    sending = pair.one.mailer.gate = pair.two.mailer.gate = asyncio.Event()
    both = [asyncio.create_task(pair.one.handle(first)), asyncio.create_task(pair.two.handle(second))]
    await until(lambda: pair.mails + sum(task.done() for task in both) == len(both))
    sending.set()
    found = await asyncio.gather(*both)
    assert pair.mails == 1
    assert [ended(each) for each in found] == [Ack(), Tier.TEN_SECONDS]
    assert await pair.two.handle(again(copy, found[1])) == Ack()
    assert pair.mails == 1
    assert pair.book.held == {}


async def test_the_other_copy_rests_uncharged_and_shortly_however_often() -> None:
    pair = Pair()
    pair.one.mailer.gate = asyncio.Event()
    sending = asyncio.create_task(pair.one.handle(suspect(MAIL)))
    await until(lambda: pair.one.mails)
    settlement = Return(SUSPECTED.headers())
    for _ in range(12):
        settlement = await pair.two.handle(again(MAIL, settlement))
        assert ended(settlement) is Tier.TEN_SECONDS
    carried = read_progress(settlement.headers, ["a@example.com"])
    assert (carried.attempt, carried.charged, carried.suspect) == (0, 0, True)
    pair.one.mailer.gate.set()
    assert await sending == Ack()
    assert await pair.two.handle(again(MAIL, settlement)) == Ack()
    assert (pair.one.mails, pair.two.mails) == (1, 0)


@dataclass(slots=True)
class SlowlyAnswering(MemoryAudit):
    """Answers lookups only when `answer` is set, by what was known when it was asked."""

    answer: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        self.asked += 1
        known = await MemoryAudit.recorded(self, ids)
        await self.answer.wait()
        return known


async def test_what_was_recorded_between_the_look_and_the_claim_is_found() -> None:
    slow = SlowlyAnswering()
    pair = Pair()
    pair.two.pipeline = Pipeline(
        PipelinePorts(StaticConfigs({Scope(): CONTROLLER}), pair.two.mailer, slow, slow, claims=pair.two.claims),
        worker_id="w2",
        retry=RetryPolicy(5, 0.001, 0.001),
    )
    slow.records = pair.audit.records
    looking = asyncio.create_task(pair.two.handle(suspect(MAIL)))
    await until(lambda: slow.asked)
    assert await pair.one.handle(suspect(MAIL)) == Ack()
    slow.answer.set()
    assert await looking == Ack()
    assert (pair.one.mails, pair.two.mails) == (1, 0)
    assert pair.two.claims.released == [key_of(MAIL)]


@dataclass(slots=True)
class Outbox(MemoryAudit):
    """Takes records that nobody finds until they are shipped."""

    outbox: list[AuditRecord] = field(default_factory=list)
    fails_now: bool = False

    async def write(self, records: Sequence[AuditRecord]) -> None:
        self.outbox.extend(records)

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        if self.outbox and self.fails_now:
            raise AuditUnavailable("away")
        return await MemoryAudit.recorded(self, ids)

    async def ship(self) -> None:
        await MemoryAudit.write(self, self.outbox)


@pytest.mark.parametrize("fails", [False, True], ids=["not found", "not answered"])
async def test_a_claim_is_not_released_before_what_was_recorded_is_found(fails) -> None:
    audit = Outbox(fails_now=fails)
    pair = Pair(audit)
    assert await pair.one.handle(suspect(MAIL)) == Ack()
    assert pair.one.claims.released == []
    assert pair.one.claims.left == [key_of(MAIL)]
    audit.fails_now = False
    pair.now += 59
    waiting = await pair.two.handle(suspect(MAIL))
    assert ended(waiting) is Tier.TEN_SECONDS
    await audit.ship()
    pair.now += 7
    assert await pair.two.handle(again(MAIL, waiting)) == Ack()
    assert pair.mails == 1


async def test_a_dead_workers_event_waits_for_a_minute_and_not_longer() -> None:
    pair = Pair()
    await pair.one.claims.claim(key_of(MAIL))
    pair.one.claims.leave(key_of(MAIL))  # dead: nobody renews it
    settlement, began = Return(SUSPECTED.headers()), pair.now
    while isinstance(settlement := await pair.two.handle(again(MAIL, settlement)), Later):
        pair.now += settlement.wait_s
    assert settlement == Ack()
    assert 65 <= pair.now - began <= 75
    assert pair.two.mails == 1


async def test_a_worker_that_is_back_goes_on_with_its_own_at_once() -> None:
    pair = Pair()
    await pair.one.claims.claim(key_of(MAIL))
    back = Worker("w1", pair.audit, pair.book)
    assert await back.handle(suspect(MAIL)) == Ack()
    assert back.mails == 1


async def test_while_nobody_can_say_whose_it_is_a_suspect_rests_and_other_mail_flows() -> None:
    pair = Pair()
    pair.one.claims.away = True
    resting = await pair.one.handle(suspect(MAIL))
    assert ended(resting) is Tier.TEN_SECONDS
    assert await pair.one.handle(event("b@example.com", id="2")) == Ack()
    pair.one.claims.away = False
    assert await pair.one.handle(again(MAIL, resting)) == Ack()
    assert pair.one.mails == 2


async def test_whoever_lost_the_claim_before_sending_sends_nothing() -> None:
    pair = Pair()
    pair.one.claims.lost.add(key_of(MAIL))
    settlement = await pair.one.handle(suspect(MAIL))
    assert isinstance(settlement, Return)
    assert settlement.headers[SUSPECT] == 1
    assert pair.mails == 0


async def test_whoever_lost_the_claim_between_two_attempts_makes_no_further_one() -> None:
    pair = Pair(scripts={"a@example.com": [BUSY] * 3})
    worker = pair.one
    worker.mailer.at_sending = lambda: worker.claims.lost.add(key_of(MAIL))
    settlement = await worker.handle(suspect(MAIL))
    assert isinstance(settlement, Return)
    assert settlement.headers[SUSPECT] == 1
    assert worker.mails == 1


async def test_a_delivery_that_is_broken_off_lets_its_claim_end_by_itself() -> None:
    pair = Pair()
    pair.one.mailer.gate = asyncio.Event()
    sending = asyncio.create_task(pair.one.handle(suspect(MAIL)))
    await until(lambda: pair.one.mails)
    pair.one.pipeline.abort()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert (pair.one.claims.released, pair.one.claims.left) == ([], [key_of(MAIL)])


@pytest.mark.parametrize(
    ("name", "script", "released"),
    [
        ("accepted", [ACCEPT], True),
        ("refused", [UNKNOWN], True),
        ("deferred to a later round", [BUSY] * 9, True),
        ("in doubt", [LOST_AFTER] * 2, True),
        ("resting until the record works", [BAD_LOGIN], True),
    ],
)
async def test_a_delivery_that_ended_gives_its_claim_back(name, script, released) -> None:
    pair = Pair(scripts={"a@example.com": script})
    await pair.one.handle(suspect(MAIL))
    assert (pair.one.claims.released, pair.one.claims.left) == ([key_of(MAIL)], [])
    assert pair.book.held == {}


async def test_a_suspect_that_is_recorded_or_rests_for_its_first_time_claims_nothing() -> None:
    pair = Pair()
    assert await pair.one.handle(MAIL) == Ack()
    assert await pair.two.handle(suspect(MAIL)) == Ack()
    other = event("b@example.com", id="2")
    assert ended(await pair.two.handle(again(other, Return(), redelivered=True))) is Tier.TEN_SECONDS
    assert pair.one.claims.asked == pair.two.claims.asked == []


ANSWERS = st.sampled_from([ACCEPT, BUSY, UNKNOWN, LOST_BEFORE, LOST_AFTER, BAD_LOGIN])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ANSWERS, max_size=8), st.lists(ANSWERS, max_size=8), st.booleans(), st.integers(min_value=1, max_value=4)
)
def test_an_event_without_suspicion_claims_nothing(first, second, away, rounds) -> None:
    async def deliver() -> None:
        pair = Pair(scripts={"a@example.com": first, "b@example.com": second})
        pair.audit.away = away
        settlement = Return()
        for _ in range(rounds):
            if isinstance(settlement, Ack):
                return
            settlement = await pair.one.handle(again(TWO, settlement))
        claims = pair.one.claims
        assert (claims.asked, claims.released, claims.left) == ([], [], [])

    asyncio.run(deliver())


async def test_without_claims_of_others_everything_is_granted() -> None:
    alone, key = Unclaimed(), key_of(MAIL)
    assert await alone.claim(key)
    alone.leave(key)
    await alone.release(key)
    assert alone.holds(key)
