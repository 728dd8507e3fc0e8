"""What a reader of the topic knows of a scope's fallbacks, and of passwords that are references."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.config_change import Changes, Put, read_message
from tests.unit.config_topic.samples import (
    ACME,
    BOX,
    CONTROLLER,
    DEV,
    OTHER_KEY,
    PASSWORD,
    SEALED,
    changes,
    delete,
    feature,
    put,
)
from tests.unit.config_topic.test_known_configs import known
from worker.control.references import Opening
from worker.errors import SecretUnreadable
from worker.store.controller import ControllerFromEnvironment
from worker.store.secrets import SecretBox
from worker.testing import StaticConfigs

A, B, C = "a", "b", "c"
UNREADABLE = SecretBox([OTHER_KEY]).seal(PASSWORD)


def second(name=B, order=2, **given):
    return put(ACME, name, order=order, fallback=True, **given)


THREE = [put(ACME, A, order=1), second(B, 2), second(C, 3)]
ORDERS = {
    "in the order of their ranks": (THREE, [A, B, C]),
    "whatever order they arrive in": (THREE[::-1], [A, B, C]),
    "a record that is no fallback is not used": ([put(ACME, A), put(ACME, B, order=2), second(C, 3)], [A, C]),
    "the next one is the default once the default is deleted": ([*THREE, delete(ACME, A, 1)], [B, C]),
    "a deleted one is gone": ([*THREE, delete(ACME, B, 1)], [A, C]),
    "a new version has a new place": ([*THREE, second(C, 0, version=2)], [C, B]),
    "a new version that is no fallback any more": ([*THREE, put(ACME, B, 2, order=2)], [A, C]),
    "an older version changes nothing": ([second(B, 2, version=3), second(B, 9), *THREE], [A, B, C]),
    "an unreadable one is left out": ([put(ACME, A), second(B, 2, secret=UNREADABLE), second(C, 3)], [A, C]),
    "a readable one has its password": ([put(ACME, A), second(B, 2, secret=SEALED)], [A, B]),
    "another scope's are not this one's": ([put(ACME, A), put(name=B, order=2, fallback=True)], [A]),
    "an org's own fallbacks, while its feature is on": (
        [put(ACME, A), second(), put(DEV, C), put(DEV, B, order=2, fallback=True), feature()],
        [C, B],
    ),
    "the partner's, while the org's feature is off": ([put(ACME, A), second(), put(DEV, C)], [A, B]),
    "none where only the default is left": ([put(ACME, A)], [A]),
}


@pytest.mark.parametrize(("history", "expected"), ORDERS.values(), ids=ORDERS)
def test_the_default_comes_first_and_its_fallbacks_follow(history, expected):
    found = known(*map(changes, history))
    answer = found.configs_for(DEV, BOX.open)
    used = DEV if answer.org_enabled else ACME
    assert [answer.records[used].display_name, *names(answer.fallbacks.get(used, ()))] == expected
    assert set(answer.fallbacks) <= {used}


def names(records):
    return [each.display_name for each in records]


def test_a_place_is_worked_out_anew_after_each_change():
    found = known(changes(*THREE))
    assert names(found.configs_for(ACME, BOX.open).fallbacks[ACME]) == [B, C]
    found.apply(changes(second(B, 7, version=2)), 1)
    assert names(found.configs_for(ACME, BOX.open).fallbacks[ACME]) == [C, B]
    found.apply(changes(delete(ACME, A, 1)), 2)
    assert names(found.configs_for(ACME, BOX.open).fallbacks[ACME]) == [B]


def test_a_fallback_is_opened_at_its_first_use_and_once():
    opened = []

    def count(token):
        opened.append(token)
        return BOX.open(token)

    found = known(changes(put(ACME, A), second(secret=SEALED)))
    first, again = (found.configs_for(ACME, count).fallbacks[ACME][0] for _ in range(2))
    assert first is again
    assert len(opened) == 1


@given(st.permutations([*THREE, second(B, 9, version=2), delete(ACME, C, 1), put(ACME, A, 2, order=5)]))
def test_fallbacks_are_the_same_in_whatever_order_the_changes_arrive(history):
    answer = known(*map(changes, history)).configs_for(ACME, BOX.open)
    assert (answer.records[ACME].display_name, names(answer.fallbacks[ACME])) == (A, [B])


def test_a_message_from_before_there_were_fallbacks_is_read():
    old = json.loads(changes(put(ACME, A)).model_dump_json())
    del old["items"][0]["fallback"]
    read = read_message(json.dumps(old).encode())
    assert not read.faults
    assert isinstance(read.message, Changes)
    [found] = read.message.items
    assert isinstance(found, Put)
    assert not found.fallback


# Passwords by reference


class Host:
    """A host's variables, and the time there."""

    def __init__(self, **variables: str) -> None:
        self.variables = variables
        self.now = 1000.0
        self.open = Opening(BOX.open, self.variables.get, lambda: self.now)


def test_a_reference_is_read_where_its_record_is_used():
    host = Host(RELAY="s3cret")
    record = known(changes(put(secret="env:RELAY"))).configs_for(CONTROLLER, host.open).records[CONTROLLER]
    assert record.password.get_secret_value() == "s3cret"


def test_what_a_reference_leads_to_is_asked_for_again_after_half_a_minute():
    host = Host(RELAY="old")
    found = known(changes(put(secret="env:RELAY")))

    def record():
        return found.configs_for(CONTROLLER, host.open).records[CONTROLLER]

    first = record()
    host.variables["RELAY"] = "new"
    host.now += 29
    assert record() is first
    host.now += 1
    assert record().password.get_secret_value() == "new"
    host.now += 60
    assert record() is record()  # the same object as long as its password is: what is known of it hangs on that


def test_a_reference_that_leads_nowhere_names_the_record_and_the_place():
    found = known(changes(put(secret="env:RELAY")))
    with pytest.raises(SecretUnreadable, match="record 'default' of controller: env:RELAY: the variable is not set"):
        found.configs_for(CONTROLLER, Host().open)


def test_a_tenants_reference_is_not_read_even_where_it_got_into_the_topic():
    forged = put(ACME, A, secret=SEALED).model_copy(update={"secret": "env:RELAY"})
    found = known(Changes.model_construct(items=(forged,), snapshot=None))
    with pytest.raises(SecretUnreadable, match="only the controller's records"):
        found.configs_for(ACME, Host(RELAY="s3cret").open)


async def test_the_environments_controller_record_has_no_fallbacks_and_a_partner_keeps_its_own():
    own, other = (put(CONTROLLER, name).config.opened(None) for name in ("own", "other"))
    first, behind = (put(ACME, name).config.opened(None) for name in (A, B))
    stored = StaticConfigs({CONTROLLER: own, ACME: first}, fallbacks={CONTROLLER: (other,), ACME: (behind,)})
    laid_over = ControllerFromEnvironment(stored, put(CONTROLLER, "environment").config.opened(None))
    assert (await laid_over.configs_for(ACME)).fallbacks == {ACME: (behind,)}
    assert (await laid_over.configs_for(CONTROLLER)).fallbacks == {}
