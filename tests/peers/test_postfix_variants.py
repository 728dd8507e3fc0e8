"""Postfix, as administrators set it up: what it delivered is what the audit calls accepted."""

import asyncio
import re
import smtplib
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage

import pytest

from tests.peers.agreement import Delivery, Sender, disagreements, record_for, sender_for
from tests.services.postfix import Postfix
from worker.delivery.ports import Ack
from worker.delivery.retry import RetryPolicy

DOTS = ".\r\n..\r\n.dot\r\nthe end\r\n.\r\n"
Configure = Callable[..., None]

# Postfix's own defaults for whatever a test here changes.
DEFAULTS = {
    "smtpd_discard_ehlo_keywords": "",
    "smtpd_recipient_limit": "1000",
    "smtpd_client_event_limit_exceptions": "$mynetworks",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_message_rate_limit": "0",
    "anvil_rate_time_unit": "60s",
    "smtpd_hard_error_limit": "20",
    "smtpd_soft_error_limit": "10",
    "smtpd_error_sleep_time": "0s",
    "message_size_limit": "10240000",
}
PIPELINING = pytest.mark.parametrize("discarded", ["", "pipelining"], ids=["pipelined", "lockstep"])
PATIENT = RetryPolicy(budget_s=20, first_wait_s=0.2, doubt_wait_s=0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[Postfix]:
    with Postfix.make(extra=DEFAULTS) as instance:
        yield instance


@pytest.fixture
def variant(server: Postfix) -> Iterator[Configure]:
    """Change the server for one test."""
    server.clear()

    def configure(**options: str) -> None:
        server.configure(**options)

    yield configure
    server.clear()


def to(count: int, name: str = "rcpt") -> list[str]:
    return [f"{name}-{n}@example.com" for n in range(count)]


def send_last(server: Postfix, patience_s: float = 15.0) -> None:
    """Send the mail that marks the end; as any client, come again where the server says 421.

    A process that Postfix started before the reload still takes a connection under the old limits,
    and nothing announces when the last of them is gone.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with smtplib.SMTP("127.0.0.1", server.port_plain) as client:
                client.sendmail("last@example.com", "last@example.com", "Subject: the queue is empty behind this\r\n")
                return
        except (smtplib.SMTPConnectError, smtplib.SMTPServerDisconnected):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def delivered(server: Postfix, sender: Sender) -> list[Delivery]:
    """What the server took, once nothing can be under way in it any more.

    A copy for each of its queue ids: ended between a delivery and its note of it, Postfix makes it again.
    """
    server.wait_for(len(sender.deliveries("accepted")))
    server.configure(**DEFAULTS)
    send_last(server)
    server.wait_for(1, recipient="last@example.com")
    mails = [mail for mail in server.mails() if mail["Delivered-To"] != "last@example.com"]
    taken = {(queue_id(mail), mail["Message-ID"], mail["Delivered-To"]) for mail in mails}
    return [(message_id, recipient) for _, message_id, recipient in taken]


def queue_id(mail: EmailMessage) -> str:
    """The name that the server gave the mail when it took it."""
    found = re.search(r"with E?SMTPS?A? id (\w+)", mail.get_all("Received", [])[0])
    assert found is not None, mail["Received"]
    return found[1]


def agreed(server: Postfix, sender: Sender) -> None:
    """The mailbox holds exactly what the audit calls accepted, each mail once."""
    held = delivered(server, sender)
    assert disagreements(sender, held) == []
    assert sorted(held) == sorted(sender.deliveries("accepted"))
    assert sender.deliveries("in_doubt") == set()
    # Postfix puts its own lines before a mail, and keeps it with the line ends of this system.
    kept = [raw.replace(b"\n", b"\r\n") for raw in server.raw()]
    for identity, _ in held:
        assert any(raw.endswith(sender.contents[identity]) for raw in kept), "what was delivered has other bytes"


@pytest.mark.parametrize(
    "discarded", ["", "pipelining", "chunking", "pipelining, chunking, size, 8bitmime, enhancedstatuscodes, dsn"]
)
@pytest.mark.parametrize("connections", [1, 4])
async def test_whatever_the_server_offers_every_mail_is_delivered_once(
    server: Postfix, variant: Configure, discarded: str, connections: int
) -> None:
    variant(smtpd_discard_ehlo_keywords=discarded)
    async with sender_for(record_for(server.port_plain, max_connections=connections)) as sender:
        assert set(await sender.send_many(to(40), text=DOTS)) == {Ack()}
    agreed(server, sender)
    assert len(sender.deliveries("accepted")) == 40


@pytest.mark.parametrize("tls", ["starttls", "ssl"])
async def test_over_tls_with_a_login_every_mail_is_delivered_once(
    server: Postfix, variant: Configure, tls: str
) -> None:
    username, password = next(iter(server.users.items()))
    port = server.port_starttls if tls == "starttls" else server.port_ssl
    bundle = server.ca_file.read_text()
    record = record_for(port, tls=tls, username=username, password=password, ca_bundle=bundle, max_connections=2)
    async with sender_for(record) as sender:
        assert set(await sender.send_many(to(20))) == {Ack()}
    agreed(server, sender)
    assert len(sender.deliveries("accepted")) == 20


@PIPELINING
async def test_beyond_the_recipient_limit_the_rest_goes_in_further_transactions(
    server: Postfix, variant: Configure, discarded: str
) -> None:
    variant(smtpd_recipient_limit="2", smtpd_discard_ehlo_keywords=discarded)
    recipients = to(7)
    async with sender_for(record_for(server.port_plain, retries=0)) as sender:
        assert await sender.send(*recipients) == Ack()
    agreed(server, sender)
    assert all(sender.outcomes(each)[-1] == "accepted" for each in recipients)
    assert sender.outcomes(recipients[0]) == ["accepted"]
    assert sender.outcomes(recipients[6]) == ["deferred", "deferred", "deferred", "accepted"]


@PIPELINING
async def test_a_greylisted_recipient_is_asked_again_and_the_others_are_not(
    server: Postfix, variant: Configure, discarded: str
) -> None:
    variant(smtpd_discard_ehlo_keywords=discarded)
    grey, white = "grey@example.com", "white@example.com"
    server.refuse(grey, "450 4.2.0 Greylisted, try again")
    async with sender_for(record_for(server.port_plain), PATIENT) as sender:
        sending = asyncio.ensure_future(sender.send(grey, white))
        await sender.until(grey, "deferred")
        server.refuse(grey, None)
        assert await sending == Ack()
    agreed(server, sender)
    assert sender.outcomes(grey) == ["deferred", "accepted"]
    assert sender.outcomes(white) == ["accepted"]


@pytest.mark.parametrize(
    "limit",
    [
        {"smtpd_client_connection_rate_limit": "1", "anvil_rate_time_unit": "3s"},
        {"smtpd_client_connection_count_limit": "1"},
        {"smtpd_client_message_rate_limit": "9", "anvil_rate_time_unit": "3s"},
    ],
    ids=["connections per time", "connections at once", "messages per time"],
)
async def test_a_server_that_asks_for_less_gets_less_and_costs_no_attempt(
    server: Postfix, variant: Configure, limit: dict[str, str]
) -> None:
    variant(smtpd_client_event_limit_exceptions="", **limit)
    before = len(server.log())
    async with sender_for(record_for(server.port_plain, max_connections=4, retries=0), PATIENT) as sender:
        settlements = await sender.send_many(to(12))
    agreed(server, sender)
    assert "limit exceeded" in server.log()[before:], "the limit was never met"
    assert set(settlements) == {Ack()}
    assert len(sender.deliveries("accepted")) == 12


@PIPELINING
async def test_refused_recipients_that_exhaust_the_error_limit_harm_no_other_mail(
    server: Postfix, variant: Configure, discarded: str
) -> None:
    variant(smtpd_hard_error_limit="2", smtpd_soft_error_limit="1", smtpd_discard_ehlo_keywords=discarded)
    bad, good = to(6, "bad"), to(10, "good")
    for each in bad:
        server.refuse(each, "550 5.1.1 No such user")
    mixed = [good[0], *bad[:3], *good[1:5], *bad[3:], *good[5:]]
    async with sender_for(record_for(server.port_plain, retries=1), PATIENT) as sender:
        assert set(await sender.send_many(mixed)) == {Ack()}
    agreed(server, sender)
    assert all(sender.outcomes(each)[-1] == "refused" for each in bad)
    assert all(sender.outcomes(each)[-1] == "accepted" for each in good)


@pytest.mark.parametrize("discarded", ["", "size", "pipelining"], ids=["SIZE", "no SIZE", "lockstep"])
async def test_a_mail_over_the_size_limit_is_refused_and_the_next_one_is_not(
    server: Postfix, variant: Configure, discarded: str
) -> None:
    variant(message_size_limit="20000", smtpd_discard_ehlo_keywords=discarded)
    big, small = "big@example.com", to(5, "small")
    async with sender_for(record_for(server.port_plain)) as sender:
        settlements = await asyncio.gather(
            sender.send(small[0]),
            sender.send(big, text="x" * 70 + "\r\n" * 1000 + "y" * 50_000),
            *map(sender.send, small[1:]),
        )
    agreed(server, sender)
    assert set(settlements) == {Ack()}
    assert sender.outcomes(big) == ["refused"]
    assert all(sender.outcomes(each) == ["accepted"] for each in small)


async def test_a_server_that_restarts_in_the_middle_delivers_what_it_accepted(
    server: Postfix, variant: Configure
) -> None:
    variant()
    recipients = to(60)
    async with sender_for(record_for(server.port_plain, max_connections=2, retries=8), PATIENT) as sender:
        sending = asyncio.ensure_future(sender.send_many(recipients, on_doubt="hold"))
        await sender.until(recipients[20], "accepted")
        await asyncio.to_thread(server.restart)
        await sending
    held = delivered(server, sender)
    assert disagreements(sender, held) == []
    assert {sender.outcomes(each)[-1] for each in recipients} <= {"accepted", "in_doubt"}
