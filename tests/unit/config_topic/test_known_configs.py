"""What a reader knows after any history of messages: versions decide, snapshots repair."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_topic.samples import (
    ACME,
    BOX,
    CONTROLLER,
    DEV,
    DKIM_KEY,
    KEY,
    OTHER,
    OTHER_KEY,
    PASSWORD,
    SEALED,
    SEALED_KEY,
    begin,
    changes,
    delete,
    end,
    feature,
    put,
)
from worker.delivery.known_configs import MAX_OPEN_SNAPSHOTS, KnownConfigs
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.store.secrets import SecretBox


def known(*messages):
    found = KnownConfigs()
    for position, message in enumerate(messages):
        found.apply(message, position)
    return found


def default(found, scope):
    """(name, version) of the scope's own default, or None."""
    record = found.configs_for(scope, BOX.open).records.get(scope)
    return record and (record.display_name, record.version)


A, B = "a", "b"
HISTORIES = {
    "the first put is known": ([put(ACME, A, 1)], (A, 1)),
    "an older put after a newer one is ignored": ([put(ACME, A, 2), put(ACME, A, 1)], (A, 2)),
    "a delete outranks the put of its version": ([put(ACME, A, 1), delete(ACME, A, 1)], None),
    "a put that arrives after its delete is ignored": ([delete(ACME, A, 2), put(ACME, A, 1), put(ACME, A, 2)], None),
    "a put newer than the delete wins": ([delete(ACME, A, 1), put(ACME, A, 2)], (A, 2)),
    "a delete older than the put is ignored": ([put(ACME, A, 2), delete(ACME, A, 1)], (A, 2)),
    "the lowest order is the default": ([put(ACME, B, 1, order=2), put(ACME, A, 1, order=1)], (A, 1)),
    "the next one follows a deleted default": (
        [put(ACME, A, 1, order=1), put(ACME, B, 1, order=2), delete(ACME, A, 1)],
        (B, 1),
    ),
    "a record that was made anew is the last in order": (
        [put(ACME, A, 1, order=1), put(ACME, B, 1, order=2), delete(ACME, A, 1), put(ACME, A, 2, order=3)],
        (B, 1),
    ),
    "another scope's record of the same name is another record": ([put(ACME, A, 1), delete(OTHER, A, 9)], (A, 1)),
}


@pytest.mark.parametrize(("history", "expected"), HISTORIES.values(), ids=HISTORIES)
def test_versions_decide(history, expected):
    assert default(known(*map(changes, history)), ACME) == expected
    assert default(known(changes(*history)), ACME) == expected
    assert default(known(*map(changes, [*history, *history])), ACME) == expected


@pytest.mark.parametrize(
    ("history", "on"),
    [
        ([], False),
        ([feature(version=1)], True),
        ([feature(version=2, on=False), feature(version=1)], False),
        ([feature(version=1), feature(version=2, on=False), feature(version=3)], True),
    ],
    ids=["off by default", "on", "an older one is ignored", "on, off, on"],
)
def test_the_newest_feature_counts(history, on):
    assert known(*map(changes, history)).configs_for(DEV, BOX.open).org_enabled is on


SNAPSHOTS = {
    "what a whole snapshot leaves out is dropped": ([changes(put(ACME, A)), begin(), end(0)], None),
    "what it holds stays": ([changes(put(ACME, A)), begin(), changes(put(ACME, A), snapshot="s"), end(1)], (A, 1)),
    "a lost delete is made good": (
        [changes(put(ACME, A, 2)), begin(), changes(delete(ACME, A, 2), snapshot="s"), end(1)],
        None,
    ),
    "a newer put behind the beginning stays, though left out": (
        [begin(), changes(put(ACME, A, 3)), end(0)],
        (A, 3),
    ),
    "a newer put wins over the snapshot's older one": (
        [begin(), changes(put(ACME, A, 3)), changes(put(ACME, A, 2), snapshot="s"), end(1)],
        (A, 3),
    ),
    "a newer put wins over the snapshot's older delete": (
        [begin(), changes(put(ACME, A, 3)), changes(delete(ACME, A, 2), snapshot="s"), end(1)],
        (A, 3),
    ),
    "a newer put before the beginning stays where the snapshot holds an older one": (
        [changes(put(ACME, A, 5)), begin(), changes(put(ACME, A, 2), snapshot="s"), end(1)],
        (A, 5),
    ),
    "without its end it drops nothing": ([changes(put(ACME, A)), begin()], (A, 1)),
    "without its beginning it drops nothing": ([changes(put(ACME, A)), end(0)], (A, 1)),
    "with fewer changes than counted it drops nothing": ([changes(put(ACME, A)), begin(), end(1)], (A, 1)),
    "the same change twice counts once": (
        [changes(put(ACME, A)), begin(), *[changes(put(OTHER, A), snapshot="s")] * 2, end(2)],
        (A, 1),
    ),
    "another snapshot's changes don't count": (
        [changes(put(ACME, A)), begin(), begin("t"), changes(put(OTHER, A), snapshot="t"), end(1)],
        (A, 1),
    ),
    "what a later snapshot holds is not dropped by an earlier one": (
        [changes(put(ACME, A)), begin(), begin("t"), changes(put(ACME, A), snapshot="t"), end(0), end(1, "t")],
        (A, 1),
    ),
    "two snapshots, one within the other": (
        [
            *[changes(put(ACME, A)), begin(), begin("t")],
            *[changes(put(ACME, A), snapshot="s"), changes(put(ACME, A), snapshot="t"), end(1), end(1, "t")],
        ],
        (A, 1),
    ),
    "a snapshot that has ended does not begin again": (
        [begin(), end(0), changes(put(ACME, A)), begin(), end(0)],
        (A, 1),
    ),
    "the right store's snapshot repairs a wrong one's": (
        [
            *[changes(put(ACME, A, 5)), begin("wrong"), end(0, "wrong")],
            *[begin(), changes(put(ACME, A, 5), snapshot="s"), end(1)],
        ],
        (A, 5),
    ),
}


@pytest.mark.parametrize(("history", "expected"), SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_snapshots_repair_and_never_take_back(history, expected):
    assert default(known(*history), ACME) == expected


def test_a_feature_that_a_snapshot_leaves_out_is_off():
    assert not known(changes(feature()), begin(), end(0)).configs_for(DEV, BOX.open).org_enabled
    assert known(begin(), changes(feature()), end(0)).configs_for(DEV, BOX.open).org_enabled
    older = changes(feature(version=1, on=False), snapshot="s")
    assert known(changes(feature(version=2)), begin(), older, end(1)).configs_for(DEV, BOX.open).org_enabled


def test_beginnings_without_an_end_are_bounded():
    found = known(changes(put(ACME, A)), *(begin(f"dead {n}") for n in range(MAX_OPEN_SNAPSHOTS + 5)), end(0, "dead 0"))
    assert len(found._snapshots) == MAX_OPEN_SNAPSHOTS
    assert default(found, ACME) == (A, 1)


# The property: a store that numbers its changes, publishers that lose, repeat and delay what they publish.
SCOPES = [CONTROLLER, ACME, DEV]
STEP = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(SCOPES), st.sampled_from([A, B])),
    st.tuples(st.just("delete"), st.sampled_from(SCOPES), st.sampled_from([A, B])),
    st.tuples(st.just("feature"), st.just(DEV), st.booleans()),
    st.tuples(st.just("snapshot"), st.none(), st.none()),
)


@dataclass
class PlayedStore:
    """The store as a table, the log of the topic, and what is on its way there."""

    records: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    features: tuple = (0, False)
    ids: int = 0
    log: list = field(default_factory=list)
    under_way: list = field(default_factory=list)
    sent: list = field(default_factory=list)
    snapshots: int = 0

    def play(self, step):
        kind, scope, what = step
        match kind:
            case "put":
                self.versions[scope, what] = self.versions.get((scope, what), 0) + 1
                if (scope, what) not in self.records:
                    self.ids += 1
                order = self.records[scope, what].order if (scope, what) in self.records else self.ids
                self.records[scope, what] = put(scope, what, self.versions[scope, what], order=order)
                self.under_way.append(changes(self.records[scope, what]))
            case "delete":
                if self.records.pop((scope, what), None):
                    self.under_way.append(changes(delete(scope, what, self.versions[scope, what])))
            case "feature":
                self.features = (self.features[0] + 1, what)
                self.under_way.append(changes(feature(DEV, self.features[0], on=what)))
            case "snapshot":
                self.begin_snapshot()

    def begin_snapshot(self):
        self.snapshots += 1
        name = f"snapshot {self.snapshots}"
        self.log.append(begin(name))  # confirmed before the store is read
        held = self.held()
        self.under_way += [changes(each, snapshot=name) for each in held]
        self.under_way.append(end(len(held), name))

    def held(self):
        gone = [delete(s, n, v) for (s, n), v in self.versions.items() if (s, n) not in self.records]
        version, on = self.features
        return [*self.records.values(), *gone, *([feature(DEV, version, on=on)] if version else [])]

    def shown(self):
        best = {}
        for (scope, _), each in sorted(self.records.items(), key=lambda item: -item[1].order):
            best[scope] = (each.name, each.version)
        return {scope: best.get(scope) for scope in SCOPES}, self.features[1]


def shown(found):
    return {scope: default(found, scope) for scope in SCOPES}, found.configs_for(DEV, BOX.open).org_enabled


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(STEP, max_size=25), data=st.data())
def test_whatever_is_late_twice_or_out_of_order_the_newest_state_is_known(steps, data):
    store = PlayedStore()
    for step in [*steps, None]:
        if step is not None:
            store.play(step)
        some = len(store.under_way) if step is None else data.draw(st.integers(0, len(store.under_way)))
        arriving = data.draw(st.permutations(store.under_way))[:some]
        again = data.draw(st.lists(st.sampled_from(store.sent), max_size=2)) if store.sent else []
        for message in arriving:
            store.under_way.remove(message)
        store.sent += arriving
        store.log += [*arriving, *again]
    assert shown(known(*store.log)) == store.shown()


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(STEP, max_size=20), data=st.data())
def test_after_a_whole_snapshot_nothing_of_what_was_lost_is_missed(steps, data):
    store = PlayedStore()
    for step in steps:
        store.play(step)
        arrives = data.draw(st.lists(st.booleans(), min_size=len(store.under_way), max_size=len(store.under_way)))
        store.log += [message for message, yes in zip(store.under_way, arrives, strict=True) if yes]
        store.under_way = []
    store.begin_snapshot()
    store.log += data.draw(st.permutations(store.under_way[:-1])) + store.under_way[-1:]
    assert shown(known(*store.log)) == store.shown()


UNREADABLE = SecretBox([OTHER_KEY]).seal(PASSWORD)
LINEAGES = {
    "the controller's own": (CONTROLLER, [put(secret=UNREADABLE)], "record 'default' of controller"),
    "outranked by the partner's": (ACME, [put(secret=UNREADABLE), put(ACME)], None),
    "the partner's, which counts": (ACME, [put(), put(ACME, secret=UNREADABLE)], "record 'default' of partner:acme"),
    "an org's whose feature is off": (DEV, [put(ACME), put(DEV, secret=UNREADABLE)], None),
    "an org's whose feature is on": (
        DEV,
        [put(ACME), put(DEV, secret=UNREADABLE), feature()],
        "record 'default' of org:acme/dev",
    ),
    "not the default": (ACME, [put(ACME, A), put(ACME, B, order=2, secret=UNREADABLE)], None),
    "a signing key": (CONTROLLER, [put(dkim_secret=UNREADABLE)], "record 'default' of controller"),
}


@pytest.mark.parametrize(("scope", "items", "named"), LINEAGES.values(), ids=LINEAGES)
def test_an_unreadable_secret_is_an_error_only_where_its_record_is_used(scope, items, named):
    found = known(changes(*items))
    if named is None:
        assert all(c.username is None for c in found.configs_for(scope, BOX.open).records.values())
        return
    with pytest.raises(SecretUnreadable, match=named):
        found.configs_for(scope, BOX.open)


def test_a_missing_key_is_an_error_only_where_it_is_needed():
    found = known(changes(put(secret=SEALED), put(ACME)))
    assert ACME in found.configs_for(ACME, SecretBox([]).open).records
    with pytest.raises(SecretKeyMissing):
        found.configs_for(CONTROLLER, SecretBox([]).open)


def test_a_secret_is_opened_once_for_each_version():
    opened = []

    def count(token):
        opened.append(token)
        return BOX.open(token)

    found = known(changes(put(secret=SEALED)))
    for _ in range(3):
        assert found.configs_for(CONTROLLER, count).records[CONTROLLER].password.get_secret_value() == PASSWORD
    found.apply(changes(put(version=2, secret=SEALED)), 1)
    found.configs_for(CONTROLLER, count)
    assert len(opened) == 2


@pytest.mark.parametrize("secret", [None, SEALED])
def test_a_signing_key_is_opened_like_a_password(secret):
    opened = known(changes(put(secret=secret, dkim_secret=SEALED_KEY))).configs_for(CONTROLLER, BOX.open)
    record = opened.records[CONTROLLER]
    assert record.dkim_key.get_secret_value() == DKIM_KEY
    assert (record.password and record.password.get_secret_value()) == (secret and PASSWORD)


@pytest.mark.parametrize("late", [False, True])
def test_the_same_version_sealed_anew_can_be_opened_whichever_arrives_last(late):
    old, new = SEALED, SecretBox([OTHER_KEY, KEY]).reseal(SEALED)
    old_key, new_key = SEALED_KEY, SecretBox([OTHER_KEY, KEY]).reseal(SEALED_KEY)
    puts = [put(secret=old, dkim_secret=old_key), put(secret=new, dkim_secret=new_key)]
    found = known(*(changes(each) for each in (reversed(puts) if late else puts)))
    opened = found.configs_for(CONTROLLER, SecretBox([OTHER_KEY]).open).records[CONTROLLER]
    assert opened.password.get_secret_value() == PASSWORD
    assert opened.dkim_key.get_secret_value() == DKIM_KEY


def test_a_count_of_records_leaves_out_what_is_deleted():
    assert len(known(changes(put(ACME, A), put(ACME, B), delete(ACME, A)))) == 1
