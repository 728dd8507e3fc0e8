"""The config topic on a real RabbitMQ: the same answers as the store, and what happens when it goes away."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pika
import pytest

from schemas.config_change import Changes, SnapshotBegin, SnapshotEnd, read_message
from schemas.smtp_config import Scope
from tests.control.store.samples import record, with_password
from tests.support.stalling_proxy import proxied
from tests.unit.config_topic.samples import ACME, BOX, CONTROLLER, DEV, DKIM_KEY, OTHER_KEY, SEALED, put
from worker.delivery.ports import ConfigSource
from worker.errors import SecretUnreadable, TopologyMismatch
from worker.rabbit.config_publisher import ConfigPublisher, open_config_publisher
from worker.rabbit.config_stream import publish_marker, publish_message
from worker.rabbit.config_topic import ConfigTopic, open_config_topic
from worker.rabbit.topology import CONFIG_STREAM
from worker.store.configs import POSTBOTE, ConfigStore
from worker.store.secrets import SecretBox

PATIENCE_S = 30
# To be caught up takes a topic 1.3 times as long as a plain client takes to read and parse the same.
PLAIN_READS = 3


async def until(holds, patience_s=PATIENCE_S):
    async with asyncio.timeout(patience_s):
        while not holds():
            await asyncio.sleep(0.005)  # polling: nothing announces what a reader has taken in


@contextlib.asynccontextmanager
async def opened_store(folder):
    store = ConfigStore(f"sqlite:///{folder / 'postbote.db'}", BOX)
    await store.database.upgrade()
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def caught_up_topic(url, box=BOX):
    async with open_config_topic(url, box.open) as topic:
        async with asyncio.timeout(PATIENCE_S):
            await topic.caught_up()
        yield topic


@dataclass
class Deployment:
    """A store, and the source that a worker would ask; `told` brings the source up to date."""

    store: ConfigStore
    source: ConfigSource
    publisher: ConfigPublisher | None = None
    changed: int = 0

    async def told(self, *scopes: Scope) -> None:
        if self.publisher is None or not isinstance(self.source, ConfigTopic):
            return
        for scope in scopes:
            read = self.source.status.messages
            await self.publisher.publish(await self.store.changes(scope))
            await until(lambda read=read: self.source.status.messages > read)

    async def put(self, *records) -> None:
        for each in records:
            await self.store.put(each)
            await self.told(each.scope)

    async def delete(self, scope: Scope, name: str = "default") -> None:
        await self.store.remove(scope, name)
        await self.told(scope)

    async def feature(self, scope: Scope, *, on: bool) -> None:
        await self.store.set_org_feature(scope, on=on)
        await self.told(scope)

    async def order(self, scope: Scope, *names: str) -> None:
        await self.store.order(scope, names, POSTBOTE)
        await self.told(scope)

    async def sends(self, scope: Scope):
        """The record that sends the scope's mail, and its fallbacks, by their names."""
        found = await self.source.configs_for(scope)
        used = next(each for each in scope.lineage() if each in found.records)
        fallbacks = {str(owner): [each.display_name for each in records] for owner, records in found.fallbacks.items()}
        return found.records[used].display_name, fallbacks

    async def shown(self, scope: Scope):
        found = await self.source.configs_for(scope)
        return {str(s): f"{c.display_name} v{c.version}" for s, c in found.records.items()}, found.org_enabled


@pytest.fixture(params=["store", "topic"])
async def deployment(request, tmp_path, amqp_url):
    async with opened_store(tmp_path) as store:
        if request.param == "store":
            yield Deployment(store, store)
            return
        async with open_config_publisher(amqp_url) as publisher, caught_up_topic(amqp_url) as topic:
            yield Deployment(store, topic, publisher)


async def nothing(_d):
    return


async def three_levels(d):
    await d.put(record(), record(ACME), record(DEV))


async def three_levels_on(d):
    await three_levels(d)
    await d.feature(DEV, on=True)


async def turned_off_again(d):
    await three_levels_on(d)
    await d.feature(DEV, on=False)


async def saved_three_times(d):
    await d.put(*[record(ACME)] * 3)


async def two_names(d):
    await d.put(record(ACME, "first"), record(ACME, "second"))


async def default_deleted(d):
    await two_names(d)
    await d.delete(ACME, "first")


async def default_made_anew(d):
    await default_deleted(d)
    await d.put(record(ACME, "first"))


async def org_record_deleted(d):
    await three_levels_on(d)
    await d.delete(DEV)


async def all_deleted(d):
    await three_levels_on(d)
    for scope in (DEV, ACME, CONTROLLER):
        await d.delete(scope)


async def another_tenants(d):
    await d.put(record(Scope("umbrella")), record(Scope("umbrella", "dev")))


C, P, O = "controller", "partner:acme", "org:acme/dev"  # noqa: E741 # controller, partner, org
ANSWERS = {
    "nothing stored": (nothing, {}, False),
    "an org's feature is off by default": (three_levels, {O: "default v1", P: "default v1", C: "default v1"}, False),
    "an org's feature that is on": (three_levels_on, {O: "default v1", P: "default v1", C: "default v1"}, True),
    "an org's feature turned off again": (turned_off_again, {O: "default v1", P: "default v1", C: "default v1"}, False),
    "the version goes up": (saved_three_times, {P: "default v3"}, False),
    "the first record of a scope is its default": (two_names, {P: "first v1"}, False),
    "the oldest other one follows a deleted default": (default_deleted, {P: "second v2"}, False),
    "one that is made anew stands behind and keeps counting": (default_made_anew, {P: "second v2"}, False),
    "a deleted record falls back to the wider scope": (org_record_deleted, {P: "default v1", C: "default v1"}, True),
    "all deleted": (all_deleted, {}, True),
    "another tenant's records are not seen": (another_tenants, {}, False),
}


@pytest.mark.parametrize(("happens", "records", "on"), ANSWERS.values(), ids=ANSWERS)
async def test_both_sources_give_the_same_answers(deployment, happens, records, on):
    await happens(deployment)
    assert await deployment.shown(DEV) == (records, on)


async def three_names(d):
    await d.put(*(record(ACME, name) for name in ("one", "two", "three")))


async def ordered(d):
    await three_names(d)
    await d.order(ACME, "two", "three", "one")


async def ordered_again(d):
    await ordered(d)
    await d.order(ACME, "one", "three")


async def ordered_and_default_deleted(d):
    await ordered(d)
    await d.delete(ACME, "two")


async def ordered_and_fallback_deleted(d):
    await ordered(d)
    await d.delete(ACME, "three")


async def ordered_and_saved_again(d):
    await ordered(d)
    await d.put(record(ACME, "three", port=465, tls="ssl"))


async def ordered_and_made_anew(d):
    await ordered_and_fallback_deleted(d)
    await d.put(record(ACME, "three"))


async def the_controllers_ordered(d):
    await d.put(record(name="one"), record(name="two"), record(ACME, "own"))
    await d.order(CONTROLLER, "one", "two")


SENDERS = {
    "none before an order is set": (three_names, ("one", {})),
    "in the order that was set": (ordered, ("two", {P: ["three", "one"]})),
    "in an order that was set anew, without the one left out": (ordered_again, ("one", {P: ["three"]})),
    "the first fallback follows a deleted default": (ordered_and_default_deleted, ("three", {P: ["one"]})),
    "a deleted fallback is gone": (ordered_and_fallback_deleted, ("two", {P: ["one"]})),
    "a saved fallback keeps its place": (ordered_and_saved_again, ("two", {P: ["three", "one"]})),
    "a fallback that is made anew is none": (ordered_and_made_anew, ("two", {P: ["one"]})),
    "another scope's are not used": (the_controllers_ordered, ("own", {})),
}


@pytest.mark.parametrize(("happens", "expected"), SENDERS.values(), ids=SENDERS)
async def test_both_sources_give_the_same_fallbacks(deployment, happens, expected):
    await happens(deployment)
    assert await deployment.sends(DEV) == expected


async def test_both_sources_leave_out_a_fallback_that_nobody_can_open(deployment):
    deployment.store._box = SecretBox([OTHER_KEY])
    await deployment.put(record(ACME, "one"), with_password(ACME, "two"))
    await deployment.order(ACME, "one", "two")
    deployment.store._box = BOX
    assert await deployment.sends(ACME) == ("one", {})


async def test_both_sources_give_the_whole_record_with_its_secrets(deployment):
    given = with_password(
        ACME,
        from_address="a@example.net",
        allowed_from=("*@example.net",),
        rate_per_minute=9,
        ca_bundle="PEM",
        timeout_s=2.5,
        chunking=True,
        require_tls=True,
        dkim_domain="acme.example",
        dkim_selector="s1",
        dkim_key=DKIM_KEY,
    )
    await deployment.put(given)
    found = (await deployment.source.configs_for(DEV)).records[ACME]
    assert found == given
    assert found.fingerprint == given.fingerprint


async def test_both_sources_name_an_unreadable_record_only_where_it_is_used(deployment):
    deployment.store._box = SecretBox([OTHER_KEY])
    await deployment.put(with_password())
    await deployment.put(record(ACME))
    deployment.store._box = BOX
    assert ACME in (await deployment.source.configs_for(DEV)).records
    with pytest.raises(SecretUnreadable, match="record 'default' of controller"):
        await deployment.source.configs_for(CONTROLLER)


async def test_an_empty_topic_is_caught_up_at_once(amqp_url):
    async with caught_up_topic(amqp_url) as topic:
        assert topic.missing() is None
        assert (await topic.configs_for(DEV)).records == {}


async def test_what_was_published_before_the_start_is_there_when_it_has_caught_up(amqp_url):
    async with open_config_publisher(amqp_url) as publisher:
        for version in range(1, 301):
            await publisher.publish([put(ACME, version=version)])
        async with caught_up_topic(amqp_url) as topic:
            assert (await topic.configs_for(ACME)).records[ACME].version == 300


async def test_a_question_waits_until_the_topic_has_been_read(amqp_url):
    async with open_config_publisher(amqp_url) as publisher:
        await publisher.publish([put(ACME)])
    async with open_config_topic(amqp_url, BOX.open) as topic:
        assert "has not been read yet" in topic.missing()
        async with asyncio.timeout(PATIENCE_S):
            assert ACME in (await topic.configs_for(ACME)).records


@pytest.mark.alone
async def test_a_change_reaches_three_readers_within_a_second(amqp_url):
    async with contextlib.AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(open_config_publisher(amqp_url))
        topics = [await stack.enter_async_context(caught_up_topic(amqp_url)) for _ in range(3)]
        delays = []
        for version in range(1, 21):
            began = time.monotonic()
            await publisher.publish([put(ACME, version=version, secret=SEALED)])
            for topic in topics:
                while (await topic.configs_for(ACME)).records.get(ACME, put().config).version != version:
                    await asyncio.sleep(0.001)
            delays.append(time.monotonic() - began)
    *_, second, longest = sorted(delays)
    assert second < 1, "one of them may meet a pause of the machine"
    assert longest < 10


def tenants(count):
    return [
        put(Scope(f"partner-{n % 100}", f"org-{n}"), order=n, secret=SEALED, from_address=f"no-reply@org-{n}.example")
        for n in range(count)
    ]


@pytest.mark.alone
async def test_ten_thousand_records_are_caught_up_in_three_seconds(amqp_url):
    changes = tenants(10_000)
    async with open_config_publisher(amqp_url) as publisher:

        async def read():
            return changes

        await publisher.publish_snapshot(read)
    marker = await publish_marker(amqp_url, "test marker")
    before_s = await asyncio.to_thread(seconds_of_a_plain_read, amqp_url, marker)
    began = time.monotonic()
    async with caught_up_topic(amqp_url) as topic:
        seconds = time.monotonic() - began
        assert topic.status.records == 10_000
    after_s = await asyncio.to_thread(seconds_of_a_plain_read, amqp_url, marker)
    print(f"caught up in {seconds:.2f} s; who only reads and parses takes {before_s:.2f} and {after_s:.2f} s")
    assert seconds < max(3, PLAIN_READS * max(before_s, after_s))


def seconds_of_a_plain_read(url, marker):
    """How long a plain client takes to read and parse the same, on this machine, now."""
    began = time.monotonic()
    with_channel(url, lambda channel: [read_message(body) for body in read_until(channel, marker)])
    return time.monotonic() - began


async def test_a_lost_connection_is_said_and_what_came_meanwhile_is_read_afterwards(amqp_url):
    with proxied(amqp_url) as (proxy, through):
        async with caught_up_topic(through) as topic, open_config_publisher(amqp_url) as publisher:
            await publisher.publish([put(ACME)])
            await until(lambda: topic.status.records == 1)
            before = topic.status.messages
            assert proxy.cut() == 1, "the topic's connection"
            await until(lambda: topic.missing() is not None)
            assert topic.missing().startswith("config topic lost since ")
            assert topic.missing().endswith("; 1 records from memory")
            await publisher.publish([put(ACME, version=2)])
            assert (await topic.configs_for(ACME)).records[ACME].version == 1
            proxy.flow()
            await until(lambda: topic.missing() is None)
            assert (await topic.configs_for(ACME)).records[ACME].version == 2
            assert topic.status.messages == before + 2  # the change and the new marker: it resumed


async def test_a_broker_that_is_away_is_waited_for_at_the_start_and_lived_without_later(rabbitmq, amqp_url):
    async with open_config_publisher(amqp_url) as publisher:
        await publisher.publish([put(ACME)])
    await asyncio.to_thread(rabbitmq.stop)
    async with open_config_topic(amqp_url, BOX.open) as topic:
        reading = asyncio.create_task(topic.caught_up())
        await until(lambda: "not connected yet" not in topic.missing())
        assert not reading.done()
        await asyncio.to_thread(rabbitmq.start)
        async with asyncio.timeout(60):
            await reading
        assert ACME in (await topic.configs_for(ACME)).records
        await asyncio.to_thread(rabbitmq.restart)
        assert ACME in (await topic.configs_for(ACME)).records
        await until(lambda: topic.missing() is None, 60)


def with_channel(url, act):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    act(connection.channel())
    connection.close()


def read_until(channel, marker):
    """Every body of the topic before the marker, with a plain client."""
    channel.basic_qos(prefetch_count=1)  # so that nothing behind the marker comes: a stream rejects a rejection
    bodies, first = [], {"x-stream-offset": "first"}
    for method, _, body in channel.consume(CONFIG_STREAM, inactivity_timeout=PATIENCE_S, arguments=first):
        assert method, "the marker does not come"
        if marker.encode() in body:
            return bodies
        bodies.append(body)
        channel.basic_ack(method.delivery_tag)
    raise AssertionError("the topic was deleted")


async def test_a_topic_that_was_made_anew_replaces_what_is_known_once_it_has_a_snapshot(amqp_url):
    async with open_config_publisher(amqp_url) as publisher:
        await publisher.publish([put(ACME, version=n) for n in range(1, 4)])
    async with caught_up_topic(amqp_url) as topic:
        await asyncio.to_thread(with_channel, amqp_url, lambda channel: channel.queue_delete(CONFIG_STREAM))
        await until(lambda: "made anew" in (topic.missing() or ""))
        assert (await topic.configs_for(ACME)).records[ACME].version == 3
        async with open_config_publisher(amqp_url) as publisher:

            async def read():
                return [put(CONTROLLER), put(ACME, version=2)]  # the store came from a backup

            await publisher.publish_snapshot(read)
        await until(lambda: topic.missing() is None)
        assert (await topic.configs_for(ACME)).records[ACME].version == 2


async def test_what_cannot_be_read_is_skipped_and_counted(amqp_url):
    async with open_config_publisher(amqp_url) as publisher, caught_up_topic(amqp_url) as topic:

        def junk(channel):
            for body in (b"", b"junk", b"{}", b"\xff" * 100, b"[" * 10_000):
                channel.basic_publish("", CONFIG_STREAM, body)

        await asyncio.to_thread(with_channel, amqp_url, junk)
        await publisher.publish([put(ACME)])
        await until(lambda: topic.status.records == 1)
        assert topic.status.skipped == 5
        assert topic.missing() is None


async def test_a_publisher_that_died_in_its_snapshot_changes_nothing_for_the_next(amqp_url):
    async with open_config_publisher(amqp_url) as publisher, caught_up_topic(amqp_url) as topic:
        await publisher.publish([put(ACME), put(Scope("gone"))])
        now = datetime.now(UTC)
        for message in (
            SnapshotBegin(published_at=now, snapshot="dead"),
            Changes(published_at=now, snapshot="dead", items=(put(ACME),)),
        ):
            await publish_message(publisher._publisher, message)
        await until(lambda: topic.status.messages == 4)
        assert topic.status.records == 2

        async def read():
            return [put(ACME)]

        published = await publisher.publish_snapshot(read)
        assert (published.count, published.messages) == (1, 3)
        await until(lambda: topic.status.records == 1)
        await publish_message(publisher._publisher, SnapshotEnd(published_at=now, snapshot="dead", count=2))
        await until(lambda: topic.status.messages == 8)
        assert ACME in (await topic.configs_for(ACME)).records


async def test_a_snapshot_of_the_store_makes_good_what_was_never_published(amqp_url, tmp_path):
    async with (
        opened_store(tmp_path) as store,
        open_config_publisher(amqp_url) as publisher,
        caught_up_topic(amqp_url) as topic,
    ):
        await store.put(record(ACME))
        await publisher.publish(await store.changes(ACME))
        await until(lambda: topic.status.records == 1)
        await store.remove(ACME, "default")  # nobody tells the topic
        await store.put(with_password(DEV))
        await store.set_org_feature(DEV, on=True)
        progress = []
        published = await publisher.publish_snapshot(store.changes, lambda done, of: progress.append((done, of)))
        assert (published.records, published.deletes, published.features) == (1, 1, 1)
        assert progress == [(3, 3)]
        await until(lambda: topic._known.snapshots_read == 1)
        found, stored = await topic.configs_for(DEV), await store.configs_for(DEV)
        assert (found.records, found.org_enabled) == (stored.records, True)


async def test_passwords_do_not_travel_in_clear(amqp_url, tmp_path):
    bodies = []

    def read_all(channel):
        bodies.extend(read_until(channel, marker))

    async with opened_store(tmp_path) as store, open_config_publisher(amqp_url) as publisher:
        given = await store.put(with_password(ACME))
        await publisher.publish(await store.changes())
        await publisher.publish_snapshot(store.changes)
    marker = await publish_marker(amqp_url, "test marker")
    await asyncio.to_thread(with_channel, amqp_url, read_all)
    assert len(bodies) == 4
    assert not any(given.password.get_secret_value().encode() in body for body in bodies)


async def test_a_queue_that_is_no_stream_ends_the_wait_with_an_error_that_names_it(amqp_url):
    await asyncio.to_thread(with_channel, amqp_url, lambda channel: channel.queue_declare(CONFIG_STREAM, durable=True))
    async with open_config_topic(amqp_url, BOX.open) as topic:
        with pytest.raises(TopologyMismatch, match=CONFIG_STREAM):
            async with asyncio.timeout(PATIENCE_S):
                await topic.caught_up()
        assert CONFIG_STREAM in topic.missing()
