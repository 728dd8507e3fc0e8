"""What replicas tell each other of breakers: its form, its pace, and what is not believed."""

import asyncio
import json
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from schemas.breaker import MAX_BYTES, ChangesMessage, MarkerMessage, PublishedChange, read_breaker_message
from schemas.smtp_config import Scope
from worker.delivery.breakers import BreakerKey, Breakers, Change, Probe, State
from worker.errors import BrokerUnavailable, PublishRefused
from worker.rabbit import breaker_stream, topology
from worker.rabbit.breaker_stream import BreakerStream, change_of, published

T = 1_700_000_000.0
OPEN = Change(BreakerKey(Scope("acme", "dev"), "default", 3), State.OPEN, T, 1, "credentials-refused")


class Exchange:
    """A publisher that keeps what it is given, or refuses it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.refusing: Exception | None = None
        self.asked = 0

    async def publish(self, exchange, routing_key, body, *, content_type, headers):
        self.asked += 1
        assert (exchange, routing_key) == ("", topology.BREAKERS_STREAM)
        if self.refusing:
            raise self.refusing
        self.bodies.append(body)

    @property
    def changes(self) -> list[Change]:
        return [change_of(each) for body in self.bodies for each in read_breaker_message(body).changes]


@pytest.fixture
def exchange():
    return Exchange()


@pytest.fixture
def stream(exchange):
    return BreakerStream("amqp://nowhere", exchange, Breakers().apply, name="test", clock=lambda: T)


@pytest.mark.parametrize(
    "change",
    [
        OPEN,
        replace(OPEN, state=State.PROBING),
        replace(OPEN, state=State.CLOSED, at=T + 0.001, failures=0, reason=""),
        replace(OPEN, key=BreakerKey(Scope(), 'Größe "1" / ü', 2**53)),
    ],
)
def test_a_change_arrives_as_it_was_told(change) -> None:
    message = read_breaker_message(ChangesMessage(changes=(published(change),)).to_json())
    assert [change_of(each) for each in message.changes] == [change]


def test_a_message_says_which_record_and_nothing_secret() -> None:
    (told,) = json.loads(ChangesMessage(changes=(published(OPEN),)).to_json())["changes"]
    assert told == {
        "partner": "acme", "org": "dev", "name": "default", "version": 3,
        "state": "open", "at": T, "failures": 1, "reason": "credentials-refused",
    }  # fmt: skip


FAIR = published(OPEN).model_dump()


def changes(**made_up) -> bytes:
    return json.dumps({"kind": "changes", "changes": [{**FAIR, **made_up}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"kind":"changes"}',
        b'{"kind":"other","changes":[]}',
        b'{"kind":"marker","id":"../../etc"}',
        changes(version=0),
        changes(version=2**63),
        changes(at="NaN"),
        changes(at=-1),
        changes(at="soon"),
        changes(failures=-1),
        changes(failures=10**9),
        changes(state="half-open"),
        changes(reason="535 your password hunter2 is wrong"),
        changes(org="dev", partner=None),
        changes(partner="a/b"),
        changes(name=""),
        changes(name="two\r\nlines"),
        changes(password="hunter2"),
        json.dumps({"kind": "changes", "changes": [FAIR] * 101}).encode(),
        b'{"kind":"changes","changes":[]' + b" " * MAX_BYTES + b"}",
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_ignored_with_a_line_that_does_not_repeat_it(stream, body) -> None:
    with capture_logs() as lines:
        stream._read(body)
    (line,) = lines
    assert line["event"] == "a message in the breakers' stream is ignored"
    assert "hunter2" not in str(line)


def test_a_change_from_the_far_future_changes_nothing(exchange) -> None:
    breakers = Breakers()
    stream = BreakerStream("amqp://nowhere", exchange, breakers.apply, name="test", clock=lambda: T)
    stream._read(changes(at=T + 10**9))
    assert len(breakers) == 0
    stream._read(changes(at=T))
    assert len(breakers) == 1


async def test_of_many_changes_of_one_record_the_last_is_told(stream, exchange) -> None:
    later = [replace(OPEN, at=T + n, failures=n) for n in range(50)]
    for change in [*later[25:], *later[:25]]:
        stream.share(change)
    await stream._publish_some()
    assert exchange.changes == [later[-1]]


async def test_a_thousand_records_go_in_messages_of_a_hundred(stream, exchange) -> None:
    told = [replace(OPEN, key=OPEN.key._replace(name=f"n{n}")) for n in range(1000)]
    for change in told:
        stream.share(change)
    while stream._pending:
        await stream._publish_some()
    assert len(exchange.bodies) == 10
    assert exchange.changes == told


async def test_no_more_than_so_many_messages_a_second_are_published(stream, exchange) -> None:
    began = asyncio.get_running_loop().time()
    publishing = asyncio.ensure_future(stream._publish_on())
    for n in range(100):
        stream.share(replace(OPEN, at=T + n))
        await asyncio.sleep(0.005)
    publishing.cancel()
    elapsed_s = asyncio.get_running_loop().time() - began
    assert 2 <= exchange.asked <= elapsed_s * breaker_stream.PER_SECOND + 2


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), PublishRefused("nack")])
async def test_what_could_not_be_published_is_told_later_unless_something_newer_is(stream, exchange, error) -> None:
    other = replace(OPEN, key=OPEN.key._replace(name="other"))
    exchange.refusing = error
    stream.share(OPEN)
    stream.share(other)
    assert not await stream._publish_some()
    assert str(error) in stream._unsent
    newer = replace(OPEN, at=T + 5)
    stream.share(newer)
    exchange.refusing = None
    assert await stream._publish_some()
    assert sorted(exchange.changes, key=lambda c: c.key.name) == [newer, other]


async def test_what_waits_for_the_broker_is_bounded(stream, monkeypatch) -> None:
    monkeypatch.setattr(breaker_stream, "MAX_KEYS", 50)
    for n in range(500):
        stream.share(replace(OPEN, key=OPEN.key._replace(name=f"n{n}")))
    assert len(stream._pending) == 50


async def test_what_was_not_told_yet_is_told_at_the_end(stream, exchange) -> None:
    stream.share(OPEN)
    await stream.close()
    assert exchange.changes == [OPEN]


async def test_an_end_without_a_broker_does_not_wait_for_one(stream, exchange, monkeypatch) -> None:
    monkeypatch.setattr(breaker_stream, "CLOSE_S", 60.0)  # so that trying again until then is too long
    exchange.refusing = BrokerUnavailable("away")
    stream.share(OPEN)
    async with asyncio.timeout(10):
        await stream.close()


async def test_a_replica_that_knows_only_its_own_breakers_says_so(stream) -> None:
    assert "its own breakers only" in (stream.missing() or "")
    assert not await stream.caught_up(timeout_s=0.01)
    stream._marker = "0" * 32
    stream._read(MarkerMessage(id="f" * 32).to_json())
    assert stream.missing() is not None
    stream._read(MarkerMessage(id="0" * 32).to_json())
    assert stream.missing() is None
    assert await stream.caught_up(timeout_s=0.01)


def test_an_opening_that_was_read_stops_the_record_here(exchange) -> None:
    breakers = Breakers(draw=lambda: 0.0)
    stream = BreakerStream("amqp://nowhere", exchange, breakers.apply, name="test", clock=lambda: T)
    stream._read(ChangesMessage(changes=(PublishedChange(**FAIR),)).to_json())
    assert not isinstance(breakers.check(OPEN.key, T), Probe)
    assert isinstance(breakers.check(OPEN.key, T + 10), Probe)
