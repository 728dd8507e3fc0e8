"""Shipping what changes have left to tell: a real store, and places that take, fail or hang as told."""

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from schemas.audit_query import AuditQuery
from tests.control.shipping.shipping_samples import AWAY, Audit, Desk, Events, Workers, change_record, config_change
from tests.support.databases import upgraded
from worker import carriers, shipping
from worker.carriers import ConfigCarrier, EventCarrier, Unreadable
from worker.delivery.ports import Lane
from worker.errors import StoreUnavailable
from worker.settings import Settings
from worker.shipping import Shipping, ShippingLane, ship_once
from worker.store.outgoing import OutgoingKind, OutgoingShelf

CONFIG, AUDIT, EVENT = OutgoingKind.CONFIG, OutgoingKind.AUDIT, OutgoingKind.EVENT


@pytest.fixture
async def desk(tmp_path) -> AsyncIterator[Desk]:
    opened = Desk(f"sqlite:///{tmp_path / 'postbote.db'}")
    await upgraded(opened.store)
    yield opened
    await opened.store.close()


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch) -> None:
    monkeypatch.setattr(shipping, "wait_exponential_jitter", lambda **_: lambda _state: 0.02)


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def audit() -> Audit:
    return Audit()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def running(desk, workers, audit, events) -> AsyncIterator[Shipping]:
    started = Shipping(desk.shelf, configs=workers, audit=audit, intake=events, poll_s=0.05)
    started.start()
    yield started
    await started.close()


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def stuck(running: Shipping) -> float | None:
    """Rows that were passed over; it counts a little after the store has forgotten what was taken."""
    return running.gauges()["postbote_outgoing_stuck"][1]()


class TestEachKind:
    async def test_reaches_its_place_and_is_forgotten(self, desk, running, workers, audit, events) -> None:
        record = change_record()
        await desk.configs(1)
        await desk.records(record)
        await desk.events("mail-1")
        await desk.shipped()
        assert workers.taken == [1]
        assert audit.taken == [(record.document_id, "2025.11", record.to_json())]
        assert events.taken == ["mail-1"]
        assert events.last == ("application/cloudevents+json", {}, Lane.TRANSACTIONAL, "email.requested.v1")
        await until(lambda: running.waiting == 0)
        assert running.trouble is None

    async def test_goes_on_while_another_ones_place_is_away(self, desk, running, workers, audit, events) -> None:
        workers.failure = events.failure = AWAY
        await desk.configs(1)
        await desk.events("mail-1")
        await desk.records(*(change_record(n) for n in range(250)))
        await desk.shipped(left=2)
        assert len(audit.taken) == 250
        assert await desk.left() == [CONFIG, EVENT]

    async def test_of_config_changes_is_told_to_nobody_where_no_worker_reads_the_topic(
        self, desk, audit, events
    ) -> None:
        embedded = Shipping(desk.shelf, configs=None, audit=audit, intake=events)
        await desk.configs(1, 2, 3)
        embedded.start()
        await desk.shipped()
        await embedded.close()


class TestOrder:
    async def test_config_changes_stay_in_order_over_an_outage_and_beyond_one_batch(
        self, desk, running, workers
    ) -> None:
        workers.failure = AWAY
        await desk.configs(*range(1, 131))
        await workers.tried.wait()
        await desk.configs(*range(131, 261))
        workers.failure = None
        running.nudge()
        await desk.shipped()
        assert workers.taken == list(range(1, 261))

    async def test_nothing_overtakes_a_change_that_is_refused_for_a_moment(self, desk, running, workers) -> None:
        refusals = iter([True] * 3)  # of the batch, and twice alone
        workers.refuses = lambda version: version == 1 and next(refusals, False)
        await desk.configs(1, 2, 3)
        await desk.shipped()
        assert workers.taken == [1, 2, 3]


class TestAnOutage:
    async def test_is_told_to_the_operator_in_full_and_to_everybody_by_the_place_alone(
        self, desk, running, workers
    ) -> None:
        workers.failure = AWAY
        await desk.configs(1)
        await until(lambda: running.trouble)
        assert running.trouble == str(AWAY)
        workers.failure = None
        await desk.shipped()
        await until(lambda: running.trouble is None)

    async def test_ends_for_whoever_nudges_without_the_rest_that_the_failure_earned(
        self, desk, running, workers, monkeypatch
    ) -> None:
        monkeypatch.setattr(shipping, "wait_exponential_jitter", lambda **_: lambda _state: 600.0)
        workers.failure = AWAY
        await desk.configs(1)
        await until(lambda: running.trouble)
        workers.failure = None
        await asyncio.sleep(0.2)  # several polls: none of them ends the rest
        assert await desk.left() == [CONFIG]
        running.nudge()
        await desk.shipped()

    async def test_of_an_audit_that_hangs_is_seen(self, desk, running, audit, monkeypatch) -> None:
        monkeypatch.setattr(shipping, "_SLOW_S", 0.01)
        audit.hold = asyncio.Event()
        await desk.records(change_record())
        await until(lambda: running.trouble)
        audit.hold.set()
        await desk.shipped()
        assert running.trouble is None

    async def test_of_the_store_is_waited_for(self, desk, workers, audit, events) -> None:
        class Shelf(OutgoingShelf):
            away = True

            async def backlog(self):
                if self.away:
                    raise StoreUnavailable("db.internal does not answer")
                return await super().backlog()

        shelf = Shelf(desk.store)
        await desk.configs(1)
        running = Shipping(shelf, configs=workers, audit=audit, intake=events, poll_s=0.01)
        running.start()
        await until(lambda: running.trouble == "db.internal does not answer")
        assert running.waiting is None
        shelf.away = False
        await desk.shipped()
        await until(lambda: running.trouble is None)
        await running.close()


class TestARowThatCannotBeTold:
    @pytest.mark.parametrize(
        "row",
        [
            (CONFIG, b"no JSON"),
            (CONFIG, b'{"kind":"of a later version"}'),
            (AUDIT, b"0123456789 {}"),
            (AUDIT, b'0123456789 {"@timestamp":"yesterday"}'),
            (AUDIT, b"\xff {}"),
            (EVENT, b"{"),
            (EVENT, b"[]"),
            (EVENT, b'{"type":7}'),
            (EVENT, orjson.dumps({"type": "x" * 300})),
        ],
    )
    async def test_because_it_cannot_be_read_is_passed_over_and_stays(
        self, desk, running, workers, audit, events, row
    ) -> None:
        await desk.raw(*row)
        await desk.configs(1)
        await desk.records(change_record())
        await desk.events("mail-1")
        await desk.shipped(left=1)
        assert await desk.left() == [row[0]]
        await until(lambda: stuck(running) == 1)
        assert running.trouble is None
        assert (len(workers.taken), len(audit.taken), len(events.taken)) == (1, 1, 1)

    async def test_because_it_is_too_large_never_reaches_the_broker(self, monkeypatch) -> None:
        monkeypatch.setattr(carriers, "MAX_BODY_BYTES", 50)
        for carrier in (ConfigCarrier(None), EventCarrier(Events())):
            with pytest.raises(Unreadable, match="larger than one message may be"):
                carrier.read(config_change(1).model_dump_json().encode())

    async def test_because_its_place_refuses_it_does_not_hold_up_the_others(
        self, desk, running, workers, events
    ) -> None:
        workers.refuses = lambda version: version in {2, 3}
        events.refuses = lambda id_: id_ == "poison"
        await desk.configs(1, 2, 3, 4, 5)
        await desk.events("poison", "mail-1")
        await desk.shipped(left=3)
        assert workers.taken == [1, 4, 5]
        assert events.taken == ["mail-1"]
        assert await desk.left() == [CONFIG, CONFIG, EVENT]
        await until(lambda: stuck(running) == 3)
        await desk.configs(6)
        await desk.shipped(left=3)
        assert workers.taken == [1, 4, 5, 6]
        await until(lambda: running.trouble is None)

    async def test_is_not_known_by_a_place_that_refuses_everything(self, desk, running, workers) -> None:
        workers.refuses = lambda _version: True
        await desk.configs(1, 2, 3)
        await until(lambda: workers.calls > 6 or running.nudge())
        assert stuck(running) == 0
        workers.refuses = lambda _version: False
        running.nudge()
        await desk.shipped()
        assert workers.taken == [1, 2, 3]

    async def test_is_tried_again_later(self, desk, running, workers, monkeypatch) -> None:
        monkeypatch.setattr(shipping, "_REST_S", 0.1)
        workers.refuses = lambda version: version == 1
        await desk.configs(1, 2)
        await desk.shipped(left=1)
        workers.refuses = lambda _version: False
        await desk.shipped()
        assert workers.taken == [2, 1]
        await until(lambda: stuck(running) == 0)

    async def test_of_a_kind_that_a_newer_version_knows_is_left_alone(self, desk, running, workers) -> None:
        await desk.raw("telegram", b"{}")
        await desk.configs(1)
        await desk.shipped(left=1)
        assert workers.taken == [1]
        assert running.trouble is None

    async def test_surprises_end_no_lane(self, desk, running, workers, monkeypatch) -> None:
        monkeypatch.setattr(shipping, "_SURPRISE_PAUSE_S", 0.0)
        workers.failure = ZeroDivisionError()
        await desk.configs(1)
        await until(lambda: workers.calls > 2)
        workers.failure = None
        await desk.shipped()


class TestToldTwice:
    async def test_what_was_told_by_a_process_that_died_before_it_forgot(self, desk, workers) -> None:
        class Dying(OutgoingShelf):
            async def told(self, seqs):
                raise StoreUnavailable("killed")

        await desk.configs(1, 2)
        with pytest.raises(StoreUnavailable):
            await ShippingLane(Dying(desk.store), ConfigCarrier(workers)).ship_all()
        await ShippingLane(desk.shelf, ConfigCarrier(workers)).ship_all()
        assert workers.taken == [1, 2, 1, 2]
        assert await desk.left() == []

    async def test_and_by_two_who_ship_side_by_side_never_less_than_once(self, desk, workers, audit, events) -> None:
        several = [Shipping(desk.shelf, configs=workers, audit=audit, intake=events, poll_s=0.01) for _ in range(3)]
        for one in several:
            one.start()
        for first in range(1, 400, 40):
            await desk.configs(*range(first, first + 40))
            await desk.events(f"mail-{first}")
            several[first % 3].nudge()
        await desk.shipped()
        for one in several:
            await one.close()
        assert set(workers.taken) == set(range(1, 401))
        assert len(events.taken) >= 10


async def test_what_is_read_at_once_is_bounded(desk) -> None:
    for _ in range(5):
        await desk.raw(AUDIT, b"x" * 1000)
    assert len(await desk.shelf.oldest(100, max_bytes=2500)) == 2
    assert len(await desk.shelf.oldest(100, max_bytes=10)) == 1
    assert len(await desk.shelf.oldest(3)) == 3
    assert await desk.shelf.oldest(100, kind=CONFIG) == []
    first = (await desk.shelf.oldest(1))[0].seq
    assert [row.seq for row in await desk.shelf.oldest(100, after=first + 2)] == [first + 3, first + 4]


async def test_gauges_say_how_many_wait_and_for_how_long(desk, running, workers) -> None:
    workers.failure = AWAY
    await desk.configs(1, 2)
    await until(lambda: running.waiting == 2)
    gauges = {name: read() for name, (_, read) in running.gauges().items()}
    assert gauges["postbote_outgoing_waiting"] == 2
    assert 0 <= gauges["postbote_outgoing_oldest_seconds"] < 20
    workers.failure = None
    running.nudge()
    await desk.shipped()
    await until(lambda: running.waiting == 0)
    assert running.gauges()["postbote_outgoing_oldest_seconds"][1]() == 0


async def test_closing_leaves_what_is_not_told_in_the_store(desk, running, audit) -> None:
    audit.hold = asyncio.Event()
    await desk.records(change_record())
    await audit.tried.wait()
    await running.close()
    assert await desk.left() == [AUDIT]


class TestShipOnce:
    @pytest.fixture
    def settings(self, desk, tmp_path) -> Settings:
        return Settings(
            database_url=f"sqlite:///{tmp_path / 'postbote.db'}",
            amqp_url="amqp://guest:guest@127.0.0.1:1/",
            opensearch_url="http://127.0.0.1:1",
            config_source="topic",
            data_dir=tmp_path / "data",
        )

    async def test_connects_nowhere_where_nothing_waits(self, settings, monkeypatch) -> None:
        monkeypatch.setattr(shipping, "open_carrier", None)
        assert await ship_once(settings) == shipping.Shipped(0, None)

    async def test_says_who_is_away_and_never_raises(self, desk, settings) -> None:
        await desk.configs(1)
        await desk.records(change_record())
        await desk.events("mail-1")
        done = await ship_once(settings)
        assert done.waiting == 3
        assert "RabbitMQ" in done.trouble
        assert "OpenSearch" in done.trouble
        assert len(await desk.left()) == 3

    async def test_needs_no_broker_for_workers_that_read_the_store(self, desk, settings) -> None:
        await desk.configs(1)
        assert await ship_once(settings.model_copy(update={"config_source": "store"})) == shipping.Shipped(0, None)

    async def test_gives_up_after_its_time(self, desk, settings, monkeypatch) -> None:
        monkeypatch.setattr(shipping, "_ONCE_S", 0.05)
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)  # takes connections and says nothing
        port = server.sockets[0].getsockname()[1]
        await desk.events("mail-1")
        update = {"amqp_url": f"amqp://guest:guest@127.0.0.1:{port}/"}
        done = await ship_once(settings.model_copy(update=update))
        server.close()
        assert done == shipping.Shipped(1, "not everything was taken within 0 s")

    async def test_fills_the_embedded_files(self, desk, settings) -> None:
        await desk.configs(1)
        await desk.records(change_record())
        await desk.events("mail-1")
        assert await ship_once(settings, embedded=True) == shipping.Shipped(0, None)
        from worker.backends import open_embedded

        async with open_embedded(settings) as files:
            page = await files.audit.search(AuditQuery(type="smtp_config.changed"))
        assert [record["subject"] for record in page.records] == ["default"]

    async def test_says_that_there_is_no_store_and_makes_none(self, settings, tmp_path) -> None:
        absent = tmp_path / "absent.db"
        done = await ship_once(settings.model_copy(update={"database_url": f"sqlite:///{absent}"}))
        assert done == shipping.Shipped(0, f"there is no database at {absent}")
        assert not absent.exists()

    async def test_says_that_the_store_is_away(self, settings, tmp_path) -> None:
        (tmp_path / "broken.db").write_text("no database")
        done = await ship_once(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'broken.db'}"}))
        assert done.waiting == 0
        assert "cannot be used" in done.trouble

    async def test_says_what_is_left_though_nobody_is_away(self, desk, settings) -> None:
        await desk.raw(CONFIG, b"no JSON")
        done = await ship_once(settings.model_copy(update={"config_source": "store"}))
        assert done == shipping.Shipped(1, "what is left cannot be told: see the log")
