"""What a record asks of the sending, at a real Postfix: DKIM, BDAT, REQUIRETLS."""

import asyncio
import re
from collections.abc import Iterator

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from schemas.smtp_config import TlsMode
from tests.peers.agreement import disagreements, record_for, sender_for
from tests.services.postfix import USERS, Postfix
from worker.delivery.ports import Ack, Park

TEXT = ".\r\n..\r\n.dot\r\nGr\u00fc\u00dfe  \r\n\r\n"
_DISCONNECTED = re.compile(r"disconnect from \S+ (.*)")


@pytest.fixture(scope="module")
def signing() -> tuple[dict[str, str], bytes]:
    """The fields of a record that signs, and the TXT record of its public half."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    fields = {"dkim_domain": "postbote.test", "dkim_selector": "mail1", "dkim_key": pem}
    return fields, b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])


@pytest.fixture(scope="module")
def server() -> Iterator[Postfix]:
    with Postfix.make() as instance:
        yield instance


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
async def test_what_arrives_verifies_by_the_domains_record(server: Postfix, signing, chunking) -> None:
    server.clear()
    fields, txt = signing
    async with sender_for(record_for(server.port_plain, chunking=chunking, **fields)) as sender:
        settled = await sender.send_many([f"r{n}@postbote.test" for n in range(5)], text=TEXT)
    assert settled == [Ack()] * 5
    await asyncio.to_thread(server.wait_for, 5)
    assert all(dkim.verify(_as_sent(raw), dnsfunc=lambda *_, **__: txt, minkey=1024) for raw in server.raw())
    kept = [(str(mail["Message-ID"]), str(mail["To"])) for mail in server.mails()]
    assert disagreements(sender, kept) == []


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
async def test_bdat_takes_the_place_of_data_where_the_record_says_so(server: Postfix, chunking) -> None:
    server.clear()
    already = len(_DISCONNECTED.findall(server.log()))
    async with sender_for(record_for(server.port_plain, chunking=chunking)) as sender:
        assert await sender.send_many([f"r{n}@postbote.test" for n in range(3)], text=TEXT) == [Ack()] * 3
    mails = await asyncio.to_thread(server.wait_for, 3)
    assert {mail.get_content() for mail in mails} == {mails[0].get_content()}
    assert "\n.dot\n" in mails[0].get_content().replace("\r\n", "\n")
    said = " ".join(_DISCONNECTED.findall(server.log())[already:])
    assert (("bdat=3" in said), ("data=3" in said)) == (chunking, not chunking), said


async def test_without_bdat_at_the_server_the_record_falls_back_to_data(server: Postfix) -> None:
    server.clear()
    server.configure(smtpd_discard_ehlo_keywords="chunking")
    async with sender_for(record_for(server.port_plain, chunking=True)) as sender:
        assert await sender.send("one@postbote.test") == Ack()
    await asyncio.to_thread(server.wait_for, 1)
    server.configure(smtpd_discard_ehlo_keywords="")


async def test_a_server_that_does_not_promise_tls_all_the_way_gets_nothing(server: Postfix) -> None:
    server.clear()
    user = "controller@controller.test"
    options = {"tls": TlsMode.STARTTLS, "ca_bundle": server.ca_file.read_text(), "require_tls": True}
    config = record_for(server.port_starttls, username=user, password=USERS[user], **options)
    async with sender_for(config) as sender:
        settled = await sender.send("one@postbote.test")
    assert isinstance(settled, Park)
    assert sender.outcomes("one@postbote.test") == ["config_fault"]
    (found,) = sender.audit.records.values()
    assert "REQUIRETLS" in (found.reason or "")
    assert server.mails() == []


def _as_sent(raw: bytes) -> bytes:
    """The message below what Postfix put on top, with the line ends that it had on its way."""
    return b"DKIM-Signature:" + raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n").partition(b"DKIM-Signature:")[2]
