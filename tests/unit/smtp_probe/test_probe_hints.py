"""Hints: each row is reached by the sample that it carries, and says something of its own."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from schemas.smtp_config import TlsMode
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.smtp.hints import HINTS, Case, hint_for, hint_for_expiry


@pytest.mark.parametrize("hint", HINTS, ids=lambda hint: hint.name)
def test_each_hint_is_what_its_own_sample_gets(hint) -> None:
    found = hint_for(hint.sample)
    assert found is not None
    assert (found.name, found.text) == (hint.name, hint.text)


def test_names_and_texts_are_each_used_once() -> None:
    assert max(Counter(hint.name for hint in HINTS).values()) == 1
    assert max(Counter(hint.text for hint in HINTS).values()) == 1


@pytest.mark.parametrize("hint", HINTS, ids=lambda hint: hint.name)
def test_each_hint_has_a_condition(hint) -> None:
    assert hint.faults or hint.codes or hint.enhanced or hint.words


@pytest.mark.parametrize(
    ("reply", "phase", "name"),
    [
        (
            "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.",
            "auth",
            "m365-smtp-auth-disabled",
        ),
        ("534-5.7.9 Application-specific password required.\n5.7.9 Learn more", "auth", "gmail-app-password"),
        ("534 5.7.9 Please log in with your web browser", "auth", "gmail-app-password"),
        ("554 Email address is not verified.", "final", "ses-sandbox"),
        ("530 5.7.0 Must issue a STARTTLS command first", "rcpt", "tls-demanded"),
        ("530 Authentication required", "mail", "login-demanded"),
        ("451 4.7.1 Greylisting in action, please come back later", "rcpt", "greylisted"),
        ("535 nothing of note", "auth", "credentials-wrong"),
        ("550 5.1.10 Recipient not found", "rcpt", "recipient-unknown"),
    ],
)
def test_replies_of_the_same_kind_get_the_same_hint(reply, phase, name) -> None:
    found = hint_for(Case(Answer(Phase(phase), SmtpReply(int(reply[:3]), reply[4:]))))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("case", [
    Case(Answer(Phase.RCPT, SmtpReply(550, "5.7.1 we do not like you"))),
    Case(Answer(Phase.MAIL, fault=Fault.LOST)),
    Case(Answer(Phase.GREETING, fault=Fault.LOST), port=587),
])  # fmt: skip
def test_where_nothing_is_known_nothing_is_said(case) -> None:
    assert hint_for(case) is None


@pytest.mark.parametrize(
    ("tls", "port", "phase", "name"),
    [
        (TlsMode.STARTTLS, 465, Phase.GREETING, "clear-to-a-port-with-tls"),
        (TlsMode.NONE, 465, Phase.GREETING, "clear-to-a-port-with-tls"),
        (TlsMode.STARTTLS, 587, Phase.GREETING, "silent-server"),
        (TlsMode.SSL, 465, Phase.TLS, "tls-silent"),
        (TlsMode.STARTTLS, 25, Phase.CONNECT, "port-25-blocked"),
        (TlsMode.STARTTLS, 587, Phase.CONNECT, "port-filtered"),
    ],
)
def test_a_timeout_is_read_by_port_and_tls(tls, port, phase, name) -> None:
    found = hint_for(Case(Answer(phase, fault=Fault.TIMEOUT), port, tls))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (["2030-01-20T00:00:00+00:00"], None),
        (["2030-01-20T00:00:00+00:00", "2030-01-10T00:00:00+00:00"], "2030-01-10"),
        ([], None),
    ],
)
def test_a_certificate_that_ends_within_two_weeks_is_said_of_the_one_that_ends_first(ends, said) -> None:
    chain = [{"not_after": each} for each in ends] or [{"unreadable": "x"}]
    found = hint_for_expiry(chain, datetime(2030, 1, 1, tzinfo=UTC))
    assert (found.text if found else None) == (said and f"The server's certificate ends on {said}: renew it.")
