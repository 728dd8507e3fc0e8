"""A scope's default and its fallbacks: the store and a reader of the config topic agree on them at every step."""

import pytest

from schemas.audit_change import Action
from schemas.config_change import Changes
from tests.control.store.samples import ACME, ADA, CONTROLLER, DEV, KEY, OTHER, OTHER_KEY, draft, with_password
from worker.control.errors import NotFound, Refused
from worker.delivery.known_configs import KnownConfigs
from worker.store.configs import ConfigStore
from worker.store.outgoing import OutgoingKind, OutgoingShelf
from worker.store.secrets import SecretBox


@pytest.fixture
async def four(store):
    for name in "abcd":
        await store.save(draft(ACME, name), ADA)
    await store.save(draft(OTHER, "elsewhere"), ADA)
    return store


def shown(records):
    return [(each.name, each.is_default, each.fallback, each.version) for each in records]


async def told_to(known: KnownConfigs, store: ConfigStore) -> KnownConfigs:
    """Let the reader hear what waits to be told, and only that."""
    shelf = OutgoingShelf(store.database)
    waiting = [each for each in await shelf.oldest(1000) if each.kind is OutgoingKind.CONFIG]
    for each in waiting:
        body = b'{"kind":"changes","published_at":"2026-01-01T00:00:00Z","items":[%s]}' % each.body
        known.apply(Changes.model_validate_json(body), each.seq)
    await shelf.told([each.seq for each in waiting])
    return known


async def test_without_an_order_the_first_is_the_default_and_nothing_stands_in(four):
    assert shown(await four.records(ACME)) == [
        ("a", True, None, 1), ("b", False, None, 1), ("c", False, None, 1), ("d", False, None, 1),
    ]  # fmt: skip
    assert (await four.configs_for(ACME)).fallbacks == {}


async def test_an_order_makes_a_default_and_fallbacks_and_numbers_only_what_it_moves(four):
    assert shown(await four.order(ACME, ["b", "c"], ADA)) == [
        ("b", True, None, 2), ("c", False, 1, 2), ("a", False, None, 2), ("d", False, None, 1),
    ]  # fmt: skip
    found = await four.configs_for(DEV)
    assert found.records[ACME].display_name == "b"
    assert [each.display_name for each in found.fallbacks[ACME]] == ["c"]
    assert shown(await four.order(ACME, ["b", "c"], ADA)) == shown(await four.records(ACME))
    assert (await four.record(ACME, "b")).version == 2, "the same order again changes nothing"
    assert (await four.record(OTHER, "elsewhere")).version == 1


async def test_what_an_order_moved_is_in_the_history(four):
    await four.order(ACME, ["b"], ADA)
    newest = {name: (await four.history(ACME, name))[0] for name in "ab"}
    assert {entry.action for entry in newest.values()} == {Action.ORDERED}
    assert "is_default" in newest["a"].changed
    assert newest["b"].actor == ADA


@pytest.mark.parametrize(
    ("names", "error"),
    [(["a", "absent"], NotFound), (["a", "b", "a"], Refused), ([], Refused), (["elsewhere"], NotFound)],
)
async def test_an_order_that_names_what_is_not_there_or_twice_changes_nothing(four, names, error):
    with pytest.raises(error) as caught:
        await four.order(ACME, names, ADA)
    assert caught.value.path == "names"
    assert [each.version for each in await four.records(ACME)] == [1, 1, 1, 1]


async def test_the_first_fallback_follows_a_deleted_default_with_its_next_version(four):
    await four.order(ACME, ["c", "d", "b"], ADA)
    before = {each.name: each.version for each in await four.records(ACME)}
    await four.remove(ACME, "c", ADA)
    first, second, last = await four.records(ACME)
    assert (first.name, first.is_default, first.fallback, first.version) == ("d", True, None, before["d"] + 1)
    assert (second.name, second.fallback, second.version) == ("b", 1, before["b"])
    assert (last.name, last.is_default) == ("a", False)


async def test_a_record_that_comes_later_stands_last(four):
    await four.order(ACME, ["d", "c", "b", "a"], ADA)
    await four.save(draft(ACME, "e"), ADA)
    assert [each.name for each in await four.records(ACME)] == ["d", "c", "b", "a", "e"]
    assert (await four.record(ACME, "e")).fallback is None


async def test_saving_a_record_leaves_its_place(four):
    await four.order(ACME, ["b", "c"], ADA)
    saved = await four.save(draft(ACME, "c", retries=9), ADA)
    assert (saved.fallback, saved.is_default) == (1, False)


async def test_a_reader_of_the_topic_that_hears_each_change_agrees_with_the_store(store):
    known, box = KnownConfigs(), SecretBox([KEY])
    steps = [
        *(store.save(draft(ACME, name), ADA) for name in "abcde"),
        store.save(draft(CONTROLLER, "wide"), ADA),
        store.order(ACME, ["c", "a", "e"], ADA),
        store.remove(ACME, "c", ADA),
        store.order(ACME, ["d", "b", "a"], ADA),
        store.remove(ACME, "b", ADA),
        store.save(draft(ACME, "b"), ADA),
        store.remove(ACME, "d", ADA),
        store.roll_back(ACME, "d", 1, ADA),
        store.order(ACME, ["e"], ADA),
        *(store.remove(ACME, name, ADA) for name in "eabd"),
    ]
    for step in steps:
        await step
        await told_to(known, store)
        assert known.configs_for(DEV, box.open) == await store.configs_for(DEV)


async def test_a_fallback_that_no_key_opens_is_left_out_and_holds_up_nothing(four, url):
    stranger = ConfigStore(url, SecretBox([OTHER_KEY]))
    await stranger.put(with_password(ACME, "b"))
    await stranger.close()
    await four.order(ACME, ["a", "b", "c"], ADA)
    found = await four.configs_for(ACME)
    assert [each.display_name for each in found.fallbacks[ACME]] == ["c"]


async def test_fallbacks_are_those_of_the_record_that_sends(four):
    await four.order(ACME, ["a", "b"], ADA)
    for name in "xy":
        await four.save(draft(DEV, name), ADA)
    await four.order(DEV, ["x", "y"], ADA)
    assert set((await four.configs_for(DEV)).fallbacks) == {ACME}
    await four.set_org_feature(DEV, on=True)
    assert set((await four.configs_for(DEV)).fallbacks) == {DEV}
