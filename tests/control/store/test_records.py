"""Records as the control plane handles them: saved under rules, remembered, rolled back, deleted."""

import asyncio

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from schemas.audit_change import Action
from tests.control.store.samples import ACME, ADA, CONTROLLER, DEV, KEY, OPERATOR, OPS, OTHER, PASSWORD, draft
from worker.control.errors import NotFound, PasswordNeeded, Refused, Stale, Taken
from worker.control.ports import Records
from worker.control.principals import Kind
from worker.control.records import KeepPassword, NewPassword, NoPassword, SecretName, UseReference, UseSecret
from worker.errors import SecretKeyMissing, SecretUnreadable
from worker.store.configs import ConfigStore
from worker.store.secrets import SecretBox

GIVEN = NewPassword(PASSWORD)
SIGNED = {"dkim_domain": "example.net", "dkim_selector": "mail1"}
PEM = "-----BEGIN RSA PRIVATE KEY-----\n"


async def password_of(store: ConfigStore, scope=ACME, name="default"):
    found = await store.opened(scope, name)
    return found.password.get_secret_value() if found and found.password else None


async def saved(store: ConfigStore, *drafts, actor=ADA):
    return [await store.save(each, actor) for each in drafts]


def wants(store: ConfigStore) -> Records:
    """That the store fulfils the protocol is for mypy to say."""
    return store


# Saving


async def test_a_saved_record_is_shown_without_its_password_and_with_who_saved_it(store):
    found = await wants(store).save(draft(password=GIVEN, from_address="a@example.net"), ADA)
    assert found == await store.record(ACME, "default") == (await store.records(ACME))[0]
    assert (found.version, found.is_default, found.fallback, found.updated_by) == (1, True, None, "ada@example.com")
    assert (found.password_set, found.dkim_key_set, found.reference) == (True, False, None)
    assert found.secret == SecretName(ACME, "config:default")
    assert found.fields["from_address"] == "a@example.net"
    assert PASSWORD not in f"{found!r}{found.to_json()}"
    assert found.to_json()["secret"] is None, "a password that was given with the record has no name to show"
    assert await password_of(store) == PASSWORD


async def test_creating_what_is_there_is_refused_with_the_field(store):
    await saved(store, draft())
    with pytest.raises(Taken) as caught:
        await store.save(draft(host="other.example.net"), ADA, create=True)
    assert caught.value.path == "display_name"
    assert (await store.record(ACME, "default")).version == 1
    assert (await store.save(draft(DEV), ADA, create=True)).version == 1


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_stale_save_is_refused_with_the_version_there_is(store, expected):
    await saved(store, draft(), draft(host="second.example.net"))
    with pytest.raises(Stale) as caught:
        await store.save(draft(host="lost.example.net"), ADA, expected=expected)
    assert caught.value.current == 2
    assert (await store.opened(ACME, "default")).host == "second.example.net"
    assert (await store.save(draft(), ADA, expected=2)).version == 3


async def test_a_version_of_a_record_that_is_gone_is_stale_and_none_is_expected_as_zero(store):
    await saved(store, draft())
    await store.remove(ACME, "default", ADA)
    with pytest.raises(Stale) as caught:
        await store.save(draft(), ADA, expected=1)
    assert caught.value.current == 0
    assert (await store.save(draft(), ADA, expected=0)).version == 2


async def test_of_two_saves_that_expect_the_same_version_one_is_stale(store, url):
    neighbour = ConfigStore(url, SecretBox([KEY]))
    await saved(store, draft())
    await neighbour.records(ACME)  # a connection that stands already
    for version in range(1, 6):
        both = [
            each.save(draft(host=f"{n}.example.net"), ADA, expected=version) for n, each in ((1, store), (2, neighbour))
        ]
        ended = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(type(each).__name__ for each in ended) == ["Stale", "StoredRecord"]
    await neighbour.close()
    assert [entry.version for entry in await store.history(ACME, "default")] == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"port": 70000}, "port"),
        ({"host": "not a host"}, "host"),
        ({"tls": "none", "password": GIVEN}, "never sent without TLS"),
        ({"username": "mailer"}, "username is set without password"),
        ({"password": GIVEN, "username": None}, "password is set without username"),
        ({"unknown": 1}, "unknown"),
        ({"dkim_domain": "example.net"}, "dkim_selector is missing"),
    ],
)
async def test_fields_that_break_a_rule_are_pydantics_errors_and_nothing_is_stored(store, fields, words):
    with pytest.raises(ValidationError, match=words):
        await store.save(draft(**fields), ADA)
    assert await store.records(ACME) == ()
    assert await store.history(ACME, "default") == ()


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (draft(password=NewPassword("")), "password"),
        (draft(password=NewPassword("\udc80")), "password"),
        (draft(password=NewPassword("x" * 8193)), "password"),
        (draft(**SIGNED), "dkim_key"),
        (draft(**SIGNED, dkim_key="x" * 8193), "dkim_key"),
        (draft(name="n" * 257), "display_name"),
        (draft(display_name="another"), "display_name"),
        (draft(ca_bundle="-----BEGIN\0"), "ca_bundle"),
        (draft(password=UseReference("env:SMTP_PASSWORD")), "password_ref"),
        (draft(CONTROLLER, password=UseReference("https://example.com")), "password_ref"),
        (draft(CONTROLLER, password=UseReference("env:NOT A NAME")), "password_ref"),
    ],
)
async def test_what_cannot_be_stored_is_refused_at_its_field(store, given, path):
    for attempt in (store.save(given, ADA), store.drafted(given)):
        with pytest.raises(Refused) as caught:
            await attempt
        assert caught.value.path == path
    assert await store.records() == ()


# Passwords


@pytest.mark.parametrize("change", [{"from_address": "a@example.net"}, {"tls": "ssl"}, {"retries": 0}])
async def test_a_password_is_kept_while_host_port_and_username_stay(store, change):
    await saved(store, draft(password=GIVEN), draft(password=KeepPassword(), **change))
    assert await password_of(store) == PASSWORD
    assert (await store.record(ACME, "default")).version == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"host": "thief.example.net"}, "host differs"),
        ({"port": 465}, "port differs"),
        ({"username": "somebody"}, "username differs"),
        ({"username": None}, "username differs"),
        ({"host": "thief.example.net", "username": "somebody"}, "host and username differ from"),
    ],
)
async def test_a_password_is_never_kept_for_another_server_or_user(store, change, words):
    await saved(store, draft(password=GIVEN))
    moved = draft(password=KeepPassword(), **change)
    for attempt in (store.save(moved, ADA), store.drafted(moved)):
        with pytest.raises(PasswordNeeded, match=words) as caught:
            await attempt
        assert caught.value.path == "password"
        assert "could be sent to another server" in str(caught.value)
    assert (await store.opened(ACME, "default")).host == "smtp.example.net"


async def test_there_is_no_password_to_keep_where_nothing_is_stored_not_even_in_a_wider_scope(store):
    await saved(store, draft(ACME, password=GIVEN))
    with pytest.raises(PasswordNeeded, match="no stored record"):
        await store.save(draft(DEV, password=KeepPassword()), ADA)
    assert (await store.save(draft(DEV, password=KeepPassword(), username=None), ADA)).password_set is False


async def test_keeping_needs_no_key_and_storing_a_password_does(store, url):
    await saved(store, draft(password=GIVEN))
    keyless = ConfigStore(url, SecretBox([]))
    assert (await keyless.save(draft(password=KeepPassword(), retries=1), ADA)).version == 2
    with pytest.raises(SecretKeyMissing):
        await keyless.save(draft(password=GIVEN), ADA)
    await keyless.close()
    assert await password_of(store) == PASSWORD


async def test_a_record_that_turns_anonymous_forgets_its_password(store):
    await saved(store, draft(password=GIVEN), draft())
    assert (await store.record(ACME, "default")).secret is None
    assert await store.tokens() == {}
    with pytest.raises(PasswordNeeded):
        await store.save(draft(password=KeepPassword()), ADA)


@pytest.mark.parametrize(
    "then",
    [NoPassword(), UseSecret("named"), UseReference("env:SMTP_PASSWORD"), None],
    ids=["anonymous", "named", "reference", "deleted"],
)
async def test_the_own_password_of_a_record_goes_with_its_use(store, then):
    await store.create_secret(CONTROLLER, "named", "by name", OPERATOR, shared=False)
    await saved(store, draft(CONTROLLER, password=GIVEN), draft(CONTROLLER, "other", GIVEN))
    if then is None:
        await store.remove(CONTROLLER, "default", OPERATOR)
    else:
        await saved(store, draft(CONTROLLER, password=then))
    async with store.database.reading() as connection:
        kept = sorted((await connection.execute(text("SELECT name FROM secrets"))).scalars())
    assert kept == ["config:other", "named"]


async def test_a_reference_is_the_controllers_and_read_where_it_is_opened(store, url):
    settings = {"SMTP_PASSWORD": PASSWORD}
    worker = ConfigStore(url, SecretBox([]), settings.get)
    found = await worker.save(draft(CONTROLLER, password=UseReference("env:SMTP_PASSWORD")), OPERATOR)
    assert (found.reference, found.secret, found.password_set) == ("env:SMTP_PASSWORD", None, True)
    assert await password_of(worker, CONTROLLER) == PASSWORD
    assert (await worker.configs_for(DEV)).records[CONTROLLER].password.get_secret_value() == PASSWORD
    await worker.close()
    with pytest.raises(SecretUnreadable, match="record 'default' of controller: env:SMTP_PASSWORD"):
        await store.opened(CONTROLLER, "default")
    await store.verify_secrets()
    assert await store.reseal() == 0
    kept = await store.save(draft(CONTROLLER, password=KeepPassword(), retries=1), OPERATOR)
    assert kept.reference == "env:SMTP_PASSWORD"


async def test_a_signing_key_is_kept_for_its_domain_and_selector_only(store):
    await saved(store, draft(**SIGNED, dkim_key=PEM), draft(**SIGNED, retries=1))
    assert (await store.opened(ACME, "default")).dkim_key.get_secret_value() == PEM
    with pytest.raises(Refused) as caught:
        await store.save(draft(**SIGNED | {"dkim_selector": "mail2"}), ADA)
    assert caught.value.path == "dkim_key"
    (plain,) = await saved(store, draft())
    assert not plain.dkim_key_set


# Drafts


async def test_a_draft_is_what_would_be_stored_and_stores_nothing(store):
    await saved(store, draft(password=GIVEN, **SIGNED, dkim_key=PEM))
    found = await store.drafted(draft(password=KeepPassword(), **SIGNED, retries=9))
    assert (found.password.get_secret_value(), found.dkim_key.get_secret_value()) == (PASSWORD, PEM)
    assert (found.scope, found.display_name, found.retries, found.version) == (ACME, "default", 9, 2)
    other = await store.drafted(draft(DEV, "unsaved", NewPassword("another")))
    assert (other.password.get_secret_value(), other.version) == ("another", 1)
    (stored,) = await store.records()
    assert stored.version == 1
    assert stored.fields["retries"] == 3


# History


async def test_each_version_has_its_fields_who_made_it_so_and_what_differs(store):
    await saved(store, draft(password=GIVEN))
    await store.save(draft(password=NewPassword("changed"), host="second.example.net"), OPERATOR)
    await saved(store, draft(password=KeepPassword(), host="second.example.net", retries=1, **SIGNED, dkim_key=PEM))
    await store.remove(ACME, "default", ADA)
    await saved(store, draft())
    made, deleted, third, second, first = await store.history(ACME, "default")
    assert [entry.version for entry in (first, second, third, deleted, made)] == [1, 2, 3, 3, 4]
    assert [e.action for e in (first, second, deleted, made)] == [
        Action.CREATED, Action.UPDATED, Action.DELETED, Action.CREATED,
    ]  # fmt: skip
    assert first.actor == deleted.actor == ADA
    assert (second.actor, second.actor.kind) == (OPERATOR, Kind.COMMAND)
    assert set(second.changed) == {"host", "password"}
    assert set(third.changed) == {"retries", "dkim_domain", "dkim_selector", "dkim_key"}
    assert (first.fields["host"], second.fields["host"]) == ("smtp.example.net", "second.example.net")
    assert first.at <= second.at <= third.at
    assert PASSWORD not in repr(await store.history(ACME, "default"))
    assert "changed" not in repr(second.fields)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (GIVEN, GIVEN, False),
        (GIVEN, NewPassword("another"), True),
        (GIVEN, KeepPassword(), False),
        (GIVEN, UseSecret("named"), True),
        (UseSecret("named"), UseSecret("named"), False),
        (UseSecret("named"), GIVEN, True),
        (UseReference("env:A"), UseReference("env:A"), False),
        (UseReference("env:A"), UseReference("env:B"), True),
        (GIVEN, UseReference("env:A"), True),
        (UseReference("env:A"), GIVEN, True),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_password_is_said_to_have_changed_when_it_or_its_source_did(store, before, after, said):
    await store.create_secret(CONTROLLER, "named", PASSWORD, OPERATOR, shared=False)
    await saved(store, draft(CONTROLLER, password=before), draft(CONTROLLER, password=after))
    newest = (await store.history(CONTROLLER, "default"))[0]
    assert newest.changed == (("password",) if said else ())


async def test_a_history_is_its_own_records_alone(store):
    for scope in (ACME, DEV, OPS, OTHER):
        await saved(store, draft(scope), draft(scope, "second"))
    assert len(await store.history(DEV, "second")) == 1
    assert await store.history(DEV, "absent") == ()


# Rolling back


async def test_a_rollback_stores_the_old_fields_as_the_next_version_and_keeps_the_password(store):
    await saved(store, draft(password=GIVEN, retries=1), draft(password=NewPassword("newer"), retries=7))
    found = await store.roll_back(ACME, "default", 1, OPERATOR, expected=2)
    assert (found.version, found.fields["retries"]) == (3, 1)
    assert await password_of(store) == "newer", "the stored one, as the history holds none"
    assert (await store.history(ACME, "default"))[0].action is Action.ROLLED_BACK


async def test_a_rollback_to_another_server_wants_its_password(store):
    await saved(store, draft(password=GIVEN), draft(password=NewPassword("newer"), host="second.example.net"))
    with pytest.raises(PasswordNeeded):
        await store.roll_back(ACME, "default", 1, ADA)
    assert (await store.record(ACME, "default")).version == 2


async def test_a_rollback_of_anonymous_records_references_and_named_secrets_keeps_their_kind(store):
    await store.create_secret(CONTROLLER, "named", "by name", OPERATOR, shared=True)
    kinds = (NoPassword(), UseReference("file:/run/secrets/smtp"), UseSecret("named"))
    await saved(store, *(draft(CONTROLLER, password=kind) for kind in kinds), draft(CONTROLLER, password=GIVEN))
    anonymous = await store.roll_back(CONTROLLER, "default", 1, OPERATOR)
    assert (anonymous.password_set, anonymous.secret) == (False, None)
    referring = await store.roll_back(CONTROLLER, "default", 2, OPERATOR)
    assert referring.reference == "file:/run/secrets/smtp"
    named = await store.roll_back(CONTROLLER, "default", 3, OPERATOR)
    assert named.secret == SecretName(CONTROLLER, "named")
    assert await password_of(store, CONTROLLER) == "by name"


async def test_a_rollback_uses_the_very_secret_of_then_and_not_a_nearer_one_of_that_name(store):
    await store.create_secret(ACME, "named", "the partner's", ADA, shared=True)
    await saved(store, draft(DEV, password=UseSecret("named")), draft(DEV))
    await store.create_secret(DEV, "named", "the org's", ADA, shared=False)
    found = await store.roll_back(DEV, "default", 1, ADA)
    assert found.secret == SecretName(ACME, "named")
    assert await password_of(store, DEV) == "the partner's"


async def test_a_rollback_to_a_secret_that_is_gone_wants_the_password(store):
    await store.create_secret(ACME, "named", "by name", ADA, shared=False)
    await saved(store, draft(password=UseSecret("named")), draft())
    await store.delete_secret(ACME, "named", ADA)
    with pytest.raises(PasswordNeeded):
        await store.roll_back(ACME, "default", 1, ADA)


async def test_a_deleted_record_comes_back_where_it_needs_no_password_of_its_own(store):
    await store.create_secret(ACME, "named", "by name", ADA, shared=False)
    await saved(store, draft(password=UseSecret("named")), draft(password=GIVEN), draft())
    await store.remove(ACME, "default", ADA)
    with pytest.raises(PasswordNeeded, match="no stored record"):
        await store.roll_back(ACME, "default", 2, ADA)
    back = await store.roll_back(ACME, "default", 1, ADA, expected=0)
    assert (back.version, back.is_default) == (4, True)
    assert await password_of(store) == "by name"
    await store.remove(ACME, "default", ADA)
    assert (await store.roll_back(ACME, "default", 3, ADA)).version == 5


async def test_a_rollback_to_a_signature_whose_key_is_not_stored_any_more_is_refused(store):
    await saved(store, draft(**SIGNED, dkim_key=PEM), draft(**SIGNED, retries=1), draft())
    with pytest.raises(Refused) as caught:
        await store.roll_back(ACME, "default", 1, ADA)
    assert caught.value.path == "dkim_key"


@pytest.mark.parametrize("version", [-1, 0, 3, 2**31, 10**30])
async def test_a_version_that_never_was_is_not_found(store, version):
    await saved(store, draft(), draft())
    with pytest.raises(NotFound) as caught:
        await store.roll_back(ACME, "default", version, ADA)
    assert caught.value.path == "version"


async def test_a_stale_rollback_is_refused(store):
    await saved(store, draft(), draft())
    with pytest.raises(Stale):
        await store.roll_back(ACME, "default", 1, ADA, expected=1)


# Deleting


async def test_a_stale_delete_is_refused_and_what_is_not_there_is_false(store):
    await saved(store, draft(password=GIVEN), draft(password=GIVEN))
    with pytest.raises(Stale):
        await store.remove(ACME, "default", ADA, expected=1)
    assert await store.remove(ACME, "default", ADA, expected=2)
    assert not await store.remove(ACME, "default", ADA, expected=2)
    assert await store.tokens() == {}
    assert not await store.remove(DEV, "default", ADA)
