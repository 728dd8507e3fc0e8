"""What RabbitMQ and the network do to a worker: alarms, timeouts, faults of a channel, silence."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvloop
from pika.adapters.utils.io_services_utils import _AsyncTransportBase

from tests.integration.conftest import Site
from tests.integration.test_rabbit import drained
from tests.services.rabbitmq import Broker
from tests.services.smtp_sink import SmtpSink
from tests.support.events import make_event
from tests.support.gates import as_, gate
from tests.support.local_worker import LocalWorker, local_worker, mail, submit, submit_surely, until
from tests.support.stalling_proxy import proxied
from worker.api.events import events_router
from worker.api.health import health_router
from worker.api.server import make_application
from worker.backends import RabbitIntake
from worker.delivery.ports import Lane, Phase, Tier
from worker.errors import BrokerUnavailable, PublishRefused
from worker.rabbit import topology
from worker.rabbit.connection import HEARTBEAT_S, Link, open_link
from worker.rabbit.publisher import Publisher, open_publisher
from worker.testing import reply

LANE = topology.lane_queue(Lane.TRANSACTIONAL)
TIERS = [topology.retry_queue(Lane.TRANSACTIONAL, tier) for tier in Tier]
BUSY = reply(Phase.RCPT, 451, "4.3.0 try again later")


ALARMS: dict[str, tuple[Callable[[Broker], object], Callable[[Broker], object], str]] = {
    "memory": (Broker.raise_memory_alarm, Broker.clear_memory_alarm, "low on memory"),
    "disk": (
        lambda broker: broker.ctl("set_disk_free_limit", "100000GB"),
        lambda broker: broker.ctl("set_disk_free_limit", "1MB"),
        "low on disk",
    ),
}


@contextlib.asynccontextmanager
async def alarm(broker: Broker, kind: str) -> AsyncIterator[str]:
    """Raise the alarm, yield RabbitMQ's word for it, and clear it."""
    up, down, words = ALARMS[kind]
    await asyncio.to_thread(up, broker)
    try:
        yield words
    finally:
        await asyncio.to_thread(down, broker)


@contextlib.asynccontextmanager
async def http_of(publisher: Publisher) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP API over a publisher, in process."""
    application = make_application(
        [health_router({"publisher": publisher.missing}), events_router(RabbitIntake(publisher), gate())]
    )
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=as_("admin@controller")
    ) as client:
        yield client


@pytest.mark.parametrize("kind", ALARMS)
async def test_during_an_alarm_mail_goes_on_and_what_must_be_published_waits_for_its_end(
    kind: str, rabbitmq: Broker, amqp_url: str
) -> None:
    async with local_worker(amqp_url, scripts={"later@x.test": [BUSY]}) as worker, http_of(worker.publisher) as http:
        worker.consumer.hold("until the alarm is raised")
        for body in (mail("later@x.test"), b"no event", *(mail(f"{n}@x.test") for n in range(5))):
            await submit(worker.publisher, body)
        async with alarm(rabbitmq, kind):
            worker.consumer.resume()
            await until(lambda: len(worker.accepted()) == 5)
            await until(lambda: not worker.publisher.connected)
            refused = await http.post("/v1/events", content=mail("http@x.test"))
            ready = await http.get("/readyz")
            in_hand = len(worker.consumer._tasks)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["title"] == "Not published"
        assert ready.status_code == 503
        assert ready.json()["parts"]["publisher"] == "RabbitMQ blocks publishing"
        assert in_hand == 2, "only what could not move on is still in hand"
        await until(lambda: worker.publisher.missing() is None and not worker.consumer._tasks)
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.post("/v1/events", content=mail("after@x.test"))).status_code == 202
        await until(lambda: "after@x.test" in worker.accepted())
    assert not any(incoming.redelivered for incoming in worker.delivered)
    assert set(worker.mails().values()) == {1}
    assert "http@x.test" not in worker.mails()
    assert [body for _, body in drained(amqp_url, topology.PARKED_QUEUE)] == [b"no event"]
    assert [len(drained(amqp_url, queue)) for queue in TIERS].count(1) == 1, "it rests, once"
    assert not drained(amqp_url, LANE)


async def test_a_blocked_worker_stops_at_once_and_the_event_that_could_not_move_on_is_not_lost(
    rabbitmq: Broker, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.rabbit.connection.CLOSE_TIMEOUT_S", 60.0)  # who waits for the goodbye is seen to wait
    worker = LocalWorker(amqp_url, scripts={"later@x.test": [BUSY]})
    await worker.start()
    worker.consumer.hold("until the alarm is raised")
    await submit(worker.publisher, mail("later@x.test"))
    async with alarm(rabbitmq, "memory"):
        worker.consumer.resume()
        await until(lambda: not worker.publisher.connected)
        stopping = time.monotonic()
        worker._running.cancel()
        await asyncio.gather(worker._running, return_exceptions=True)
        await worker.publisher.close()
        assert time.monotonic() - stopping < 20, "it waited for the goodbye of a broker that reads nothing"
    assert len(drained(amqp_url, LANE)) == 1


@contextlib.contextmanager
def short_consumer_timeout(broker: Broker) -> Iterator[None]:
    """Deliveries may be held for a second; each channel looks five times a second (once a minute by default)."""
    set_both = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    broker.ctl("eval", set_both.format(1000, 200))
    try:
        yield
    finally:
        broker.ctl("eval", set_both.format(1_800_000, 60_000))


@contextlib.contextmanager
def links_of(worker_module: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Link]]:
    """Every link that a module of worker.rabbit opens from now on."""
    opened: list[Link] = []

    async def noting(url: str, name: str) -> Link:
        opened.append(await open_link(url, name))
        return opened[-1]

    with monkeypatch.context() as patched:
        patched.setattr(f"worker.rabbit.{worker_module}.open_link", noting)
        yield opened


async def test_a_delivery_held_beyond_consumer_timeout_comes_again_and_is_one_mail(
    rabbitmq: Broker, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with short_consumer_timeout(rabbitmq), links_of("consumer", monkeypatch) as links:
        async with local_worker(amqp_url) as worker:
            worker.mailer.gate = asyncio.Event()
            await submit(worker.publisher, mail("slow@x.test"))
            await until(lambda: len(worker.delivered) == 2)
            worker.mailer.gate.set()
            await until(lambda: not worker.consumer._tasks)
    assert "PRECONDITION_FAILED" in links[0].lost.result()
    assert "timeout" in links[0].lost.result()
    assert [incoming.redelivered for incoming in worker.delivered][:2] == [False, True]
    assert worker.mails() == {"slow@x.test": 1}
    assert not worker.accepted()["slow@x.test"].possible_duplicate
    assert not any(drained(amqp_url, queue) for queue in (LANE, *TIERS)), "the redelivery joins what is under way"


async def test_a_channel_closed_for_a_fault_costs_the_consumer_its_link_and_nothing_else(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with links_of("consumer", monkeypatch) as consumers, links_of("publisher", monkeypatch) as publishers:
        async with local_worker(amqp_url) as worker:
            worker.mailer.gate = asyncio.Event()
            await submit(worker.publisher, mail("a@x.test"))
            await until(lambda: len(worker.mailer.sent) == 1)
            consumers[0].channel.basic_ack(4711)
            await until(lambda: len(worker.delivered) == 2)
            worker.mailer.gate.set()
            await until(lambda: not worker.consumer._tasks)
            await submit(worker.publisher, mail("b@x.test"))
            await until(lambda: len(worker.accepted()) == 2)
            assert "unknown delivery tag 4711" in consumers[0].lost.result()
            assert (len(consumers), len(publishers), publishers[0].lost.done()) == (2, 1, False)
    assert worker.mails() == {"a@x.test": 1, "b@x.test": 1}
    assert not any(drained(amqp_url, queue) for queue in (LANE, *TIERS)), "the redelivery joins what is under way"


async def test_a_delivery_that_is_acked_twice_costs_the_link_and_neither_event_nor_mail(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with links_of("consumer", monkeypatch) as links:
        async with local_worker(amqp_url) as worker:
            acks = worker.consumer._acks
            acknowledge = acks._basic_ack

            def twice(tag: int, **how: Any) -> None:
                acknowledge(tag, **how)
                acknowledge(tag, **how)

            monkeypatch.setattr(acks, "_basic_ack", twice)
            for n in range(20):
                await submit(worker.publisher, mail(f"{n}@x.test"))
            await until(lambda: len(worker.accepted()) == 20 and len(links) == 2 and not worker.consumer._tasks)
    assert set(worker.mails().values()) == {1}
    assert not drained(amqp_url, LANE)


async def test_a_channel_closed_under_the_publisher_is_an_error_at_its_caller_and_the_next_publish_works(
    amqp_url: str,
) -> None:
    async with local_worker(amqp_url) as worker:
        with pytest.raises(PublishRefused, match="no exchange"):
            await worker.publisher.publish("no.such.exchange", "k", b"x", content_type=None, headers={})
        await submit(worker.publisher, mail("a@x.test"))
        await until(lambda: len(worker.accepted()) == 1)


def test_a_broker_that_is_killed_with_deliveries_on_their_way_is_missed_at_once(
    rabbitmq: Broker, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As small as this, so that what one call of pika's leaves unread is sure to be something.
    monkeypatch.setattr(_AsyncTransportBase, "_MAX_CONSUME_BYTES", 4096)

    async def lost_s() -> float:
        link = await open_link(amqp_url, "t")
        await link.call(link.channel.queue_declare, "burst")
        for _ in range(500):
            link.channel.basic_publish("", "burst", bytes(2000))
        killed: list[float] = []

        def kill_at_the_first(*_: object) -> None:
            if not killed:
                rabbitmq.kill()  # in the turn of the loop itself: the rest waits in the socket
                killed.append(time.monotonic())

        await link.call(link.channel.basic_consume, "burst", kill_at_the_first, auto_ack=True)
        await link.lost
        return time.monotonic() - killed[0]

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            seconds = runner.run(asyncio.wait_for(lost_s(), 60))
    finally:
        rabbitmq.start()
    assert seconds < 15, "a heartbeat would have told after 35 s at the earliest"


async def test_a_network_that_falls_silent_is_noticed_and_nothing_is_lost_or_mailed_twice(amqp_url: str) -> None:
    with proxied(amqp_url, "heartbeat=2") as (proxy, through):
        async with local_worker(through) as worker, open_publisher(amqp_url) as upstream:
            worker.mailer.gate = asyncio.Event()
            await submit(upstream, mail("in-hand@x.test"))
            await until(lambda: len(worker.mailer.sent) == 1)
            assert proxy.stall() == 2, "the consumer's connection and the publisher's"
            stalled = time.monotonic()
            proxy.flow()
            moving = asyncio.ensure_future(submit_surely(worker.publisher, mail("through@x.test")))
            await submit(upstream, mail("meanwhile@x.test"))
            await until(lambda: len(worker.delivered) >= 2)
            silent_s = time.monotonic() - stalled
            worker.mailer.gate.set()
            await moving
            await until(lambda: len(worker.accepted()) == 3 and not worker.consumer._tasks)
    print(f"first delivery {silent_s:.1f} s after the network fell silent")
    # pika looks every heartbeat + 5 s, and wants one such time without a byte: 14 s at most, and then to connect.
    assert silent_s < 30, "by the worker's own heartbeat it would be 35 s at least"
    assert worker.mails() == {"in-hand@x.test": 1, "meanwhile@x.test": 1, "through@x.test": 1}
    assert not drained(amqp_url, LANE)


def test_a_worker_process_survives_a_silent_network(
    amqp_url: str, opensearch: Any, index_prefix: str, tmp_path: Any
) -> None:
    with proxied(amqp_url, "heartbeat=2") as (proxy, through), SmtpSink(dump=True) as sink:
        site = Site(through, opensearch.url, index_prefix, tmp_path)
        site.env_extra |= {
            "FW_EVENT_SMTP_SERVER_ADDR": "localhost",
            "FW_EVENT_SMTP_SERVER_PORT": str(sink.port),
            "FW_EVENT_SMTP_SERVER_USE_TLS": "false",
            "POSTBOTE_CONTROLLER_FROM_ADDRESS": "noreply@example.com",
        }
        upstream = Site(amqp_url, opensearch.url, index_prefix, tmp_path)
        with site.worker() as running:
            running.wait_for("breakers are shared with other replicas")
            running.wait_for("consuming", count=2)
            upstream.publish(*(make_event(f"a{n}@x.test", id=f"a{n}") for n in range(20)))
            site.reader(running).wait_for(20, outcome="accepted")
            assert proxy.stall() >= 4, "consumer, publisher, outbox and breakers"
            proxy.flow()
            upstream.publish(*(make_event(f"b{n}@x.test", id=f"b{n}") for n in range(20)))
            running.wait_for("consumer lost RabbitMQ")
            running.wait_for("publisher lost RabbitMQ")
            running.wait_for("consuming", count=4)
            records = site.reader(running).wait_for(40, outcome="accepted")
            assert running.terminate() == 0
        assert len(sink.dumped()) == len(records) == 40
    assert not drained(amqp_url, LANE)


async def test_the_heartbeat_is_the_urls_where_it_names_one(amqp_url: str) -> None:
    for url, seconds in ((amqp_url, HEARTBEAT_S), (f"{amqp_url}?heartbeat=7", 7)):
        link = await open_link(url, "t")
        assert link.channel.connection.params.heartbeat == seconds
        await link.close()


async def test_of_several_nodes_one_that_answers_is_enough(amqp_url: str) -> None:
    alive = urlsplit(amqp_url).netloc.rpartition("@")[2]
    for hosts in (f"127.0.0.1:1,{alive}", f"{alive},127.0.0.1:1"):
        link = await open_link(amqp_url.replace(alive, hosts), "t")
        await link.close()


async def test_of_several_nodes_that_are_away_each_is_named_with_its_reason() -> None:
    with pytest.raises(BrokerUnavailable) as caught:
        await open_link("amqp://guest:geheim@127.0.0.1:1,127.0.0.1:2/%2F", "t")
    assert "127.0.0.1:1: [Errno 111] Connection refused" in str(caught.value)
    assert "127.0.0.1:2: [Errno 111] Connection refused" in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("parameter", ["heartbeat=soon", "hartbeat=2", "heartbeat=1&heartbeat=2"])
async def test_a_url_that_makes_no_sense_is_an_error_of_ours(parameter: str) -> None:
    with pytest.raises(BrokerUnavailable, match="URL of RabbitMQ is wrong"):
        await open_link(f"amqp://guest:geheim@127.0.0.1:1/%2F?{parameter}", "t")


async def _cancelled(opening: asyncio.Task[Link]) -> None:
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)


async def _given_up(opening: asyncio.Task[Link]) -> None:
    with pytest.raises(BrokerUnavailable, match="in time"):
        await opening


@pytest.mark.parametrize("ended", [_cancelled, _given_up], ids=["cancelled", "timed out"])
async def test_a_connection_that_is_given_up_before_it_opened_is_closed(
    ended: Callable[[asyncio.Task[Link]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.rabbit.connection.CONNECT_TIMEOUT_S", 0.5)
    connected, closed = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opening = asyncio.ensure_future(open_link(f"amqp://guest:guest@127.0.0.1:{port}/%2F?stack_timeout=60", "t"))
    async with asyncio.timeout(5):
        await connected.wait()
        await ended(opening)
        await closed.wait()
    server.close()
