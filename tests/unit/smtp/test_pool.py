"""The pool: what it opens, what it learns, and that tenants do not stand in each other's way."""

import asyncio
from ipaddress import ip_network

import pytest

from tests.unit.smtp.scripted_server import CLOSE, SILENCE, ScriptedServer, after, envelope, message
from worker.delivery.ports import Fault, Phase
from worker.smtp.egress import EgressGuard
from worker.smtp.pool import SmtpPool


def only(result):
    (answer,) = result.answers.values()
    return answer


def codes(results):
    return [a.reply.code if (a := only(each)).reply else a.fault for each in results]


class Gate:
    """Holds every server up at a command until it is opened."""

    def __init__(self, command: str = ".") -> None:
        self._command, self._opened = command, asyncio.Event()
        self.open = self._opened.set

    def __call__(self, session, command):
        return self._wait() if command == self._command else None

    async def _wait(self) -> None:
        await self._opened.wait()


def send_many(pool, config, count, name="m"):
    return [asyncio.ensure_future(pool.send(config, envelope(), message(f"{name}{n}"))) for n in range(count)]


async def test_it_grows_while_messages_wait_and_no_further_than_the_record_says(pool) -> None:
    gate = Gate()
    async with ScriptedServer(gate) as server:
        sending = send_many(pool, server.config(max_connections=3), 20)
        await after(lambda: server.open == 3)
        gate.open()
        assert codes(await asyncio.gather(*sending)) == [250] * 20
        assert server.most_at_once == 3
    assert len(server.mails) == 20


async def test_one_connection_serves_messages_that_come_one_after_another(pool) -> None:
    async with ScriptedServer() as server:
        config = server.config(max_connections=10)
        for n in range(5):
            await pool.send(config, envelope(), message(f"m{n}"))
    assert len(server.sessions) == 1


@pytest.mark.parametrize("change", [{"partner": "other"}, {"version": 2}, {"display_name": "second"}, {"retries": 1}])
async def test_records_that_differ_in_anything_share_no_connection(change) -> None:
    pool = SmtpPool("client.test", guard=EgressGuard((ip_network("127.0.0.0/8"),), ((1, 65535),)))
    async with ScriptedServer() as server:
        await pool.send(server.config(partner="acme"), envelope(), message("one"))
        await pool.send(server.config(**{"partner": "acme"} | change), envelope(), message("two"))
        await pool.close()
    assert len(server.sessions) == 2


async def test_a_new_version_of_a_record_lets_the_old_connections_finish_and_quit(pool) -> None:
    gate = Gate()
    async with ScriptedServer(gate) as server:
        old = send_many(pool, server.config(), 3, "old")
        await after(lambda: bool(server.sessions and server.sessions[0].mails))
        new = send_many(pool, server.config(version=2), 1, "new")
        gate.open()
        assert codes(await asyncio.gather(*old, *new)) == [250] * 4
        await asyncio.wait_for(server.sessions[0].ended.wait(), 10)
        assert server.sessions[0].commands[-1] == "QUIT"
        assert len(server.sessions[0].mails) == 3
        late = await pool.send(server.config(), envelope(), message("late"))
        assert only(late).reply.code == 250
        await asyncio.wait_for(server.sessions[2].ended.wait(), 10)


async def test_a_failed_dial_is_the_answer_of_all_that_wait_and_only_one_was_made(pool) -> None:
    async with ScriptedServer(lambda s, c: "554 5.3.2 no service" if c == "" else None) as server:
        results = await asyncio.gather(*send_many(pool, server.config(max_connections=10), 20))
    assert {(only(r).phase, only(r).reply.code) for r in results} == {(Phase.GREETING, 554)}
    assert len(server.sessions) == 1


@pytest.mark.parametrize("refusal", ["421 4.7.0 Too many connections", "554 no more"])
async def test_a_server_that_refuses_a_further_connection_is_asked_no_more(pool, refusal) -> None:
    gate = Gate()

    def script(session, command):
        if command == "" and session.number > 2:
            return refusal
        return gate(session, command)

    async with ScriptedServer(script) as server:
        sending = send_many(pool, server.config(max_connections=8), 30)
        await after(lambda: len(server.sessions) >= 3)
        await server.sessions[2].ended.wait()
        gate.open()
        assert codes(await asyncio.gather(*sending)) == [250] * 30
        (found,) = pool._destinations.values()
        assert found._limit.allowed(asyncio.get_running_loop().time()) == 2
        asked = len(server.sessions)
        assert asked <= 2 + 4  # those that were under way when the first of them was refused
        assert codes(await asyncio.gather(*send_many(pool, server.config(max_connections=8), 30))) == [250] * 30
        assert len(server.sessions) == asked


async def test_a_limit_of_messages_a_connection_is_learned_and_then_kept(pool) -> None:
    def script(session, command):
        return "421 4.3.2 enough" if command.startswith("MAIL") and len(session.mails) == 3 else None

    async with ScriptedServer(script) as server:
        config = server.config()
        results = [await pool.send(config, envelope(), message(f"m{n}")) for n in range(15)]
        await after(lambda: server.open == 0)
    assert codes(results).count(250) >= 13
    endings = [session.commands[-1].split(" ")[0] for session in server.sessions]
    assert endings[-1] == "QUIT"
    assert endings.count("QUIT") >= 2
    assert all(len(session.mails) <= 3 for session in server.sessions)


async def test_mailmax_of_the_limits_extension_is_kept_from_the_start(pool) -> None:
    async with ScriptedServer(offer=("PIPELINING", "LIMITS MAILMAX=2")) as server:
        results = await asyncio.gather(*send_many(pool, server.config(), 5))
    assert codes(results) == [250] * 5
    assert [len(session.mails) for session in server.sessions] == [2, 2, 1]


async def test_throttling_replies_lower_the_number_of_connections(pool) -> None:
    throttling = True

    def script(session, command):
        return "450 4.7.500 Server busy" if throttling and command.startswith("MAIL") else None

    async with ScriptedServer(script) as server:
        config = server.config(max_connections=4)
        results = await asyncio.gather(*send_many(pool, config, 8))
        assert set(codes(results)) == {450}
        (found,) = pool._destinations.values()
        assert found._limit.allowed(asyncio.get_running_loop().time()) == 2
        throttling = False
        assert codes(await asyncio.gather(*send_many(pool, config, 8))) == [250] * 8


async def test_at_one_connection_a_throttling_reply_makes_the_next_message_wait(monkeypatch, pool) -> None:
    monkeypatch.setattr("worker.smtp.limits.FIRST_PAUSE_S", 0.15)
    loop, times = asyncio.get_running_loop(), []

    def script(session, command):
        if command.startswith("MAIL"):
            times.append(loop.time())
            return "450 4.7.500 Server busy" if len(times) == 1 else None
        return None

    async with ScriptedServer(script) as server:
        config = server.config()
        assert codes([await pool.send(config, envelope(), message())]) == [450]
        assert codes([await pool.send(config, envelope(), message())]) == [250]
    assert times[1] - times[0] >= 0.14


async def test_a_rate_per_minute_is_kept_by_all_connections_together(pool) -> None:
    loop = asyncio.get_running_loop()
    async with ScriptedServer() as server:
        began = loop.time()
        results = await asyncio.gather(*send_many(pool, server.config(rate_per_minute=1200, max_connections=4), 28))
    assert codes(results) == [250] * 28
    assert loop.time() - began >= (28 - 21) / 20


async def test_a_cancelled_sender_takes_its_message_back_unless_it_is_on_its_way(pool) -> None:
    gate = Gate()
    async with ScriptedServer(gate, offer=()) as server:
        sending = send_many(pool, server.config(), 3)
        await after(lambda: bool(server.mails))
        sending[0].cancel()
        sending[1].cancel()
        gate.open()
        assert codes([await sending[2]]) == [250]
        assert [mail.split(b"\r\n")[0] for mail in server.mails] == [b"Subject: m0", b"Subject: m2"]
        assert pool._room._all.messages == 0


async def test_a_message_whose_sender_is_gone_is_neither_sent_nor_kept(pool) -> None:
    gate = Gate()
    async with ScriptedServer(gate, offer=()) as server:
        sending = send_many(pool, server.config(), 3)
        await after(lambda: bool(server.mails))
        (found,) = pool._destinations.values()
        (connection,) = found.connections
        sending[2].cancel()
        await asyncio.wait(sending[2:])
        assert len(found.waiting) == 1
        for each in sending:
            each.cancel()
        assert found.next_job(connection) is None  # before the senders have noticed themselves
        await asyncio.wait(sending)
        assert not found.waiting
        gate.open()


async def test_a_message_is_put_back_once_even_where_another_dying_connection_is_next(pool) -> None:
    dying = False
    gate = Gate()

    def script(session, command):
        return CLOSE if dying and command.startswith("MAIL") and session.number <= 2 else gate(session, command)

    async with ScriptedServer(script) as server:
        config = server.config(max_connections=2)
        sending = send_many(pool, config, 8)
        await after(lambda: server.open == 2)
        gate.open()
        await asyncio.gather(*sending)
        dying = True
        got = only(await pool.send(config, envelope(), message("unlucky")))
    assert (got.phase, got.fault, len(server.sessions)) == (Phase.MAIL, Fault.LOST, 2)


async def test_a_stuck_tenant_does_not_hold_up_another(pool) -> None:
    async with (
        ScriptedServer(lambda s, c: SILENCE if c == "EHLO client.test" else None) as stuck,
        ScriptedServer() as well,
    ):
        waiting = send_many(pool, stuck.config(display_name="stuck"), 50)
        results = await asyncio.wait_for(asyncio.gather(*send_many(pool, well.config(), 50)), 10)
        assert codes(results) == [250] * 50
        for each in waiting:
            each.cancel()


async def test_the_bound_on_all_connections_takes_an_idle_one_from_another_tenant() -> None:
    pool = SmtpPool("client.test", max_connections=1)
    async with ScriptedServer() as one, ScriptedServer() as two:
        for n in range(3):
            for server in (one, two):
                config = server.config(display_name=str(server.port))
                got = await asyncio.wait_for(pool.send(config, envelope(), message(f"m{n}")), 10)
                assert only(got).reply.code == 250
                assert one.open + two.open <= 2  # the farewell of the one may still be on its way
        await pool.close()


async def test_the_bound_on_all_connections_is_shared_with_who_comes_later() -> None:
    """The greedy tenant's connections are never idle: each of its senders has the next message at once."""
    pool, enough = SmtpPool("client.test", max_connections=4), asyncio.Event()
    async with ScriptedServer() as greedy, ScriptedServer() as modest:
        config = greedy.config(max_connections=10, display_name="greedy")

        async def send_on() -> None:
            while not enough.is_set():
                assert codes([await pool.send(config, envelope(), message())]) == [250]

        sending = [asyncio.ensure_future(send_on()) for _ in range(30)]
        await after(lambda: greedy.open == 4)
        later = send_many(pool, modest.config(display_name="modest", max_connections=10), 30)
        assert codes(await asyncio.wait_for(asyncio.gather(*later), 10)) == [250] * 30
        enough.set()
        await asyncio.gather(*sending)
        assert pool._open <= 4
        await pool.close()


async def test_after_its_end_the_pool_answers_shutdown(pool) -> None:
    async with ScriptedServer() as server:
        await pool.close()
        got = only(await pool.send(server.config(), envelope(), message()))
    assert (got.phase, got.fault, server.sessions) == (Phase.CONNECT, Fault.SHUTDOWN, [])


async def test_closing_cuts_off_what_is_under_way_and_answers_everything() -> None:
    pool, gate = SmtpPool("client.test"), Gate()
    async with ScriptedServer(gate) as server:
        sending = send_many(pool, server.config(), 4)
        await after(lambda: bool(server.mails))
        await pool.close()
        answers = [only(each) for each in await asyncio.wait_for(asyncio.gather(*sending), 10)]
    assert [(a.phase, a.fault) for a in answers] == [
        (Phase.FINAL, Fault.LOST),
        *[(Phase.CONNECT, Fault.SHUTDOWN)] * 3,  # the second one's MAIL was on the wire, and meant nothing yet
    ]


async def test_a_mistake_of_our_own_reaches_the_sender_and_does_not_leave_it_waiting(monkeypatch, pool) -> None:
    async def broken(*_):
        msg = "our own mistake"
        raise RuntimeError(msg)

    monkeypatch.setattr("worker.smtp.pool.dial", broken)
    async with ScriptedServer() as server:
        with pytest.raises(RuntimeError, match="our own mistake"):
            await asyncio.wait_for(pool.send(server.config(), envelope(), message()), 10)


async def test_a_connection_that_is_lost_with_two_messages_has_one_in_doubt_and_sends_the_other_again(pool) -> None:
    def script(session, command):
        return CLOSE if session.number == 1 and command == "." else None

    async with ScriptedServer(script) as server:
        first, second = await asyncio.gather(*send_many(pool, server.config(), 2))
    assert (only(first).phase, only(first).fault) == (Phase.FINAL, Fault.LOST)
    assert only(second).reply.code == 250


async def test_many_records_are_forgotten_once_unused(monkeypatch, pool) -> None:
    monkeypatch.setattr("worker.smtp.pool.MAX_KEYS", 5)
    async with ScriptedServer(lambda s, c: "554 no" if c == "" else None) as server:
        for n in range(20):
            await pool.send(server.config(display_name=f"r{n}"), envelope(), message())
    assert len(pool._destinations) <= 10  # pruned with each generation of objects
    assert len(pool._newest) == len(pool._destinations)


async def test_a_pause_that_is_over_in_no_time_is_still_noticed(pool) -> None:
    """On uvloop a timer that is due at once is no timer, and cannot be asked when it fires."""
    async with ScriptedServer() as server:
        config = server.config()
        await pool.send(config, envelope(), message())
        (found,) = pool._destinations.values()
        for _ in range(3):
            found._block_until(asyncio.get_running_loop().time() + 0.0001)
        assert codes([await asyncio.wait_for(pool.send(config, envelope(), message()), 10)]) == [250]


async def test_a_result_is_heard_before_anybody_else_goes_on(pool) -> None:
    """While the socket is read, in no task: whoever has the result then waits for no turn of the loop."""
    heard = []
    async with ScriptedServer() as server:
        sending = asyncio.ensure_future(
            pool.send(
                server.config(),
                envelope(),
                message(),
                lambda result: heard.append((result, asyncio.current_task(), sending.done())),
            )
        )
        result = await sending
    assert heard == [(result, None, False)]


async def test_what_a_hearer_raises_is_raised_at_its_sender_and_the_connection_goes_on(pool) -> None:
    def raises(_result) -> None:
        raise ValueError("a mistake of ours")

    async with ScriptedServer() as server:
        with pytest.raises(ValueError, match="a mistake of ours"):
            await pool.send(server.config(), envelope(), message("one"), raises)
        await pool.send(server.config(), envelope(), message("two"))
        assert len(server.sessions) == 1
