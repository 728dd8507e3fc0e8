"""Whatever is stored is in ``outgoing``, and nothing else is: one transaction for a change and all that tells of it."""

import orjson
import pytest

from schemas.audit_change import ChangeRecord
from schemas.config_change import Changes
from tests.control.store.samples import ACME, ADA, CONTROLLER, DEV, OPERATOR, PASSWORD, draft
from worker.control.errors import InUse, NotFound, PasswordNeeded, Refused, Stale, Taken
from worker.control.records import KeepPassword, NewPassword, UseReference, UseSecret
from worker.store import trail
from worker.store.outgoing import OutgoingKind, OutgoingShelf

GIVEN = NewPassword(PASSWORD)


async def waiting(store):
    return await OutgoingShelf(store.database).oldest(1000)


async def told(store):
    """The changes that the workers are to hear, oldest first."""
    items = b",".join(each.body for each in await waiting(store) if each.kind is OutgoingKind.CONFIG)
    body = b'{"kind":"changes","published_at":"2026-01-01T00:00:00Z","items":[%s]}' % items
    return list(Changes.model_validate_json(body).items)


async def audited(store):
    """The audit's documents, oldest first, by their ids."""
    pairs = [each.body.split(b" ", 1) for each in await waiting(store) if each.kind is OutgoingKind.AUDIT]
    return [(document_id.decode(), orjson.loads(document)) for document_id, document in pairs]


async def state_of(store):
    return (
        [(each, await store.history(each.scope, each.name)) for each in await store.records()],
        await store.secrets(ACME),
        await store.tokens(),
        await store.changes(),
        len(await waiting(store)),
    )


async def everything(store):
    """One of each change."""
    await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=True)
    await store.save(draft(ACME, "a", GIVEN), ADA)
    await store.save(draft(ACME, "b", UseSecret("relay")), ADA)
    await store.save(draft(DEV, "c", UseSecret("relay")), ADA)
    await store.save(draft(CONTROLLER, "d", UseReference("env:SMTP_PASSWORD")), OPERATOR)
    await store.save(draft(ACME, "a", KeepPassword(), retries=1), ADA)
    await store.roll_back(ACME, "a", 1, ADA)
    await store.order(ACME, ["b", "a"], ADA)
    await store.rotate_secret(ACME, "relay", "another", OPERATOR)
    await store.set_org_feature(DEV, OPERATOR, on=True)
    await store.set_org_feature(DEV, OPERATOR, on=False)
    await store.remove(DEV, "c", ADA)
    await store.remove(ACME, "b", ADA)
    await store.delete_secret(ACME, "relay", ADA)


async def test_the_last_word_on_each_thing_is_what_the_store_says_of_it(store):
    await everything(store)
    last = {}
    for change in await told(store):
        last[change.kind == "feature", change.scope, getattr(change, "name", None)] = change
    assert sorted(map(repr, last.values())) == sorted(map(repr, await store.changes()))


async def test_versions_that_are_told_rise_for_each_record(store):
    await everything(store)
    seen = {}
    for change in await told(store):
        key = (change.kind == "feature", change.scope, getattr(change, "name", None))
        rises = seen.get(key, 0) + (change.kind != "delete")
        assert change.version == rises
        seen[key] = change.version


async def test_every_change_is_audited_with_who_from_where_and_which_fields(store):
    await everything(store)
    found = [
        (doc["type"], doc["action"], doc.get("org") or doc.get("partner"), doc["subject"], doc["version"])
        for _, doc in await audited(store)
    ]
    assert found == [
        ("secret.changed", "created", "acme", "relay", 1),
        ("smtp_config.changed", "created", "acme", "a", 1),
        ("smtp_config.changed", "created", "acme", "b", 1),
        ("smtp_config.changed", "created", "dev", "c", 1),
        ("smtp_config.changed", "created", None, "d", 1),
        ("smtp_config.changed", "updated", "acme", "a", 2),
        ("smtp_config.changed", "rolled_back", "acme", "a", 3),
        ("smtp_config.changed", "ordered", "acme", "a", 4),
        ("smtp_config.changed", "ordered", "acme", "b", 2),
        ("smtp_config.changed", "rotated", "acme", "b", 3),
        ("smtp_config.changed", "rotated", "dev", "c", 2),
        ("secret.changed", "rotated", "acme", "relay", 2),
        ("organization.changed", "switched_on", "dev", "dev", 1),
        ("organization.changed", "switched_off", "dev", "dev", 2),
        ("smtp_config.changed", "deleted", "dev", "c", 2),
        ("smtp_config.changed", "deleted", "acme", "b", 3),
        ("smtp_config.changed", "ordered", "acme", "a", 5),
        ("secret.changed", "deleted", "acme", "relay", 2),
    ]
    documents = [document for _, document in await audited(store)]
    assert documents[5]["changed"] == ["retries"]
    assert documents[5]["actor"] == {
        "kind": "user", "name": "ada@example.com", "scope": "partner:acme", "origin": "192.0.2.7",
    }  # fmt: skip
    assert documents[4]["actor"] == {"kind": "command", "name": "root", "scope": "controller"}
    assert all(ChangeRecord.model_validate({**document, "id": "any"}) for document in documents)


async def test_records_of_the_audit_have_ids_of_their_own_though_they_say_the_same(store):
    for _ in range(3):
        await store.save(draft(), ADA)
        await store.remove(ACME, "default", ADA)
    ids = [document_id for document_id, _ in await audited(store)]
    assert len(set(ids)) == len(ids) == 6


async def test_no_secret_is_in_what_is_told(store):
    await everything(store)
    bodies = b"".join(each.body for each in await waiting(store))
    assert b"smtp.example.net" in bodies
    assert PASSWORD.encode() not in bodies
    assert b"another" not in bodies


@pytest.mark.parametrize("step", ["remember", "post_change", "post_record"])
@pytest.mark.parametrize(
    "change",
    ["create", "replace", "remove", "roll back", "order", "rotate", "feature", "create secret", "delete secret"],
)
async def test_a_failure_in_the_middle_of_a_change_leaves_neither_it_nor_word_of_it(store, monkeypatch, change, step):
    await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=True)
    await store.create_secret(ACME, "unused", PASSWORD, ADA, shared=True)
    await store.save(draft(ACME, "a", GIVEN), ADA)
    await store.save(draft(ACME, "a", UseSecret("relay")), ADA)
    await store.save(draft(ACME, "b"), ADA)
    before = await state_of(store)
    original, calls = getattr(trail, step), []
    failed = 0

    async def fail_after_some(*args):
        calls.append(args)
        await original(*args)
        if len(calls) > failed:
            raise RuntimeError

    monkeypatch.setattr(trail, step, fail_after_some)
    do = {
        "create": lambda: store.save(draft(DEV, password=GIVEN), ADA),
        "replace": lambda: store.save(draft(ACME, "a", NewPassword("another")), ADA),
        "remove": lambda: store.remove(ACME, "a", ADA),
        "roll back": lambda: store.roll_back(ACME, "a", 2, ADA),
        "order": lambda: store.order(ACME, ["b", "a"], ADA),
        "rotate": lambda: store.rotate_secret(ACME, "relay", "another", ADA),
        "feature": lambda: store.set_org_feature(DEV, ADA, on=True),
        "create secret": lambda: store.create_secret(ACME, "new", PASSWORD, ADA, shared=False),
        "delete secret": lambda: store.delete_secret(ACME, "unused", ADA),
    }[change]
    while True:
        calls.clear()
        try:
            await do()
        except RuntimeError:
            assert await state_of(store) == before
            failed += 1
        else:
            break
    secret, feature = change.endswith("secret"), change == "feature"
    assert failed >= (step == "post_record" or (step == "post_change" and not secret) or not (secret or feature))
    assert await state_of(store) != before


async def test_what_is_refused_tells_nobody_anything(store):
    await store.create_secret(ACME, "relay", PASSWORD, ADA, shared=True)
    await store.save(draft(ACME, password=UseSecret("relay")), ADA)
    before = await state_of(store)
    refused = [
        (store.save(draft(ACME), ADA, create=True), Taken),
        (store.save(draft(ACME), ADA, expected=7), Stale),
        (store.save(draft(ACME, password=KeepPassword(), host="thief.example.net"), ADA), PasswordNeeded),
        (store.save(draft(DEV, password=UseSecret("absent")), ADA), NotFound),
        (store.remove(ACME, "default", ADA, expected=7), Stale),
        (store.roll_back(ACME, "default", 7, ADA), NotFound),
        (store.order(ACME, ["default", "absent"], ADA), NotFound),
        (store.create_secret(ACME, "relay", PASSWORD, ADA, shared=False), Taken),
        (store.rotate_secret(ACME, "absent", PASSWORD, ADA), NotFound),
        (store.delete_secret(ACME, "relay", ADA), InUse),
        (store.create_secret(ACME, "config:x", PASSWORD, ADA, shared=False), Refused),
    ]
    for attempt, error in refused:
        with pytest.raises(error):
            await attempt
    assert not await store.remove(DEV, "default", ADA)
    assert await state_of(store) == before
