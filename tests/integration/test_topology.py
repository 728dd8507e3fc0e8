"""The topology on a real RabbitMQ: declared, compared, shown; nothing differs in silence."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pika
import pytest

from tests.services.rabbitmq import Broker, vhost_of
from tests.support.process import run_postbote
from worker.delivery.ports import Lane, Tier
from worker.errors import TopologyMismatch
from worker.rabbit import topology
from worker.rabbit.connection import Link, open_link
from worker.rabbit.declaring import Provision, check, declare, look, prepare

LANE = topology.lane_queue(Lane.TRANSACTIONAL)
TIER = topology.retry_queue(Lane.BULK, Tier.TEN_SECONDS)
PARKED, OUTBOX = topology.PARKED_QUEUE, topology.AUDIT_OUTBOX_QUEUE
CONFIG, BREAKERS = topology.CONFIG_STREAM, topology.BREAKERS_STREAM
BY_NAME = {queue.name: queue for queue in topology.QUEUES}
ABSENT = object()

# A queue, an argument, and what an earlier declaration had in its place.
DIFFERENCES: list[tuple[str, str, Any]] = [
    (LANE, "x-overflow", ABSENT),
    (LANE, "x-overflow", "drop-head"),
    (LANE, "x-dead-letter-strategy", ABSENT),
    (LANE, "x-dead-letter-strategy", "at-most-once"),
    (LANE, "x-dead-letter-routing-key", ABSENT),
    (LANE, "x-dead-letter-routing-key", "elsewhere"),
    (LANE, "x-dead-letter-exchange", "elsewhere"),
    (LANE, "x-delivery-limit", ABSENT),
    (LANE, "x-delivery-limit", 20),
    (LANE, "x-message-ttl", 60_000),
    (LANE, "x-max-length", 1000),
    (LANE, "x-expires", 60_000),
    (LANE, "x-single-active-consumer", True),
    (TIER, "x-overflow", ABSENT),
    (TIER, "x-overflow", "drop-head"),
    (TIER, "x-dead-letter-strategy", ABSENT),
    (TIER, "x-dead-letter-strategy", "at-most-once"),
    (TIER, "x-message-ttl", ABSENT),
    (TIER, "x-message-ttl", 20_000),
    (TIER, "x-dead-letter-routing-key", LANE),
    (TIER, "x-delivery-limit", 3),
    (TIER, "x-max-length", 1000),
    (PARKED, "x-overflow", ABSENT),
    (PARKED, "x-delivery-limit", 20),
    (PARKED, "x-message-ttl", 60_000),
    (OUTBOX, "x-delivery-limit", ABSENT),
    (OUTBOX, "x-overflow", "drop-head"),
    (OUTBOX, "x-max-length-bytes", 1_000_000),
    (CONFIG, "x-max-length-bytes", 1_000_000),
    (CONFIG, "x-max-age", "7D"),
    (CONFIG, "x-stream-max-segment-size-bytes", ABSENT),
    (BREAKERS, "x-max-age", ABSENT),
    (BREAKERS, "x-max-age", "24h"),
    (BREAKERS, "x-queue-type", "quorum"),
]


@contextlib.asynccontextmanager
async def linked(url: str) -> AsyncIterator[Link]:
    link = await open_link(url, "test topology")
    try:
        yield link
    finally:
        await link.close()


def declared_before(url: str, name: str, arguments: dict[str, Any], **options: Any) -> pika.BlockingConnection:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().queue_declare(name, arguments=arguments, **{"durable": True, **options})
    return connection


def changed(name: str, argument: str, value: Any) -> dict[str, Any]:
    if argument == "x-queue-type":
        return {argument: value}
    arguments = {**BY_NAME[name].arguments, argument: value}
    return {key: each for key, each in arguments.items() if each is not ABSENT}


@pytest.mark.parametrize("provision", [Provision.DECLARE, Provision.CHECK])
@pytest.mark.parametrize(
    ("name", "argument", "value"),
    DIFFERENCES,
    ids=[f"{n}-{a}-{'absent' if v is ABSENT else v}" for n, a, v in DIFFERENCES],
)
async def test_a_queue_with_another_argument_is_an_error_that_names_both(
    amqp_url: str, name: str, argument: str, value: Any, provision: Provision
) -> None:
    declared_before(amqp_url, name, changed(name, argument, value)).close()
    async with linked(amqp_url) as link:
        with pytest.raises(TopologyMismatch) as caught:
            await prepare(link, provision)
        words = str(caught.value)
        assert f"queue {name}: " in words
        if argument != "x-queue-type":  # a queue of another type differs in several, and one of them is named
            assert argument in words
            assert (
                "is not set" if value is ABSENT else f"is '{str(value).lower() if value is True else value}'"
            ) in words
        assert "delete it, then run `postbote topology declare`" in words
        assert not link.lost.done(), "a mismatch must not end the connection that found it"


async def test_a_classic_queue_in_the_place_of_a_lane_is_an_error(amqp_url: str) -> None:
    declared_before(amqp_url, LANE, {}).close()
    async with linked(amqp_url) as link:
        with pytest.raises(TopologyMismatch, match=f"queue {LANE}: "):
            await declare(link)


async def test_a_queue_of_another_connection_alone_is_an_error(amqp_url: str) -> None:
    owner = declared_before(amqp_url, PARKED, {}, durable=False, exclusive=True)
    async with linked(amqp_url) as link:
        with pytest.raises(TopologyMismatch, match=r"postbote\.parked belongs to another connection"):
            await declare(link)
    owner.close()


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        ("direct", {"alternate-exchange": topology.UNROUTED_EXCHANGE}, "type is 'direct' and must be 'topic'"),
        ("topic", {}, "alternate-exchange is not set and must be 'postbote.unrouted'"),
        ("topic", {"alternate-exchange": "other"}, "alternate-exchange is 'other' and must be 'postbote.unrouted'"),
    ],
)
async def test_an_exchange_that_differs_is_an_error(
    amqp_url: str, kind: str, arguments: dict[str, Any], says: str
) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    connection.channel().exchange_declare(topology.EVENTS_EXCHANGE, kind, durable=True, arguments=arguments)
    connection.close()
    async with linked(amqp_url) as link:
        with pytest.raises(TopologyMismatch) as caught:
            await declare(link)
    assert f"exchange {topology.EVENTS_EXCHANGE}: {says}" in str(caught.value)


async def test_several_differences_are_one_error(amqp_url: str) -> None:
    declared_before(amqp_url, PARKED, {}).close()
    declared_before(amqp_url, TIER, {}).close()
    async with linked(amqp_url) as link:
        with pytest.raises(TopologyMismatch) as caught:
            await declare(link)
    assert f"queue {PARKED}: " in str(caught.value)
    assert f"queue {TIER}: " in str(caught.value)


async def test_what_is_missing_is_an_error_of_the_check_which_makes_nothing(rabbitmq: Broker, amqp_url: str) -> None:
    async with linked(amqp_url) as link:
        with pytest.raises(TopologyMismatch, match=r"missing: postbote\.unrouted, .* and 15 more"):
            await check(link)
        assert rabbitmq.queues(amqp_url) == []
        await declare(link)
        await check(link)
        await link.call(link.channel.queue_delete, TIER)
        with pytest.raises(TopologyMismatch) as caught:
            await check(link)
    assert str(caught.value) == f"missing: {TIER} (run `postbote topology declare`)"


async def test_a_user_without_rights_gets_told_which(rabbitmq: Broker, amqp_url: str) -> None:
    name = vhost_of(amqp_url)
    rabbitmq.api("PUT", f"users/{name}", {"password": "limited", "tags": ""})
    rabbitmq.api("PUT", f"permissions/{name}/{name}", {"configure": "", "write": ".*", "read": ".*"})
    async with linked(amqp_url) as link:
        await declare(link)
    async with linked(amqp_url.replace("guest:guest", f"{name}:limited")) as link:
        assert all(seen.exists for seen in await look(link))
        with pytest.raises(TopologyMismatch, match="grant this user configure, write and read"):
            await check(link)
    rabbitmq.api("DELETE", f"users/{name}")


async def test_looking_counts_what_waits_and_who_consumes(amqp_url: str) -> None:
    async with linked(amqp_url) as link:
        await declare(link)
        counted = asyncio.Event()
        await link.call(link.channel.confirm_delivery, lambda _confirmed: counted.set())
        link.channel.basic_publish("", PARKED, b"x")
        async with asyncio.timeout(10):
            await counted.wait()
        await link.call(link.channel.basic_consume, LANE, lambda *_: None)
        async with asyncio.timeout(10):
            while not (found := {seen.name: seen for seen in await look(link)})[PARKED].messages:
                continue  # a quorum queue counts what it confirmed a moment later
    assert (found[PARKED].messages, found[PARKED].consumers) == (1, 0)
    assert (found[LANE].messages, found[LANE].consumers) == (0, 1)


async def test_two_processes_may_declare_at_once(amqp_url: str) -> None:
    command = ("topology", "declare")
    env = {"POSTBOTE_AMQP_URL": amqp_url}
    done = await asyncio.gather(*(asyncio.to_thread(run_postbote, *command, env=env) for _ in range(2)))
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    async with linked(amqp_url) as link:
        await check(link)


async def test_many_connections_may_declare_at_once(amqp_url: str) -> None:
    async def one() -> None:
        async with linked(amqp_url) as link:
            await declare(link)
            await check(link)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(one())


def test_the_commands_declare_check_and_show(amqp_url: str) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        done = run_postbote("topology", *arguments, env={"POSTBOTE_AMQP_URL": amqp_url})
        return done.returncode, done.stdout, done.stderr

    code, drawn, told = run("show")
    assert (code, drawn.count("MISSING"), told.strip()) == (1, 18, "18 missing: run `postbote topology declare`")
    assert run("check")[0] == 1
    code, made, _ = run("declare", "--json")
    assert (code, len(json.loads(made)["made"]), json.loads(made)["there"]) == (0, 18, [])
    code, told, _ = run("declare")
    assert (code, told.splitlines()[-1]) == (0, "0 made, 18 were there with the right arguments")
    assert run("check")[0] == 0
    code, drawn, _ = run("show")
    assert code == 0
    for queue in topology.QUEUES:
        assert f"{queue.name}  " in drawn
    code, shown, _ = run("show", "--json")
    document = json.loads(shown)
    assert (code, document["complete"], len(document["queues"])) == (0, True, 16)
    assert {"name": LANE, "type": "quorum", "exists": True, "messages": 0, "consumers": 0} in document["queues"]


@pytest.mark.parametrize(
    ("url", "arguments", "code", "says"),
    [
        ("amqp://guest:guest@127.0.0.1:1/%2F", ("show",), 1, "postbote: "),
        ("http://127.0.0.1/", ("show",), 2, "POSTBOTE_AMQP_URL"),
        ("amqp://guest:guest@127.0.0.1:1/%2F", ("draw",), 2, "draw"),
    ],
    ids=["a broker that is away", "a wrong setting", "a wrong argument"],
)
def test_exit_codes_tell_apart(url: str, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = run_postbote("topology", *arguments, env={"POSTBOTE_AMQP_URL": url})
    assert done.returncode == code
    assert says in done.stderr


def test_a_difference_is_one_line_and_exit_code_1(amqp_url: str) -> None:
    declared_before(amqp_url, TIER, changed(TIER, "x-overflow", ABSENT)).close()
    done = run_postbote("topology", "declare", env={"POSTBOTE_AMQP_URL": amqp_url})
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"{TIER}: x-overflow is not set and must be 'reject-publish'" in line
