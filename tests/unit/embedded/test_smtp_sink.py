"""The sink behaves as a strict submission server; aiosmtplib is the client that finds out."""

import asyncio
import itertools
import ssl
import stat
from datetime import UTC, datetime, timedelta

import aiosmtplib
import pytest
from cryptography import x509

from worker.embedded.certificates import VALID_FOR, ensure_certificates
from worker.embedded.sink import SmtpSink

ACCOUNTS = {"acme@sink.test": "right", "ops@sink.test": "other"}
MAIL = b"Subject: hi\r\n\r\n..dots\r\nend\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return ensure_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def sink(certificates):
    replies = {"busy@x.test": ["451 4.2.0 Busy"] * 2, "gone@x.test": itertools.repeat("550 5.1.1 No such user")}
    async with SmtpSink(certificates, accounts=ACCOUNTS, replies=replies, plain=True) as sink:
        yield sink


def client(sink, port=None, **options):
    context = ssl.create_default_context(cafile=sink.ca_file)
    options = {"start_tls": False, "tls_context": context, "timeout": 5, **options}
    return aiosmtplib.SMTP(hostname="127.0.0.1", port=port or sink.starttls_port, **options)


async def test_a_mail_over_starttls_is_verified_against_the_ca_and_kept_with_its_account(sink):
    async with client(sink, start_tls=True) as smtp:
        await smtp.login("acme@sink.test", "right")
        _, words = await smtp.sendmail("a@acme.test", ["b@x.test", "c@x.test"], MAIL)
    mail = sink.mails[0]
    assert (mail.mail_from, mail.rcpt_tos) == ("a@acme.test", ("b@x.test", "c@x.test"))
    assert (mail.account, mail.tls, mail.content) == ("acme@sink.test", True, MAIL)
    assert words == "2.0.0 Ok: queued as SINK000001"
    assert list(sink.auth_attempts) == [("acme@sink.test", True)]


async def test_a_mail_over_implicit_tls_needs_a_login_and_is_kept_as_tls(sink):
    async with client(sink, sink.ssl_port, use_tls=True, start_tls=None) as smtp:
        with pytest.raises(aiosmtplib.SMTPSenderRefused) as refused:
            await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
        assert refused.value.code == 530
        await smtp.auth_login("ops@sink.test", "other")
        await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
    assert (sink.mails[0].account, sink.mails[0].tls) == ("ops@sink.test", True)


async def test_the_plain_port_offers_neither_tls_nor_auth_and_takes_mail_from_anybody(sink):
    async with client(sink, sink.plain_port) as smtp:
        await smtp.ehlo()
        assert not smtp.supports_extension("starttls")
        assert not smtp.supports_extension("auth")
        await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
    assert (sink.mails[0].account, sink.mails[0].tls) == (None, False)


async def test_auth_before_starttls_is_refused_and_never_looked_at(sink):
    async with client(sink) as smtp:
        await smtp.ehlo()
        assert not smtp.supports_extension("auth")
        reply = await smtp.execute_command(b"AUTH", b"PLAIN", b"AGFjbWVAc2luay50ZXN0AHJpZ2h0")
    assert reply.code in (530, 538)
    assert not sink.auth_attempts


async def test_mail_before_starttls_is_refused(sink):
    async with client(sink) as smtp:
        with pytest.raises(aiosmtplib.SMTPSenderRefused) as refused:
            await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
    assert refused.value.code == 530


async def test_mail_before_starttls_is_refused_even_where_nobody_needs_to_log_in(certificates):
    async with SmtpSink(certificates, accounts={}) as sink:
        async with client(sink) as smtp:
            with pytest.raises(aiosmtplib.SMTPSenderRefused) as refused:
                await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
        async with client(sink, start_tls=True) as smtp:
            await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
    assert refused.value.code == 530
    assert [mail.account for mail in sink.mails] == [None]


async def test_mail_after_starttls_but_before_auth_is_refused(sink):
    async with client(sink, start_tls=True) as smtp:
        with pytest.raises(aiosmtplib.SMTPSenderRefused) as refused:
            await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
    assert refused.value.code == 530


@pytest.mark.parametrize(
    ("login", "password"),
    [("acme@sink.test", "wrong"), ("acme@sink.test", "other"), ("nobody@sink.test", "right"), ("ä@sink.test", "ü")],
)
@pytest.mark.parametrize("mechanism", ["auth_plain", "auth_login"])
async def test_a_wrong_login_is_refused_with_535(sink, login, password, mechanism):
    async with client(sink, start_tls=True) as smtp:
        await smtp.ehlo()
        with pytest.raises(aiosmtplib.SMTPAuthenticationError) as refused:
            await getattr(smtp, mechanism)(login, password)
    assert refused.value.code == 535
    assert list(sink.auth_attempts) == [(login, False)]


async def test_a_client_that_trusts_other_authorities_does_not_get_as_far_as_auth(sink):
    smtp = client(sink, start_tls=True, tls_context=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        await smtp.connect()
    assert not sink.auth_attempts


async def test_scripted_recipients_are_answered_in_turn_and_then_accepted(sink):
    async with client(sink, start_tls=True) as smtp:
        await smtp.login("acme@sink.test", "right")
        await smtp.mail("a@acme.test")
        codes = [await _rcpt(smtp, "busy@x.test") for _ in range(3)]
        gone = [await _rcpt(smtp, "gone@x.test") for _ in range(3)]
    assert codes == [451, 451, 250]
    assert gone == [550, 550, 550]


async def _rcpt(smtp, address):
    try:
        return (await smtp.rcpt(address)).code
    except aiosmtplib.SMTPRecipientRefused as refused:
        return refused.code


async def test_addresses_beyond_ascii_are_taken(sink):
    async with client(sink, start_tls=True) as smtp:
        await smtp.login("acme@sink.test", "right")
        assert smtp.supports_extension("smtputf8")
        await smtp.sendmail("a@acme.test", ["müller@x.test"], MAIL, mail_options=["SMTPUTF8"])
    assert sink.mails[0].rcpt_tos == ("müller@x.test",)


async def test_commands_sent_in_one_write_are_answered_in_order(sink):
    reader, writer = await asyncio.open_connection("127.0.0.1", sink.plain_port)
    writer.write(b"EHLO c\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<gone@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n")
    codes = []
    while not codes or codes[-1] != b"354 ":
        codes.append((await reader.readline())[:4])
    writer.write(MAIL + b".\r\nMAIL FROM:<a@x.test>\r\nQUIT\r\n")
    codes += [line[:4] for line in (await reader.read()).splitlines()]
    writer.close()
    assert [c for c in codes if c[3:] == b" "] == [
        b"220 ",
        *[b"250 "] * 2,
        b"550 ",
        b"250 ",
        b"354 ",
        *[b"250 "] * 2,
        b"221 ",
    ]
    assert b"250-" in codes


async def test_wait_for_returns_once_that_many_mails_have_come(sink):
    waiting = asyncio.create_task(sink.wait_for(2))
    async with client(sink, sink.plain_port) as smtp:
        await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
        assert not waiting.done()
        await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
    await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(sink.wait_for(2), 5)


async def test_only_the_newest_mails_are_kept_in_memory_and_all_of_them_on_disk(certificates, tmp_path):
    async with SmtpSink(certificates, accounts={}, directory=tmp_path / "mails", plain=True, keep=2) as sink:
        async with client(sink, sink.plain_port) as smtp:
            for number in range(3):
                await smtp.sendmail("a@acme.test", [f"b{number}@x.test"], MAIL)
        assert [m.rcpt_tos for m in sink.mails] == [("b1@x.test",), ("b2@x.test",)]
        assert sink.received == 3
    files = sorted((tmp_path / "mails").iterdir())
    assert [f.read_bytes() for f in files] == [MAIL] * 3
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}


async def test_a_mail_that_cannot_be_written_is_not_accepted(certificates, tmp_path):
    async with SmtpSink(certificates, accounts={}, directory=tmp_path / "mails", plain=True) as sink:
        (tmp_path / "mails").rmdir()
        async with client(sink, sink.plain_port) as smtp:
            with pytest.raises(aiosmtplib.SMTPDataError) as refused:
                await smtp.sendmail("a@acme.test", ["b@x.test"], MAIL)
        assert (refused.value.code, sink.received, len(sink.mails)) == (452, 0, 0)


async def test_stopping_closes_the_connections_that_are_open(certificates):
    async with SmtpSink(certificates, accounts=ACCOUNTS) as sink:
        smtp = client(sink, start_tls=True)
        await smtp.connect()
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await smtp.noop()


def test_certificates_are_private_files_and_kept_while_they_are_valid(tmp_path):
    first = ensure_certificates(tmp_path / "c")
    before = first.certificate_file.read_bytes()
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "c").iterdir()} == {0o600}
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["ca.pem", "server.key", "server.pem"]
    assert ensure_certificates(tmp_path / "c").certificate_file.read_bytes() == before


@pytest.mark.parametrize("damage", ["expired", "key of another", "authority of another", "cut", "missing"])
def test_certificates_are_made_anew_when_they_are_of_no_use(tmp_path, damage):
    now = datetime.now(UTC)
    found = ensure_certificates(tmp_path / "c", now - VALID_FOR if damage == "expired" else now)
    other = ensure_certificates(tmp_path / "other")
    before = found.certificate_file.read_bytes()
    match damage:
        case "key of another":
            found.key_file.write_bytes(other.key_file.read_bytes())
        case "authority of another":
            found.ca_file.write_bytes(other.ca_file.read_bytes())
        case "cut":
            found.certificate_file.write_bytes(before[:100])
        case "missing":
            found.ca_file.unlink()
    renewed = ensure_certificates(tmp_path / "c", now)
    certificate = x509.load_pem_x509_certificate(renewed.certificate_file.read_bytes())
    assert renewed.certificate_file.read_bytes() != before
    assert certificate.not_valid_after_utc - now > timedelta(days=6)
