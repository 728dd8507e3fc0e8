"""Breakers between replicas on a real RabbitMQ, and a wrong password on a real Postfix with SASL."""

import asyncio
import contextlib
import re
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from schemas.breaker import ChangesMessage
from schemas.smtp_config import Scope
from tests.integration.conftest import Site
from tests.support.events import make_event
from tests.support.stalling_proxy import proxied
from worker.delivery.breakers import FIRST_BACKOFF_S, Allowed, BreakerKey, Breakers, Change, State, Waits
from worker.delivery.ports import Answer, Phase, SmtpReply
from worker.rabbit import topology
from worker.rabbit.breaker_stream import BreakerStream, published
from worker.rabbit.connection import open_link
from worker.rabbit.publisher import Publisher

PATIENCE_S = 60
REFUSED = Answer(Phase.AUTH, SmtpReply(535, "5.7.8 Error: authentication failed"))


def key(name: str = "default", version: int = 1) -> BreakerKey:
    return BreakerKey(Scope("acme"), name, version)


class Replica:
    """Breakers and their stream, as one worker process has them."""

    def __init__(self, url: str, publisher: Publisher, name: str) -> None:
        self.breakers = Breakers()
        self.changed = asyncio.Condition()
        self.applied: dict[BreakerKey, float] = {}
        self.stream = BreakerStream(url, publisher, self.apply, name=f"test breakers {name}")
        self._notes: set[asyncio.Task[None]] = set()

    def apply(self, change: Change, now: float) -> bool:
        taken = self.breakers.apply(change, now)
        if taken:
            self.applied[change.key] = time.monotonic()
            note = asyncio.ensure_future(self._note())
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)
        return taken

    async def _note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def knows(self, *keys: BreakerKey) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: all(each in self.applied for each in keys))

    def fails(self, which: BreakerKey) -> None:
        change = self.breakers.learned(which, [REFUSED], time.time())
        assert change
        self.stream.share(change)


@contextlib.asynccontextmanager
async def replicas(url: str, count: int) -> AsyncIterator[list[Replica]]:
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for n in range(count):
            publisher = await Publisher(url, f"test publisher {n}").start(declare=True)
            stack.push_async_callback(publisher.close)
            started.append(Replica(url, publisher, str(n)))
            started[-1].stream.start()
            stack.push_async_callback(started[-1].stream.close)
        for each in started:
            assert await each.stream.caught_up(PATIENCE_S)
            assert each.stream.missing() is None
        yield started


@pytest.mark.alone
async def test_a_replica_learns_of_anothers_open_breaker_within_a_second(amqp_url: str) -> None:
    async with replicas(amqp_url, 2) as (one, other):
        delays = []
        for n in range(30):
            began = time.monotonic()
            one.fails(key(f"n{n}"))
            await other.knows(key(f"n{n}"))
            delays.append(other.applied[key(f"n{n}")] - began)
            assert isinstance(other.breakers.check(key(f"n{n}"), time.time()), Waits)
        print(f"learned after {statistics.median(delays) * 1000:.0f} ms, {max(delays) * 1000:.0f} ms at most")
        *_, third, _, longest = sorted(delays)
        assert third < 1.0, "two of them may meet a pause of the machine"
        assert longest < 10.0
        assert one.applied == {}  # its own changes are no news to it


async def test_a_replica_that_starts_knows_what_rests_before_it_takes_anything(amqp_url: str) -> None:
    async with replicas(amqp_url, 2) as (one, other):
        for n in range(250):
            one.fails(key(f"n{n}"))
        await other.knows(*(key(f"n{n}") for n in range(250)))
        async with replicas(amqp_url, 1) as (restarted,):
            found = [restarted.breakers.check(key(f"n{n}"), time.time()) for n in range(250)]
            assert {type(each) for each in found} == {Waits}


async def test_a_forged_or_malformed_message_is_passed_over_and_what_follows_is_read(amqp_url: str) -> None:
    async with replicas(amqp_url, 2) as (one, other):
        future = Change(key("forged"), State.OPEN, time.time() + 10**8, 1)
        for body in (b"", b"\xff{", b'{"kind":"changes"}', ChangesMessage(changes=(published(future),)).to_json()):
            await one.stream._publish(body)
        one.fails(key("real"))
        await other.knows(key("real"))
        assert other.breakers.check(key("forged"), time.time()) == Allowed()


async def test_replicas_go_on_alone_while_the_connection_is_away_and_tell_afterwards(amqp_url: str) -> None:
    with proxied(amqp_url) as (proxy, through):
        async with replicas(through, 2) as (one, other):
            proxy.cut()
            async with asyncio.timeout(PATIENCE_S):
                while one.stream.missing() is None or other.stream.missing() is None:
                    await asyncio.sleep(0.01)
            one.fails(key())
            assert isinstance(one.breakers.check(key(), time.time()), Waits)
            assert other.breakers.check(key(), time.time()) == Allowed()
            proxy.flow()
            await other.knows(key())
            assert await one.stream.caught_up(PATIENCE_S)
            assert await other.stream.caught_up(PATIENCE_S)


async def test_a_stream_that_is_deleted_is_missed_and_read_again_when_it_is_back(amqp_url: str) -> None:
    async with replicas(amqp_url, 2) as (one, other):
        link = await open_link(amqp_url, "operator")
        await link.call(link.channel.queue_delete, topology.BREAKERS_STREAM)
        async with asyncio.timeout(PATIENCE_S):
            while one.stream.missing() is None or other.stream.missing() is None:
                await asyncio.sleep(0.01)
        (stream,) = [each for each in topology.QUEUES if each.name == topology.BREAKERS_STREAM]
        await link.call(link.channel.queue_declare, stream.name, durable=True, arguments=stream.arguments)
        await link.close()
        one.fails(key())
        await other.knows(key())


# The whole worker, and a server that counts its refusals

ACCOUNT = "partner@partner.test"
EVENTS = 200
WATCHED_S = 30.0
FIRST_BACKOFFS = 3  # in 30 s: the opening, and probes after 10 to 15 s and 20 to 30 s more


@pytest.fixture
def two_workers(site: Site, mailbox: Any) -> Iterator[list[Any]]:
    """Two processes, and the partner's record with a wrong password."""
    site.configure(
        "partner:acme", "localhost", mailbox.port_starttls,
        "--username", ACCOUNT, "--tls", "starttls", "--ca-bundle", str(mailbox.ca_file), password="not the password",
    )  # fmt: skip
    with site.worker() as one, site.worker() as other:
        for each in (one, other):
            each.wait_for("consuming")
        yield [one, other]


def refused_logins(log: str) -> int:
    return len(re.findall(r"SASL \w+ authentication failed", log))


def test_a_wrong_password_costs_a_login_each_backoff_and_replica_and_a_new_version_delivers_everything(
    site: Site, mailbox: Any, two_workers: list[Any]
) -> None:
    before = len(mailbox.log())
    began = time.monotonic()
    site.publish(*(make_event(f"r{n}@example.com", id=f"e{n}", scope={"partner": "acme"}) for n in range(EVENTS)))
    time.sleep(WATCHED_S - (time.monotonic() - began))  # what is measured is a count within this time
    refused = refused_logins(mailbox.log()[before:])
    print(f"{refused} refused logins in {WATCHED_S:.0f} s of two workers for {EVENTS} events")
    assert 1 <= refused <= len(two_workers) * FIRST_BACKOFFS
    site.configure(
        "partner:acme", "localhost", mailbox.port_starttls,
        "--username", ACCOUNT, "--tls", "starttls", "--ca-bundle", str(mailbox.ca_file),
        password=mailbox.users[ACCOUNT],
    )  # fmt: skip
    mended = time.monotonic()
    assert len(mailbox.wait_for(EVENTS, timeout=90)) == EVENTS
    print(f"everything was delivered {time.monotonic() - mended:.1f} s after the record was mended")
    # A probe that had read the old record may be refused yet; the new one is refused by nobody.
    assert refused_logins(mailbox.log()[before:]) <= len(two_workers) * FIRST_BACKOFFS
    reader = site.reader(two_workers[0])
    accepted = reader.wait_for(EVENTS, outcome="accepted")
    faults = reader.wait_for(1, outcome="config_fault")
    assert {record["config"]["version"] for record in faults} == {1}
    assert len({record["recipient"] for record in accepted}) == EVENTS


def test_a_worker_that_restarts_tries_the_environments_record_soon_however_long_it_has_been_refused(
    site: Site, mailbox: Any
) -> None:
    async def refused_for_the_sixth_time() -> None:
        at = time.time() - FIRST_BACKOFF_S  # a sixth backoff takes five minutes at least
        last = Change(BreakerKey(Scope(), "environment", 1), State.OPEN, at, 6, "credentials-refused")
        async with replicas(site.amqp_url, 1) as (other,):
            await other.stream._publish(ChangesMessage(changes=(published(last),)).to_json())

    asyncio.run(refused_for_the_sixth_time())
    site.env_extra |= {
        "POSTBOTE_CONTROLLER_HOST": "localhost",
        "POSTBOTE_CONTROLLER_PORT": str(mailbox.port_starttls),
        "POSTBOTE_CONTROLLER_USERNAME": ACCOUNT,
        "POSTBOTE_CONTROLLER_PASSWORD": mailbox.users[ACCOUNT],
        "POSTBOTE_CONTROLLER_CA_FILE": str(mailbox.ca_file),
    }
    with site.worker() as worker:
        worker.wait_for("consuming")
        site.publish(make_event("back@example.com", id="first after the restart"))
        assert len(mailbox.wait_for(1, timeout=120)) == 1
