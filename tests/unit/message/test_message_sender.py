"""Whose name a mail bears."""

import pytest
from message_events import event

from schemas.smtp_config import SmtpConfig
from worker.message import ConfigFaultReason, choose_sender


def config(**fields):
    return SmtpConfig.model_validate({"host": "mail.acme.example", "port": 587, "tls": "starttls", **fields})


LOGIN = {"username": "relay@acme.example", "password": "throw-away"}
OWN = {"from_address": "noreply@acme.example"}


@pytest.mark.parametrize(
    ("asked", "record", "author"),
    [
        (None, OWN, "noreply@acme.example"),
        (None, LOGIN, "relay@acme.example"),
        (None, {**LOGIN, **OWN}, "noreply@acme.example"),
        ("noreply@acme.example", OWN, "noreply@acme.example"),
        ("relay@acme.example", LOGIN, "relay@acme.example"),
        ("relay@acme.example", {**LOGIN, **OWN}, "noreply@acme.example"),
        ("boss@acme.example", OWN, "noreply@acme.example"),
        ("boss@acme.example", {**OWN, "allowed_from": ["boss@acme.example"]}, "boss@acme.example"),
        ("Boss@acme.example", {**OWN, "allowed_from": ["boss@acme.example"]}, "noreply@acme.example"),
        ("boss@ACME.example", {**OWN, "allowed_from": ["boss@Acme.Example"]}, "boss@acme.example"),
        ("boss@acme.example", {**OWN, "allowed_from": ["@acme.example"]}, "boss@acme.example"),
        ("boss@acme.example", {**OWN, "allowed_from": ["*@ACME.example"]}, "boss@acme.example"),
        ("boss@sub.acme.example", {**OWN, "allowed_from": ["@acme.example"]}, "noreply@acme.example"),
        ("boss@notacme.example", {**OWN, "allowed_from": ["@acme.example", "acme.example"]}, "noreply@acme.example"),
        ("a@bücher.example", {**OWN, "allowed_from": ["@bücher.example"]}, "a@xn--bcher-kva.example"),
        ("noreply@acme.example", {**OWN, "allowed_from": ["boss@acme.example"]}, "noreply@acme.example"),
        ("boss@acme.example", {"allowed_from": ["@acme.example"]}, "boss@acme.example"),
        ("boss@acme.example", {**OWN, "allowed_from": ["not an address", "@", "*"]}, "noreply@acme.example"),
    ],
)
def test_the_author_is(asked, record, author):
    fields = {"subject": "s", "text": "t"} | ({"from": asked} if asked else {})
    chosen = choose_sender(event(**fields), config(**record))
    assert (chosen.from_.email, chosen.mail_from) == (author, author)
    assert chosen.message_id_domain == author.partition("@")[2]
    assert chosen.bulk is False


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"username": "relay", "password": "throw-away"},
        {"username": "odd @ name", "password": "throw-away"},
        {"allowed_from": ["@other.example"]},
    ],
)
def test_a_record_that_names_nobody_is_a_config_fault(record):
    fault = choose_sender(event(**{"subject": "s", "text": "t", "from": "a@acme.example"}), config(**record))
    assert isinstance(fault, ConfigFaultReason)
    assert fault.code == "no_from_address"
    assert "from_address" in fault.detail


def test_an_admitted_author_keeps_the_display_name_and_a_replaced_one_loses_it():
    asking = event(**{"subject": "s", "text": "t", "from": "The Boss <boss@acme.example>"})
    assert choose_sender(asking, config(**OWN, allowed_from=["@acme.example"])).from_.name == "The Boss"
    assert choose_sender(asking, config(**OWN)).from_.name is None
    own = event(**{"subject": "s", "text": "t", "from": "Acme Mail <noreply@acme.example>"})
    assert choose_sender(own, config(**OWN)).from_.name == "Acme Mail"


@pytest.mark.parametrize(
    ("asked", "record", "expected"),
    [
        ("me@acme.example", {"reply_to": "desk@acme.example"}, "me@acme.example"),
        (None, {"reply_to": "desk@acme.example"}, "desk@acme.example"),
        (None, {}, None),
    ],
)
def test_the_reply_address_is_the_events_then_the_records_and_never_invented(asked, record, expected):
    fields = {"subject": "s", "text": "t", "from": "other@elsewhere.example"} | ({"reply_to": asked} if asked else {})
    chosen = choose_sender(event(**fields), config(**OWN, **record))
    assert (chosen.reply_to.email if chosen.reply_to else None) == expected
