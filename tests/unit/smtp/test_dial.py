"""From a record to a connection: every way in which that can fail, told apart, and nothing sent in clear."""

import asyncio
import base64

import pytest
from pydantic import SecretStr

from schemas.smtp_config import TlsMode
from tests.unit.smtp.scripted_server import CLOSE, OFFER, ScriptedServer, envelope, message
from worker.delivery.ports import Fault, Phase
from worker.smtp.cleartext import CleartextWatch
from worker.smtp.dial import DialFailed, dial

STARTTLS = (*OFFER, "STARTTLS")
LOGIN = {"username": "ann", "password": SecretStr("pw")}


async def answer_of(server: ScriptedServer, **changes):
    with pytest.raises(DialFailed) as failed:
        await dial(server.config(**changes), "client.test")
    return failed.value.answer


@pytest.mark.parametrize(
    ("at", "says", "expected"),
    [
        ("", "554 no", (Phase.GREETING, 554)),
        ("", "421 4.7.0 too many connections", (Phase.GREETING, 421)),
        ("", CLOSE, (Phase.GREETING, Fault.LOST)),
        ("", "nonsense", (Phase.GREETING, None)),
        ("EHLO", "502 no", (Phase.EHLO, 502)),
        ("EHLO", CLOSE, (Phase.EHLO, Fault.LOST)),
        ("STARTTLS", "454 not now", (Phase.TLS, 454)),
        ("STARTTLS", CLOSE, (Phase.TLS, Fault.LOST)),
        ("AUTH", "535 5.7.8 no", (Phase.AUTH, 535)),
        ("AUTH", CLOSE, (Phase.AUTH, Fault.LOST)),
    ],
)
async def test_each_failure_names_its_phase(tls, at, says, expected) -> None:
    def script(session, command):
        return says if command.split(" ")[0] == at else None

    async with ScriptedServer(script, offer=(*STARTTLS, "AUTH PLAIN"), context=tls.context) as server:
        got = await answer_of(server, tls=TlsMode.STARTTLS, ca_bundle=tls.ca, **LOGIN)
        for session in server.sessions:
            await session.ended.wait()  # nothing is left open
    what = got.reply.code if isinstance(expected[1], int) else got.fault
    assert got.phase is expected[0]
    assert expected[1] is None or what == expected[1]


async def test_a_password_that_the_server_repeats_is_masked(tls) -> None:
    def script(session, command):
        return "535 5.7.8 ann:geheim-42 is wrong" if command.startswith("AUTH") else None

    async with ScriptedServer(script, offer=(*STARTTLS, "AUTH PLAIN"), context=tls.context) as server:
        secret = {"username": "ann", "password": SecretStr("geheim-42")}
        got = await answer_of(server, tls=TlsMode.STARTTLS, ca_bundle=tls.ca, **secret)
    assert got.reply is not None
    assert got.reply.text == "5.7.8 ann:[redacted] is wrong"


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.SSL])
async def test_a_certificate_that_is_not_trusted_ends_it_before_credentials(tls, mode) -> None:
    offer = (*STARTTLS, "AUTH PLAIN")
    async with ScriptedServer(offer=offer, context=tls.context, tls_at_once=mode is TlsMode.SSL) as server:
        got = await answer_of(server, tls=mode, **LOGIN)
    assert (got.phase, got.fault) == (Phase.TLS, Fault.TLS_UNTRUSTED)
    assert not [c for s in server.sessions for c in s.commands if "AUTH" in c]


async def test_starttls_that_is_not_offered_is_never_done_without(tls) -> None:
    async with ScriptedServer() as server:
        got = await answer_of(server, tls=TlsMode.STARTTLS)
    assert (got.phase, got.fault) == (Phase.TLS, Fault.TLS_NOT_OFFERED)
    assert server.sessions[0].commands[-1].startswith("EHLO")


@pytest.mark.parametrize("pause", [False, True], ids=["in one segment with it", "in a segment of its own"])
async def test_octets_in_clear_after_the_reply_to_starttls_end_the_connection(tls, pause) -> None:
    async def serve(reader, writer):
        writer.write(b"220 hello\r\n")
        await reader.readline()
        writer.write(b"250-x\r\n250 STARTTLS\r\n")
        await reader.readline()
        injected = b"250-injected\r\n250 AUTH PLAIN\r\n"
        writer.write(b"220 go\r\n" if pause else b"220 go\r\n" + injected)
        if pause:
            writer.write(injected)
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server = ScriptedServer()
    server.port = listener.sockets[0].getsockname()[1]
    got = await answer_of(server, tls=TlsMode.STARTTLS, ca_bundle=tls.ca)
    listener.close()
    assert (got.phase, got.fault) == (Phase.TLS, Fault.TLS_FAILED)
    assert got.detail.startswith("the server sent 30 octets in clear")


class Recorder(asyncio.Protocol):
    """What the library's protocol and its transport are told."""

    def __init__(self) -> None:
        self.heard = []

    def data_received(self, data):
        self.heard.append(data)

    def set_protocol(self, protocol):
        self.heard.append("watched")

    def abort(self):
        self.heard.append("abort")


@pytest.mark.parametrize(
    ("segments", "surplus"),
    [
        ([b"220 go\r\n"], 0),
        ([b"22", b"0 go\r", b"\n"], 0),
        ([b"220-go\r\n220 on\r\n"], 0),
        ([b"220 go\r\nx"], 1),
        ([b"220 go\r\n", b"xyz"], 3),
        ([b"220 go\r", b"\n250 x\r\n"], 7),
        ([b"454 no\r\n"], 0),
    ],
)
def test_only_one_reply_may_follow_starttls_however_it_is_cut_up(segments, surplus) -> None:
    inner, transport = Recorder(), Recorder()
    watch = CleartextWatch(inner, transport)
    for segment in segments:
        watch.data_received(segment)
    assert watch.surplus == surplus
    assert inner.heard == segments
    assert transport.heard == ["watched", *["abort"] * (surplus > 0)]


async def test_octets_put_in_on_the_way_end_it_before_the_handshake_that_would_succeed(tls) -> None:
    """The server itself is honest here and goes on as if nothing had been put in."""

    async def serve(reader, writer):
        writer.write(b"220 hello\r\n")
        await reader.readline()
        writer.write(b"250-x\r\n250 STARTTLS\r\n")
        await reader.readline()
        writer.write(b"220 go\r\n250 injected\r\n")
        said.append(await reader.read())
        done.set()
        writer.close()

    said: list[bytes] = []
    done = asyncio.Event()
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server = ScriptedServer()
    server.port = listener.sockets[0].getsockname()[1]
    got = await answer_of(server, tls=TlsMode.STARTTLS, ca_bundle=tls.ca)
    await done.wait()
    listener.close()
    assert got.fault is Fault.TLS_FAILED
    assert got.detail == "the server sent 14 octets in clear after its reply to STARTTLS"
    assert said == [b""]  # not even a ClientHello


@pytest.mark.parametrize(
    ("offered", "first"),
    [
        ("AUTH CRAM-MD5 LOGIN PLAIN", "AUTH PLAIN " + base64.b64encode(b"\0ann\0pw").decode()),
        ("AUTH CRAM-MD5 LOGIN XOAUTH2", "AUTH LOGIN " + base64.b64encode(b"ann").decode()),
        ("AUTH CRAM-MD5 XOAUTH2", "AUTH CRAM-MD5"),
        ("AUTH XOAUTH2", "AUTH XOAUTH2 " + base64.b64encode(b"user=ann\x01auth=Bearer pw\x01\x01").decode()),
    ],
)
async def test_one_mechanism_is_tried_the_plainest_first(tls, offered, first) -> None:
    challenge = base64.b64encode(b"<1@x>").decode()

    def script(session, command):
        if command.startswith(("AUTH LOGIN", "AUTH CRAM")):
            return f"334 {challenge}"
        return "235 in" if session.commands[-2:-1] and session.commands[-2].startswith("AUTH") else None

    async with ScriptedServer(script, offer=(*OFFER, offered), context=tls.context, tls_at_once=True) as server:
        made = await dial(server.config(tls=TlsMode.SSL, ca_bundle=tls.ca, **LOGIN), "client.test")
        made.transport.abort()
    assert [c for c in server.sessions[0].commands if c.startswith("AUTH")] == [first]
    assert made.tls
    assert made.tls.verified


async def test_a_mechanism_that_nobody_knows_is_a_fault_of_the_record(tls) -> None:
    async with ScriptedServer(offer=(*OFFER, "AUTH GSSAPI"), context=tls.context, tls_at_once=True) as server:
        got = await answer_of(server, tls=TlsMode.SSL, ca_bundle=tls.ca, **LOGIN)
    assert (got.phase, got.fault, got.detail) == (Phase.AUTH, Fault.AUTH_NOT_OFFERED, "offered: gssapi")


async def test_a_server_that_does_not_greet_is_a_timeout() -> None:
    async with ScriptedServer(lambda _s, c: "silence" if c == "" else None) as server:
        got = await answer_of(server, timeout_s=0.3)
    assert (got.phase, got.fault) == (Phase.GREETING, Fault.TIMEOUT)


async def test_what_the_server_says_beyond_its_last_reply_is_judged_by_the_engine(pool) -> None:
    def script(session, command):
        return b"250 x\r\n421 4.3.2 going down\r\n" if command.startswith("EHLO") and session.number == 1 else None

    async with ScriptedServer(script) as server:
        result = await pool.send(server.config(), envelope(), message())
    assert [a.reply.code for a in result.answers.values()] == [250]
    assert "MAIL" not in "".join(server.sessions[0].commands)
    assert len(server.sessions) == 2


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.SSL])
async def test_mail_goes_over_tls_and_the_result_says_so(tls, pool, mode) -> None:
    async with ScriptedServer(offer=STARTTLS, context=tls.context, tls_at_once=mode is TlsMode.SSL) as server:
        config = server.config(tls=mode, ca_bundle=tls.ca, host="localhost")
        first = await pool.send(config, envelope(), message("one"))
        second = await pool.send(config, envelope(), message("two"))
    assert first.tls == second.tls
    assert first.tls
    assert first.tls.version.startswith("TLSv1.")
    assert first.connect_ms > 0
    assert second.connect_ms == 0
    assert server.mails == [message("one").content, message("two").content]
