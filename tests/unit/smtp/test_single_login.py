"""How often a login that the server refuses is tried: once, however much mail waits for it."""

import asyncio
import base64

import pytest

from tests.unit.smtp.scripted_server import OFFER, ScriptedServer, after, envelope, message
from worker.delivery.breakers import FIRST_BACKOFF_S
from worker.delivery.ports import Phase
from worker.smtp import destination

REFUSED = "535 5.7.8 Error: authentication failed"
WITH_LOGIN = (*OFFER, "STARTTLS", "AUTH PLAIN LOGIN")


class Account:
    """A server with one account, whose password a test may change; counts the logins by what came of them."""

    def __init__(self, *, right: bool = True) -> None:
        self.right = right
        self.accepted = self.refused = 0
        self.hold = asyncio.Event()  # at the final dot
        self.hold.set()
        self.slow_s = 0.0
        self.begun: list[float] = []  # when each login came, on the loop's clock
        self.under_way = self.most_at_once = 0

    def __call__(self, _session, command):
        if command.startswith("AUTH"):
            return self._login()
        return self._held() if command == "." else None

    async def _login(self):
        self.begun.append(asyncio.get_running_loop().time())
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        await asyncio.sleep(self.slow_s)
        self.under_way -= 1
        if self.right:
            self.accepted += 1
            return None
        self.refused += 1
        return REFUSED

    async def _held(self):
        await self.hold.wait()


@pytest.fixture
async def account():
    return Account()


@pytest.fixture
async def server(account, tls):
    async with ScriptedServer(account, offer=WITH_LOGIN, context=tls.context) as listening:
        yield listening


@pytest.fixture
def record(server, tls):
    return server.config(
        tls="starttls", ca_bundle=tls.ca, username="ann@from.test", password="guess", max_connections=10
    )


def sends(pool, record, count):
    return [asyncio.ensure_future(pool.send(record, envelope(), message(f"m{n}"))) for n in range(count)]


def found(results):
    return {(a.phase, a.reply.code if a.reply else a.fault) for each in results for a in each.answers.values()}


async def test_two_hundred_mails_at_once_try_a_wrong_password_once(pool, account, record) -> None:
    account.right, account.slow_s = False, 0.02
    results = await asyncio.gather(*sends(pool, record, 200))
    assert found(results) == {(Phase.AUTH, 535)}
    assert account.refused == 1


async def test_mail_that_comes_a_moment_later_has_the_same_answer_without_a_login(pool, account, record) -> None:
    account.right = False
    await asyncio.gather(*sends(pool, record, 5))
    for _ in range(20):
        assert found(await asyncio.gather(*sends(pool, record, 10))) == {(Phase.AUTH, 535)}
    assert account.refused == 1


async def test_a_breakers_probe_is_never_answered_from_memory(pool, account, record, monkeypatch) -> None:
    assert destination.REFUSED_S < FIRST_BACKOFF_S
    monkeypatch.setattr(destination, "REFUSED_S", 0.05)
    account.right = False
    await asyncio.gather(*sends(pool, record, 5))
    account.right = True
    await asyncio.sleep(0.06)
    assert found(await asyncio.gather(*sends(pool, record, 5))) == {(Phase.FINAL, 250)}


async def test_a_new_version_is_tried_at_once(pool, account, record) -> None:
    account.right = False
    await asyncio.gather(*sends(pool, record, 5))
    account.right = True
    mended = record.model_copy(update={"version": 2})
    assert found(await asyncio.gather(*sends(pool, mended, 5))) == {(Phase.FINAL, 250)}


async def test_when_all_connections_drop_after_a_change_of_password_one_login_finds_out(
    pool, account, server, record
) -> None:
    account.hold.clear()
    first = sends(pool, record, 60)
    await after(lambda: server.open == 10 and all(session.mails for session in server.sessions))
    account.right, account.slow_s = False, 0.02
    for session in server.sessions:
        session.writer.transport.abort()
    results = await asyncio.gather(*first, *sends(pool, record, 200))
    assert (Phase.AUTH, 535) in found(results)
    assert account.refused == 1
    assert account.accepted == 10


async def test_beside_connections_that_work_a_refused_login_is_tried_seldom_and_one_at_a_time(
    pool, account, server, record, monkeypatch
) -> None:
    account.hold.clear()
    first = sends(pool, record, 1)
    await after(lambda: server.open == 1 and bool(server.sessions[0].mails))
    monkeypatch.setattr(destination, "PROVEN_S", 0.0)  # as if it had been dialled long ago
    monkeypatch.setattr(destination, "DIAL_AGAIN_S", 0.01)
    monkeypatch.setattr(destination, "LOGIN_AGAIN_S", 0.1)
    account.right, account.slow_s = False, 0.02
    more = sends(pool, record, 100)
    await after(lambda: account.refused == 3)
    account.right = True
    account.hold.set()
    assert found(await asyncio.gather(*first, *more)) == {(Phase.FINAL, 250)}
    one, two, three = account.begun[1:4]  # the first of all was right
    assert (two - one >= 0.09, three - two >= 0.19) == (True, True), account.begun
    assert account.most_at_once == 1


async def test_an_idle_record_grows_again_from_one_connection(pool, account, server, record, monkeypatch) -> None:
    account.hold.clear()
    first = sends(pool, record, 60)
    await after(lambda: server.open == 10)
    account.hold.set()
    await asyncio.gather(*first)
    (kept,) = pool._destinations.values()
    for each in list(kept.connections)[:8]:
        each.retire()
    await after(lambda: server.open == 2)
    monkeypatch.setattr(destination, "PROVEN_S", 0.0)
    account.hold.clear()
    account.right, account.slow_s = False, 0.02
    more = sends(pool, record, 60)
    await after(lambda: account.refused > 0)
    account.hold.set()
    assert found(await asyncio.gather(*more)) == {(Phase.FINAL, 250)}
    assert account.refused == 1


async def test_a_password_that_changes_without_a_version_is_used_from_the_next_login_on(pool, tls, monkeypatch) -> None:
    """As where the record refers to a file, and the file is rotated; an older object may come once more."""
    monkeypatch.setattr(destination, "REFUSED_S", 0.0)
    logins = []

    def note(_session, command):
        if command.startswith("AUTH PLAIN"):
            logins.append(base64.b64decode(command.split()[2]).split(b"\0")[2].decode())
            return REFUSED if logins[-1] != "new" else None
        return None

    async with ScriptedServer(note, offer=WITH_LOGIN, context=tls.context) as listening:
        fields = {"tls": "starttls", "ca_bundle": tls.ca, "username": "ann@from.test"}
        old, new = (listening.config(**fields, password=each) for each in ("old", "new"))
        for record in (old, new, old):
            await asyncio.gather(*sends(pool, record, 1))
    assert logins == ["old", "new"]  # the third mail went over the connection that the second had opened
