"""PostgreSQL that goes away and comes back under an open store: one readable error, and then it works again."""

import asyncio

import pytest
from sqlalchemy import text

from tests.control.store.samples import ACME, KEY, record, with_password
from worker.errors import StoreUnavailable
from worker.store import configs
from worker.store.cached import CachedConfigSource
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox


@pytest.fixture
def url(postgres_url):
    return postgres_url


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_server_that_ends_is_unavailable_and_works_again_once_it_is_back(store, postgres, end):
    saved = await store.put(with_password(ACME))
    await asyncio.gather(*(store.opened(ACME, "default") for _ in range(5)))  # several connections in the pool
    await asyncio.to_thread(getattr(postgres, end))
    for use in (store.opened(ACME, "default"), store.put(record(ACME)), store.changes(), store.open()):
        with pytest.raises(StoreUnavailable, match=r"^the database at 127\.0\.0\.1/test_\w+ cannot") as e:
            await use
        assert "\n" not in str(e.value)
        assert postgres.url.split(":")[2].split("@")[0] not in str(e.value), "the server's password"
    await asyncio.to_thread(postgres.start)
    assert await store.opened(ACME, "default") == saved
    assert (await store.put(record(ACME))).version == 2


async def test_connections_cut_off_while_nobody_used_them_are_not_noticed(store, postgres, url):
    await store.put(record(ACME))
    await asyncio.gather(*(store.opened(ACME, "default") for _ in range(5)))
    await asyncio.to_thread(postgres.disconnect, url)
    assert (await store.put(record(ACME))).version == 2


async def test_a_write_that_is_cut_off_midway_leaves_nothing_behind(store, postgres, url):
    await store.put(record(ACME))

    async def write_twice():
        async with store.database.writing() as connection:
            await connection.execute(text("UPDATE smtp_configs SET port = 1"))
            await asyncio.to_thread(postgres.disconnect, url)
            await connection.execute(text("UPDATE smtp_configs SET retries = 1"))

    with pytest.raises(StoreUnavailable):
        await write_twice()
    assert (await store.opened(ACME, "default")).port == 587


async def test_a_worker_goes_on_with_what_it_read_and_takes_the_new_record_when_the_server_is_back(store, postgres):
    cached = CachedConfigSource(store, ttl_s=0.0)
    await store.put(record(ACME))
    assert (await cached.configs_for(ACME)).records[ACME].version == 1
    await asyncio.to_thread(postgres.stop)
    assert (await cached.configs_for(ACME)).records[ACME].version == 1
    assert cached.stale
    await asyncio.to_thread(postgres.start)
    await store.put(record(ACME))
    assert (await cached.configs_for(ACME)).records[ACME].version == 2
    assert not cached.stale


async def test_a_server_that_is_frozen_is_unavailable_and_what_was_read_goes_on_being_served(
    store, postgres, monkeypatch
):
    cached = CachedConfigSource(store, ttl_s=0.0)
    await store.put(record(ACME))
    await cached.configs_for(ACME)
    postgres.pause()
    with monkeypatch.context() as short:
        short.setattr(configs, "LOOKUP_PATIENCE_S", 0.1)
        read, unread = (asyncio.create_task(each.configs_for(ACME)) for each in (cached, store))
        # Both have to be given up by now: the server's answer, which comes as soon as it runs again, must not count.
        await asyncio.wait({read, unread}, timeout=20)
    postgres.resume()
    assert (await read).records[ACME].version == 1
    assert cached.stale
    with pytest.raises(StoreUnavailable, match=r"does not answer$"):
        await unread
    assert (await cached.configs_for(ACME)).records[ACME].version == 1
    assert not cached.stale


async def test_a_database_that_is_not_there_or_a_wrong_password_is_one_line_without_the_password(url):
    for wrong in (url + "_not_there", url.replace("postbote:", "postbote:hunter2x")):
        store = ConfigStore(wrong, SecretBox([KEY]))
        with pytest.raises(StoreUnavailable) as caught:
            await store.open()
        assert "\n" not in str(caught.value)
        assert "hunter2x" not in str(caught.value)
        await store.close()


async def test_a_database_without_an_encoding_of_its_own_gives_back_what_was_put(postgres):
    url = await asyncio.to_thread(postgres.fresh_database, "SQL_ASCII")
    store = ConfigStore(url, SecretBox([KEY]))
    await store.database.upgrade()
    await store.open()
    saved = await store.put(with_password(ACME, "Nachtschicht – 夜勤"))
    assert await store.list() == [saved]
    await store.close()
    await asyncio.to_thread(postgres.drop_database, url)
