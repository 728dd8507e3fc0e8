"""A record in each product's spelling, what is understood, and where an error points."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from schemas.smtp_config import Scope, SmtpConfig
from schemas.smtp_spellings import (
    Anonymous,
    GivenPassword,
    InvalidSpelling,
    NamedSecret,
    PasswordReference,
    Spelled,
    Unsaid,
    read_smtp_config,
)

CONTROLLER, ACME, DEV = Scope(), Scope("acme"), Scope("acme", "dev")
PASSWORD = "hunter2-app-password"

RAFAY = {
    "username": "relay@example.com",
    "password": PASSWORD,
    "host": "smtp.example.com",
    "port": 587,
    "use_tls": True,
    "use_insecure": False,
    "retries": 3,
}
HARNESS = {
    "host": "smtp.example.com",
    "port": 465,
    "useSSL": True,
    "startTLS": False,
    "fromAddress": "noreply@example.com",
    "username": "relay",
    "password": PASSWORD,
}
PALETTE = {
    "smtpServer": "smtp.example.com",
    "smtpPort": 587,
    "fromEmailId": "noreply@example.com",
    "insecureSkipVerifyTls": True,
    "userName": "relay",
    "password": PASSWORD,
}
NATIVE = {"host": "smtp.example.com", "port": 587, "tls": "starttls"}


def wrapped(**fields: Any) -> dict[str, Any]:
    return {"email_config": {"smtp_config": fields}}


def errors_of(document: Any, scope: Scope = ACME, prefix: str = "") -> dict[str, str]:
    with pytest.raises(InvalidSpelling) as caught:
        read_smtp_config(document, scope, prefix)
    assert PASSWORD not in str(caught.value)
    assert not any(PASSWORD in f"{error}" for error in caught.value.errors)
    return {error.path: error.message for error in caught.value.errors}


UNDERSTOOD = [
    (
        "Rafay's documented body",
        wrapped(**RAFAY),
        {"tls": "starttls", "verify_tls": True, "retries": 3, "username": "relay@example.com", "port": 587},
    ),
    ("Rafay's port as a numeric text", wrapped(**RAFAY | {"port": "587"}), {"port": 587, "tls": "starttls"}),
    ("use_tls on port 465 is ssl", wrapped(**RAFAY | {"port": "465"}), {"port": 465, "tls": "ssl"}),
    ("use_insecure is the opposite of verify_tls", wrapped(**RAFAY | {"use_insecure": True}), {"verify_tls": False}),
    ("Harness with SSL", HARNESS, {"tls": "ssl", "from_address": "noreply@example.com", "port": 465}),
    ("Harness with Start TLS", HARNESS | {"useSSL": False, "startTLS": True, "port": 587}, {"tls": "starttls"}),
    ("Harness with both boxes is ssl", HARNESS | {"startTLS": True}, {"tls": "ssl"}),
    (
        "Harness with no box and no credentials is in clear",
        {"host": "h", "port": 25, "useSSL": False, "startTLS": False},
        {"tls": "none"},
    ),
    (
        "Palette",
        PALETTE,
        {"host": "smtp.example.com", "port": 587, "tls": "starttls", "verify_tls": False, "username": "relay"},
    ),
    ("Palette says nothing of TLS: the port does", PALETTE | {"smtpPort": 465}, {"tls": "ssl"}),
    ("smtpServer and useSSL may stand together", {"smtpServer": "h", "port": 465, "useSSL": True}, {"tls": "ssl"}),
    ("two spellings that agree", NATIVE | {"smtpServer": "smtp.example.com", "use_tls": True}, {"tls": "starttls"}),
    ("tls ssl on another port, as it is shown", wrapped(host="h", port=587, use_tls=True, tls="ssl"), {"tls": "ssl"}),
    ("an empty text is none", NATIVE | {"username": "", "password": "", "reply_to": ""}, {"host": "smtp.example.com"}),
    ("null is none", NATIVE | {"username": None, "password": None, "rate_per_minute": None}, {"port": 587}),
]


@pytest.mark.parametrize(("document", "expected"), [row[1:] for row in UNDERSTOOD], ids=[row[0] for row in UNDERSTOOD])
def test_each_spelling_is_understood(document: dict[str, Any], expected: dict[str, Any]) -> None:
    spelled = read_smtp_config(document, ACME)
    assert {name: spelled.fields[name] for name in expected} == expected
    assert not {"password", "display_name", "partner", "org"} & set(spelled.fields)
    assert PASSWORD not in repr(spelled)
    assert PASSWORD not in repr(spelled.password)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"username": "u", "password": PASSWORD}, GivenPassword(PASSWORD)),
        ({"username": "u", "secret": "relay"}, NamedSecret("relay")),
        ({"username": "u", "password_ref": "env:RELAY_PASSWORD"}, PasswordReference("env:RELAY_PASSWORD")),
        ({"username": "u", "password_ref": "file:/run/secrets/relay"}, PasswordReference("file:/run/secrets/relay")),
        ({"username": "u"}, Unsaid()),
        ({"username": "u", "password": ""}, Unsaid()),
        ({}, Anonymous()),
    ],
)
def test_what_is_said_of_the_password(fields: dict[str, Any], expected: Any) -> None:
    assert read_smtp_config(NATIVE | fields, CONTROLLER).password == expected


NOTICED = [
    ("both check boxes", HARNESS | {"startTLS": True}, "useSSL and startTLS are both on"),
    ("nothing said of TLS", PALETTE, "nothing was said about TLS: starttls"),
    ("starttls on 465", NATIVE | {"port": 465}, "port 465 speaks TLS at once"),
    ("ssl on 587", NATIVE | {"tls": "ssl"}, "port 587 begins in clear"),
    ("a default that is asked for here", NATIVE | {"is_default": True}, "is_default is shown only"),
]


@pytest.mark.parametrize(("document", "notice"), [row[1:] for row in NOTICED], ids=[row[0] for row in NOTICED])
def test_what_may_surprise_is_noticed(document: dict[str, Any], notice: str) -> None:
    [found] = read_smtp_config(document, ACME).notices
    assert notice in found


def test_a_plain_record_has_no_notice() -> None:
    assert read_smtp_config(wrapped(**RAFAY), ACME).notices == ()


REFUSED = [
    ("no object", [1], {"body": "is not a JSON object"}),
    ("a wrapper around nothing", {"email_config": {}}, {"email_config.smtp_config": "is missing"}),
    ("a wrapper around a list", {"email_config": {"smtp_config": []}}, {"email_config.smtp_config": "not a JSON"}),
    (
        "a misspelt field, with the right one",
        wrapped(**RAFAY, use_tsl=True),
        {"email_config.smtp_config.use_tsl": "did you mean use_tls?"},
    ),
    ("a field beside the wrapper", wrapped(**RAFAY) | {"hots": 1}, {"hots": "is not a known field"}),
    ("no host and no port", wrapped(use_tls=True), {"email_config.smtp_config.host": "is missing", "email_config.smtp_config.port": "is missing"}),
    ("no host, as Palette says it", {"smtpPort": 587}, {"smtpServer": "is missing"}),
    ("two hosts", PALETTE | {"host": "other.example.com"}, {"host": "says otherwise than smtpServer"}),
    ("two ports", NATIVE | {"smtpPort": 25}, {"smtpPort": "says otherwise than port"}),
    ("two opinions of TLS", NATIVE | {"use_tls": False}, {"use_tls": "says otherwise than tls"}),
    ("two products' opinions of TLS", {"host": "h", "port": 25, "use_tls": True, "useSSL": False}, {"useSSL": "says otherwise than use_tls"}),
    ("two opinions of verifying", NATIVE | {"use_insecure": True, "insecureSkipVerifyTls": False}, {"insecureSkipVerifyTls": "says otherwise than use_insecure"}),
    ("a port out of range", NATIVE | {"port": 70000}, {"port": "1 to 65535"}),
    ("port zero", {"smtpServer": "h", "smtpPort": 0}, {"smtpPort": "1 to 65535"}),
    ("a port that is a truth", NATIVE | {"port": True}, {"port": "1 to 65535"}),
    ("a port that is no number", wrapped(host="h", port="smtp"), {"email_config.smtp_config.port": "1 to 65535"}),
    ("a port with a fraction", NATIVE | {"port": 587.5}, {"port": "1 to 65535"}),
    ("a URL for a host", PALETTE | {"smtpServer": "smtp://h:25"}, {"smtpServer": "without scheme and port"}),
    ("a host with a line break", NATIVE | {"host": "h\r\nQUIT"}, {"host": "without scheme and port"}),
    ("a flag that is a text", wrapped(**RAFAY | {"use_insecure": "false"}), {"email_config.smtp_config.use_insecure": "true or false"}),
    ("a TLS flag that is a text", wrapped(**RAFAY | {"use_tls": "yes"}), {"email_config.smtp_config.use_tls": "true or false"}),
    ("a mode that is none", NATIVE | {"tls": "tls1.3"}, {"tls": "expected one of"}),
    ("credentials in clear, by Rafay", wrapped(**RAFAY | {"use_tls": False}), {"email_config.smtp_config.use_tls": "authentication would not work, and the connection would show the password; set use_tls to true"}),
    ("credentials in clear, by Harness", HARNESS | {"useSSL": False}, {"useSSL": "set useSSL to true"}),
    ("credentials in clear, natively", NATIVE | {"tls": "none", "username": "u", "password": PASSWORD}, {"tls": "set tls to starttls or ssl"}),
    ("a password without a user", wrapped(**{k: v for k, v in RAFAY.items() if k != "username"}), {"email_config.smtp_config.password": "is given without username"}),
    ("a secret without a user", NATIVE | {"secret": "relay"}, {"secret": "is given without username"}),
    ("a password and a secret", NATIVE | {"username": "u", "password": PASSWORD, "secret": "s"}, {"secret": "stands beside password"}),
    ("a reference by a partner", NATIVE | {"username": "u", "password_ref": "env:X"}, {"password_ref": "for the controller's records only"}),
    ("a password with a line break", NATIVE | {"username": "u", "password": f"{PASSWORD}\n"}, {"password": "must be one line"}),
    ("a password that is a number", NATIVE | {"username": "u", "password": 12}, {"password": "expected a text"}),
    ("a from that is no address", HARNESS | {"fromAddress": "me"}, {"fromAddress": "not a valid mail address"}),
    ("a From with a line break", PALETTE | {"fromEmailId": "a@b.c\r\nBcc: x@y.z"}, {"fromEmailId": "control character"}),
    ("a user with a NUL", PALETTE | {"userName": "a\0b"}, {"userName": "control character"}),
    ("patterns that are a text", NATIVE | {"allowed_from": "@a.b"}, {"allowed_from": "expected a list"}),
    ("a pattern without a domain", NATIVE | {"allowed_from": ["a@b.c", "me"]}, {"allowed_from": "number 2 is neither"}),
    ("a bundle that is none", NATIVE | {"ca_bundle": "hello"}, {"ca_bundle": "holds no readable certificate"}),
    ("a private key as a bundle", NATIVE | {"ca_bundle": "-----BEGIN PRIVATE KEY-----"}, {"ca_bundle": "private key"}),
    ("a rate that no column holds", NATIVE | {"rate_per_minute": 10**12}, {"rate_per_minute": "at most"}),
    ("too many retries", wrapped(**RAFAY | {"retries": 99}), {"email_config.smtp_config.retries": "20"}),
    ("a signature without a selector", NATIVE | {"dkim_domain": "a.example"}, {"dkim_selector": "is missing"}),
    ("a key that is none", NATIVE | {"dkim_key": "abc"}, {"dkim_key": "expected a PEM"}),
    ("another's scope", NATIVE | {"scope": "org:acme/dev"}, {"scope": "is not yours"}),
    ("another's partner", NATIVE | {"partner": "umbrella"}, {"partner": "is not yours"}),
    ("a name with a line break", NATIVE | {"display_name": "a\nb"}, {"display_name": "control character"}),
    ("a name with a NUL", NATIVE | {"display_name": "a\0"}, {"display_name": "control character"}),
    ("a name that is a path", NATIVE | {"display_name": "order"}, {"display_name": "is reserved"}),
    ("a name with a slash", NATIVE | {"display_name": "a/b"}, {"display_name": "slash"}),
    ("a name of blanks", NATIVE | {"display_name": " "}, {"display_name": "without blanks at the ends"}),
]  # fmt: skip


@pytest.mark.parametrize(("document", "expected"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_an_error_names_the_field_as_it_was_spelled(document: Any, expected: dict[str, str]) -> None:
    found = errors_of(document)
    assert found.keys() == expected.keys()
    for path, words in expected.items():
        assert words in found[path]


def test_every_error_is_named_at_once() -> None:
    found = errors_of({"smtpServer": "a b", "smtpPort": 0, "userName": "u\n", "colour": 1, "use_insecure": 2})
    assert set(found) == {"smtpServer", "smtpPort", "userName", "colour", "use_insecure"}


def test_a_hundred_thousand_unknown_fields_are_answered_at_once() -> None:
    assert len(errors_of({f"unknown{i}": 1 for i in range(100_000)})) <= 20


@pytest.mark.parametrize("scope", [CONTROLLER, ACME, DEV], ids=str)
def test_a_scope_may_say_who_it_is(scope: Scope) -> None:
    own = {"scope": str(scope), "partner": scope.partner, "org": scope.org, "version": 3, "warnings": []}
    assert read_smtp_config(NATIVE | own, scope).fields["port"] == 587


def test_where_the_record_stands_is_part_of_the_path() -> None:
    assert set(errors_of({"smtp_config": {"host": "h"}}, prefix="email_config.")) == {"email_config.smtp_config.port"}
    assert set(errors_of({"smtpServer": "h"}, prefix="email_config.")) == {"email_config.smtpPort"}


@pytest.mark.parametrize("document", [wrapped(**RAFAY), HARNESS, PALETTE], ids=["Rafay", "Harness", "Palette"])
def test_what_is_read_is_a_valid_record(document: dict[str, Any]) -> None:
    spelled: Spelled = read_smtp_config(document, ACME)
    config = SmtpConfig.model_validate({**spelled.fields, "password": PASSWORD})
    assert config.model_dump(mode="json", include=set(spelled.fields)) == spelled.fields


def test_a_bundle_of_certificates_is_taken() -> None:
    default = ssl.get_default_verify_paths().cafile
    pem = Path(default).read_text() if default else None
    if pem is None:
        import certifi

        pem = Path(certifi.where()).read_text()
    first = pem[pem.index("-----BEGIN CERT") : pem.index("-----END CERTIFICATE-----") + 26]
    assert read_smtp_config(NATIVE | {"ca_bundle": first}, ACME).fields["ca_bundle"] == first
