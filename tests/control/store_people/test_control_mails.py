"""The control plane's mails: each parses as an event and renders, whatever people are called."""

from datetime import UTC, datetime, timedelta

import pytest

from schemas.address import Mailbox
from schemas.cloudevents import STRUCTURED, parse_event
from schemas.smtp_config import CONTROLLER, Scope
from worker.control.mails import Mails
from worker.control.people import NewUser, User, UserState
from worker.control.principals import Role
from worker.message import Sender, render

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAILS = Mails("https://mail.example/", now=lambda: NOW)
VALUE = "pPq-9_" * 7
LINK = f"https://mail.example/auth/links/{VALUE}"
DEV = Scope("acme", "dev")
OLD, NEW = "amara@acme.example", "amara@new.example"
SENDER = Sender("noreply@acme.example", Mailbox(email="noreply@acme.example"), None, "acme.example")

NAMES = [
    ("nobody", None),
    ("plain", "Amara Diallo"),
    ("another script", "Ἀμάρα 阿玛拉 🦊"),
    ("forged header", "Amara\r\nBcc: x@example.org"),
    ("markup", '<html><script>alert("x")</script>{{ 7*7 }}'),
    ("controls", "\x00\x1b[31m\u2028\u202e\ud800"),
    ("an address", '"x" <x@example.org>'),
    ("very long", "long " * 5000),
]
NAMED = pytest.mark.parametrize("name", [row[1] for row in NAMES], ids=[row[0] for row in NAMES])


def new_user(name=None, scope=DEV):
    return NewUser(OLD, name, scope, Role.ADMIN)


def user(name=None):
    return User("id", OLD, name, DEV, Role.ADMIN, UserState.ACTIVE, NOW)


def read(body):
    """The event, and the text of its mail."""
    event = parse_event(body, STRUCTURED)
    return event, render(event, SENDER).message.content.decode()


def test_the_first_admin_is_asked_to_set_a_password():
    event, text = read(MAILS.registered(new_user("Amara"))(VALUE))
    assert (event.envelope.type, event.envelope.source, event.envelope.time) == (
        "user.registered.v1", "urn:postbote:control", NOW,
    )  # fmt: skip
    assert event.scope == DEV
    assert event.data.recipients() == (OLD,)
    assert (event.data.activation_url, event.data.valid_for_hours, event.data.user_name) == (LINK, 72, "Amara")
    assert event.data.expires_at == NOW + timedelta(hours=72)
    assert LINK in text


@pytest.mark.parametrize(
    ("scope", "tenant"), [(DEV, "dev"), (Scope("acme"), "acme"), (CONTROLLER, "Postbote")], ids=str
)
def test_a_further_user_is_invited_by_name_to_the_scope(scope, tenant):
    event, text = read(MAILS.invited(new_user(scope=scope), "ops@acme.example")(VALUE))
    assert (event.envelope.type, event.scope) == ("tenant.invited.v1", scope)
    assert (event.data.tenant_name, event.data.inviter_name) == (tenant, "ops@acme.example")
    assert event.data.accept_url == LINK
    assert LINK in text


def test_a_change_of_address_is_told_to_the_old_one_and_confirmed_from_the_new_one():
    (told, told_text), (asked, asked_text) = map(read, MAILS.email_changed(user("Amara"), NEW, "ops")(VALUE))
    assert [each.envelope.type for each in (told, asked)] == ["admin.email_changed.v1"] * 2
    assert (told.data.recipients(), asked.data.recipients()) == ((OLD,), (NEW,))
    assert (told.data.confirm_url, asked.data.confirm_url) == (None, LINK)
    assert VALUE not in told_text
    assert LINK in asked_text
    assert {each.data.expires_at for each in (told, asked)} == {NOW + timedelta(hours=24)}
    assert {(each.data.old_email.email, each.data.new_email.email) for each in (told, asked)} == {(OLD, NEW)}
    assert told.key != asked.key


def test_each_mail_is_an_event_of_its_own():
    make = MAILS.registered(new_user())
    assert read(make(VALUE))[0].key != read(make(VALUE))[0].key


@NAMED
def test_every_mail_parses_and_renders_whatever_people_are_called(name):
    bodies = [
        MAILS.registered(new_user(name))(VALUE),
        MAILS.invited(new_user(name), name or "")(VALUE),
        *MAILS.email_changed(user(name), NEW, name or "")(VALUE),
    ]
    for event, text in map(read, bodies):
        head, _, content = text.partition("\r\n\r\n")
        assert "Bcc:" not in [line[:4] for line in head.split("\r\n")]
        assert len(event.data.recipients()) == 1
        assert event.data.recipients()[0] in (OLD, NEW)
        assert "<script>" not in content.partition("text/html")[2]
