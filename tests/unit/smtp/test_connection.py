"""One connection on a real socket: round trips, time limits, and what is said about a mail that was cut off."""

import asyncio
import time

import pytest

from schemas.smtp_config import TlsMode
from tests.unit.smtp.scripted_server import CLOSE, SILENCE, ScriptedServer, after, envelope, message
from worker.delivery.ports import Fault, Phase
from worker.smtp import connection
from worker.smtp.pool import SmtpPool


@pytest.fixture
def impatient(monkeypatch):
    """Have connections wait so many seconds for a reply, while dialling goes by the record."""
    begin = connection.SmtpConnection.__init__

    def so_long(seconds):
        def begin_so(self, dialled, _timeout_s, owner, **more):
            begin(self, dialled, seconds, owner, **more)

        monkeypatch.setattr(connection.SmtpConnection, "__init__", begin_so)

    return so_long


def only(result):
    (answer,) = result.answers.values()
    return answer


def at(verb, says, *, session=1):
    return lambda s, command: says if s.number == session and command.split(" ")[0].split(":")[0] == verb else None


async def test_a_saturated_connection_needs_one_round_trip_for_a_message(pool) -> None:
    count = 100
    async with ScriptedServer() as server:
        config = server.config()
        results = await asyncio.gather(*(pool.send(config, envelope(), message(f"m{n}")) for n in range(count)))
        turns = server.sessions[0].turns
    assert {only(r).reply.code for r in results} == {250}
    assert server.mails == [message(f"m{n}").content for n in range(count)]
    assert len(server.sessions) == 1
    assert turns / count <= 1.1


async def test_without_pipelining_one_command_goes_out_at_a_time(pool) -> None:
    async with ScriptedServer(offer=("8BITMIME",)) as server:
        config = server.config()
        await asyncio.gather(*(pool.send(config, envelope("a@x", "b@x"), message(f"m{n}")) for n in range(3)))
        session = server.sessions[0]
    assert session.turns == len(session.commands) - 1 == 1 + 3 * 5  # EHLO; MAIL, two RCPT, DATA, content


async def test_a_message_alone_leaves_at_once_and_not_behind_another(pool) -> None:
    async with ScriptedServer() as server:
        config = server.config()
        for n in range(3):
            assert only(await pool.send(config, envelope(), message(f"m{n}"))).reply.code == 250
        assert len(server.sessions) == 1


CUT_OFF = {
    "at MAIL": ("MAIL", CLOSE, Phase.MAIL, Fault.LOST),
    "at RCPT": ("RCPT", CLOSE, Phase.RCPT, Fault.LOST),
    "at DATA": ("DATA", CLOSE, Phase.DATA, Fault.LOST),
    "after the dot": (".", CLOSE, Phase.FINAL, Fault.LOST),
    "with garbage": ("RCPT", "hello", Phase.RCPT, Fault.PROTOCOL),
    "with garbage after the dot": (".", "hello", Phase.FINAL, Fault.PROTOCOL),
}


@pytest.mark.parametrize(("verb", "says", "phase", "fault"), CUT_OFF.values(), ids=CUT_OFF)
async def test_a_first_message_that_is_cut_off_says_where(pool, verb, says, phase, fault) -> None:
    async with ScriptedServer(at(verb, says)) as server:
        got = only(await pool.send(server.config(), envelope(), message()))
    assert (got.phase, got.fault) == (phase, fault)


@pytest.mark.parametrize(
    ("verb", "phase"),
    [("MAIL", Phase.MAIL), ("RCPT", Phase.RCPT), ("DATA", Phase.DATA)],
)
async def test_a_server_that_falls_silent_is_a_timeout_of_the_phase(pool, impatient, verb, phase) -> None:
    impatient(0.3)
    async with ScriptedServer(at(verb, SILENCE), offer=()) as server:
        began = time.monotonic()
        got = only(await pool.send(server.config(timeout_s=30), envelope(), message()))
        await server.sessions[0].ended.wait()
    assert (got.phase, got.fault) == (phase, Fault.TIMEOUT)
    assert 0.29 <= time.monotonic() - began < 15


async def test_the_reply_to_the_dot_may_take_longer_than_any_other(pool, impatient) -> None:
    impatient(0.2)
    release = asyncio.Event()

    async def later(session):
        await release.wait()
        session.writer.write(b"250 at last\r\n")

    tasks = []

    def script(session, command):
        if command == ".":
            tasks.append(asyncio.ensure_future(later(session)))
            return SILENCE
        return None

    async with ScriptedServer(script) as server:
        sending = asyncio.ensure_future(pool.send(server.config(timeout_s=30), envelope(), message()))
        await after(lambda: bool(server.mails))
        await asyncio.sleep(0.8)  # four times the limit of every other reply: time itself is what is tested
        assert not sending.done()
        release.set()
        assert only(await sending).reply.text == "at last"


async def test_silence_after_the_dot_ends_in_doubt(monkeypatch, pool) -> None:
    monkeypatch.setitem(connection.SmtpConnection.__init__.__kwdefaults__, "final_s", 0.1)
    async with ScriptedServer(at(".", SILENCE)) as server:
        got = only(await pool.send(server.config(), envelope(), message()))
    assert (got.phase, got.fault) == (Phase.FINAL, Fault.TIMEOUT)


async def test_a_reply_in_drops_does_not_outlast_the_limit(pool, impatient) -> None:
    impatient(0.4)
    stop = asyncio.Event()

    async def drip(session):
        while not stop.is_set():
            session.writer.write(b"2")
            await asyncio.sleep(0.02)

    tasks = []

    def script(session, command):
        if command.startswith("MAIL"):
            tasks.append(asyncio.ensure_future(drip(session)))
            return SILENCE
        return None

    async with ScriptedServer(script, offer=()) as server:
        async with asyncio.timeout(15):
            got = only(await pool.send(server.config(timeout_s=30), envelope(), message()))
        stop.set()
        await asyncio.gather(*tasks)
    assert (got.phase, got.fault) == (Phase.MAIL, Fault.TIMEOUT)


LARGE = 16 * 1024 * 1024  # more than the buffers of both ends can hold


@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.SSL])
@pytest.mark.parametrize("how", ["lost", "timeout"])
async def test_a_large_message_whose_dot_never_left_is_not_in_doubt(tls, pool, impatient, mode, how) -> None:
    """The server stops reading within the content: far more is unsent than the system's buffers hold."""
    impatient(0.2 if how == "timeout" else 30)
    cut = asyncio.Event()

    def script(session, command):
        if command == "DATA":
            session.writer.write(b"354 go\r\n")
            session.reader._transport.pause_reading()
            if how == "lost":
                asyncio.get_running_loop().call_later(0.1, session.writer.transport.abort)
            cut.set()
            return SILENCE
        return None

    async with ScriptedServer(script, context=tls.context, tls_at_once=mode is TlsMode.SSL) as server:
        config = server.config(tls=mode, ca_bundle=tls.ca, timeout_s=30)
        async with asyncio.timeout(25):
            got = only(await pool.send(config, envelope(), message(octets=LARGE)))
    assert cut.is_set()
    assert (got.phase, got.fault) == (Phase.BODY, Fault.TIMEOUT if how == "timeout" else Fault.LOST)


@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.SSL])
async def test_large_messages_arrive_whole_and_in_order(tls, pool, mode) -> None:
    mails = [message("large", octets=3_000_000), message("small"), message("large again", octets=3_000_000)]
    async with ScriptedServer(context=tls.context, tls_at_once=mode is TlsMode.SSL) as server:
        config = server.config(tls=mode, ca_bundle=tls.ca)
        results = await asyncio.gather(*(pool.send(config, envelope(), mail) for mail in mails))
    assert {only(r).reply.code for r in results} == {250}
    assert server.mails == [mail.content for mail in mails]


@pytest.mark.parametrize("goodbye", [b"", b"421 4.4.2 idle too long\r\n"], ids=["EOF", "421"])
async def test_a_connection_closed_while_idle_is_noticed_and_not_used_again(pool, goodbye) -> None:
    async with ScriptedServer() as server:
        config = server.config()
        await pool.send(config, envelope(), message("one"))
        session = server.sessions[0]
        session.writer.write(goodbye)
        session.writer.close()
        await after(lambda: not pool._connections)
        assert only(await pool.send(config, envelope(), message("two"))).reply.code == 250
    assert len(server.sessions) == 2


@pytest.mark.parametrize("says", [CLOSE, "421 4.3.2 closing"])
async def test_a_message_that_met_a_dying_connection_goes_out_on_another_uncharged(pool, says) -> None:
    def script(session, command):
        return says if session.number == 1 and command.startswith("MAIL") and session.mails else None

    async with ScriptedServer(script) as server:
        config = server.config()
        await pool.send(config, envelope(), message("one"))
        got = only(await pool.send(config, envelope(), message("two")))
    assert got.reply.code == 250
    assert server.mails == [message("one").content, message("two").content]


async def test_it_is_put_back_once_only(pool) -> None:
    def script(session, command):
        return CLOSE if command.startswith("MAIL") and (session.mails or session.number > 1) else None

    async with ScriptedServer(script) as server:
        config = server.config()
        await pool.send(config, envelope(), message("one"))
        got = only(await pool.send(config, envelope(), message("two")))
    assert (got.phase, got.fault, len(server.sessions)) == (Phase.MAIL, Fault.LOST, 2)


async def test_idle_connections_say_quit_after_a_while(monkeypatch, pool) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 0.1)
    async with ScriptedServer() as server:
        await pool.send(server.config(), envelope(), message())
        await server.sessions[0].ended.wait()
        assert server.sessions[0].commands[-1] == "QUIT"
        await after(lambda: not pool._connections)


async def test_closing_the_pool_says_quit_and_does_not_wait_for_a_server_that_does_not_answer(monkeypatch) -> None:
    monkeypatch.setattr(connection, "QUIT_S", 0.1)
    async with ScriptedServer(at("QUIT", SILENCE, session=2)) as server:
        pool = SmtpPool("client.test")
        await pool.send(server.config(), envelope(), message())
        await pool.send(server.config(version=2), envelope(), message())
        await asyncio.wait_for(pool.close(), 10)
        for session in server.sessions:
            await session.ended.wait()
    assert [s.commands[-1] for s in server.sessions] == ["QUIT", "QUIT"]


async def test_refused_recipients_and_the_others_each_get_their_own_answer(pool) -> None:
    def script(session, command):
        return "550 5.1.1 no" if "bad@" in command else None

    async with ScriptedServer(script) as server:
        result = await pool.send(server.config(), envelope("good@x", "bad@x"), message())
    assert {to: (a.phase, a.reply.code) for to, a in result.answers.items()} == {
        "good@x": (Phase.FINAL, 250),
        "bad@x": (Phase.RCPT, 550),
    }


async def test_an_address_that_must_not_be_sent_is_an_answer_and_breaks_nothing(pool) -> None:
    async with ScriptedServer() as server:
        config = server.config()
        bad = only(await pool.send(config, envelope("a@x>\r\nRSET"), message()))
        good = only(await pool.send(config, envelope(), message()))
    assert (bad.phase, bad.fault) == (Phase.MAIL, Fault.PROTOCOL)
    assert good.reply.code == 250
    assert "RSET" not in server.sessions[0].commands
