"""The cache and the environment's record: what they answer for a source that comes and goes."""

import asyncio
import gc

import pytest

from schemas.smtp_config import Scope
from tests.control.store.samples import ACME, CONTROLLER, DEV, OTHER, record
from worker.delivery.ports import ConfigSource, ScopedConfigs
from worker.errors import SecretUnreadable, StoreUnavailable
from worker.store.cached import CachedConfigSource
from worker.store.controller import ControllerFromEnvironment


class CountingSource:
    """Answers with a record whose version counts the reads; fails or waits when told to."""

    def __init__(self):
        self.asked = []
        self.error = None
        self.gate = asyncio.Event()
        self.gate.set()
        self._begun = asyncio.Condition()

    async def reads_begun(self, count):
        async with self._begun:
            await self._begun.wait_for(lambda: len(self.asked) >= count)

    async def configs_for(self, scope):
        async with self._begun:
            self.asked.append(scope)
            self._begun.notify_all()
        await self.gate.wait()
        if self.error:
            raise self.error
        return ScopedConfigs({scope: record(scope, version=len(self.asked))}, org_enabled=True)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def inner():
    return CountingSource()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(inner, clock):
    return CachedConfigSource(inner, ttl_s=2.0, max_scopes=2, clock=clock)


async def version_of(source: ConfigSource, scope: Scope) -> int:
    return (await source.configs_for(scope)).records[scope].version


async def test_a_scope_is_read_once_until_its_time_is_up(cache, inner, clock):
    assert [await version_of(cache, ACME), await version_of(cache, ACME)] == [1, 1]
    clock.now += 1.99
    assert await version_of(cache, ACME) == 1
    clock.now += 0.01
    assert await version_of(cache, ACME) == 2
    assert inner.asked == [ACME, ACME]


async def test_the_time_counts_from_the_question_and_not_from_a_slow_answer(cache, inner, clock):
    inner.gate.clear()
    slow = asyncio.create_task(cache.configs_for(ACME))
    await inner.reads_begun(1)
    clock.now += 5
    inner.gate.set()
    await slow
    assert await version_of(cache, ACME) == 2


async def test_no_time_at_all_means_that_every_call_reads(inner, clock):
    cache = CachedConfigSource(inner, ttl_s=0.0, clock=clock)
    assert [await version_of(cache, ACME) for _ in range(3)] == [1, 2, 3]


async def test_many_at_once_share_one_read_of_their_scope(cache, inner):
    inner.gate.clear()
    calls = [asyncio.create_task(cache.configs_for(scope)) for scope in (ACME,) * 20 + (OTHER,)]
    await inner.reads_begun(2)
    inner.gate.set()
    await asyncio.gather(*calls)
    assert inner.asked == [ACME, OTHER]


async def test_one_that_is_cancelled_does_not_fail_those_that_wait_with_it(cache, inner):
    inner.gate.clear()
    first, second = (asyncio.create_task(version_of(cache, ACME)) for _ in range(2))
    await inner.reads_begun(1)
    first.cancel()
    inner.gate.set()
    assert await second == 1
    assert first.cancelled()


async def test_a_failed_read_that_nobody_waits_for_is_not_reported_as_lost(cache, inner):
    lost = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: lost.append(context))
    inner.gate.clear()
    only = asyncio.create_task(cache.configs_for(ACME))
    await inner.reads_begun(1)
    only.cancel()
    await asyncio.wait([only])
    inner.error = SecretUnreadable("no key")
    inner.gate.set()
    await asyncio.wait(cache._flights.values())
    await asyncio.sleep(0)  # one turn of the loop, in which the finished read is dropped
    gc.collect()  # asyncio reports an error that nobody looked at when it drops the task
    assert lost == []


async def test_while_the_store_is_away_the_last_answer_goes_on_and_says_so(cache, inner, clock):
    await cache.configs_for(ACME)
    assert not cache.stale
    inner.error = StoreUnavailable("away")
    clock.now += 60
    assert await version_of(cache, ACME) == 1
    assert cache.stale
    inner.error = None
    clock.now += 2
    assert await version_of(cache, ACME) == 3
    assert not cache.stale


async def test_a_store_that_is_away_is_asked_again_only_after_a_pause(cache, inner, clock):
    await cache.configs_for(ACME)
    inner.error = StoreUnavailable("away")
    clock.now += 60
    for _ in range(5):
        await cache.configs_for(ACME)
    assert len(inner.asked) == 2


async def test_the_pause_begins_only_when_a_slow_failure_ends(cache, inner, clock):
    await cache.configs_for(ACME)
    clock.now += 60
    inner.error = StoreUnavailable("away")
    inner.gate.clear()
    slow = asyncio.create_task(cache.configs_for(ACME))
    await inner.reads_begun(2)
    clock.now += 10
    inner.gate.set()
    await slow
    await cache.configs_for(ACME)
    assert len(inner.asked) == 2


async def test_a_scope_that_was_never_read_is_an_error_while_the_store_is_away(cache, inner):
    inner.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable, match="away"):
        await cache.configs_for(ACME)
    assert cache.stale
    inner.error = None
    assert await version_of(cache, ACME) == 2


async def test_an_unreadable_secret_is_not_papered_over_with_an_old_record(cache, inner, clock):
    await cache.configs_for(ACME)
    inner.error = SecretUnreadable("no key")
    clock.now += 60
    with pytest.raises(SecretUnreadable):
        await cache.configs_for(ACME)
    assert not cache.stale


async def test_the_scope_used_longest_ago_makes_room(cache, inner):
    for scope in (ACME, OTHER, ACME, DEV, ACME, OTHER):
        await cache.configs_for(scope)
    assert inner.asked == [ACME, OTHER, DEV, OTHER]


@pytest.mark.parametrize("scope", [CONTROLLER, ACME, DEV])
async def test_the_environments_record_stands_for_the_controllers_in_every_lineage(store, scope):
    ours = record(name="environment", host="env.example.net")
    source: ConfigSource = ControllerFromEnvironment(store, ours)
    assert (await source.configs_for(scope)).records == {CONTROLLER: ours}
    await store.put(record())
    await store.put(record(ACME))
    await store.set_org_feature(DEV, on=True)
    found, stored = await source.configs_for(scope), await store.configs_for(scope)
    assert found.records == {**stored.records, CONTROLLER: ours}
    assert found.org_enabled is stored.org_enabled


@pytest.mark.parametrize("scope", [ACME, DEV])
def test_a_tenants_record_cannot_stand_for_the_controllers(inner, scope):
    with pytest.raises(ValueError, match="the controller's"):
        ControllerFromEnvironment(inner, record(scope))
