"""An answer that lies in the socket is heard, also where a write that failed or a timer noticed something else first."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from schemas.smtp_config import SmtpConfig, TlsMode
from tests.unit.smtp.scripted_server import envelope, message
from worker.delivery.ports import Answer, Phase
from worker.smtp.connection import SmtpConnection
from worker.smtp.pool import SmtpPool

FINAL_S = 0.2
ANSWERED_THEN_RESET = {
    "250": (b"250 2.0.0 yours no longer\r\n", Phase.FINAL, 250),
    "a refusal": (b"554 5.7.1 not that\r\n", Phase.FINAL, 554),
    "421": (b"421 4.3.2 closing\r\n", Phase.FINAL, 421),
    "half a reply": (b"250 2.0.0 yo", Phase.FINAL, None),
    "nothing": (b"", Phase.FINAL, None),
}


@dataclass
class Abrupt:
    """A server in a thread: it takes one mail, waits, answers it and resets the connection."""

    answer: bytes
    resets: bool = True
    rings: socket.socket | None = None  # is told of the dot at once, without a turn of the loop
    listening: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    dot_came: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)

    def serve(self) -> None:
        connection, _ = self.listening.accept()
        self.listening.close()  # the second mail's connection is refused
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 ready\r\n")
            for line in lines:
                if line == b".\r\n":
                    break
                reply = {b"EHLO": b"250-hi\r\n250 PIPELINING\r\n", b"DATA": b"354 go on\r\n"}
                if line[:4] in (b"EHLO", b"MAIL", b"RCPT", b"DATA"):
                    connection.sendall(reply.get(line[:4], b"250 ok\r\n"))
            self.dot_came.set()
            if self.rings:
                self.rings.send(b"now")
            self.answers.wait(30)
            connection.sendall(self.answer)
            if not self.resets:
                self.gone.set()
                connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.gone.set()

    def config(self) -> SmtpConfig:
        host, port = self.listening.getsockname()
        return SmtpConfig(host=host, port=port, tls=TlsMode.NONE, max_connections=1)


async def _first_answer(server: Abrupt) -> Answer:
    threading.Thread(target=server.serve, daemon=True).start()
    pool, config = SmtpPool("client.test"), server.config()
    first = asyncio.ensure_future(pool.send(config, envelope(), message("one")))
    await asyncio.to_thread(server.dot_came.wait, 30)
    server.answers.set()
    assert server.gone.wait(30)  # blocks the loop on purpose: the answer lies in the socket, and nobody has looked
    await pool.send(config, envelope(), message("two"))  # awaits nothing before it has written
    await pool.close()
    return next(iter((await first).answers.values()))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(("says", "phase", "code"), ANSWERED_THEN_RESET.values(), ids=ANSWERED_THEN_RESET)
def test_an_answer_in_the_socket_is_read_before_the_mail_is_in_doubt(
    run: Callable[[Any], Answer], says: bytes, phase: Phase, code: int | None
) -> None:
    answer = run(_first_answer(Abrupt(says)))
    assert (answer.phase, answer.reply and answer.reply.code) == (phase, code)


async def _answer_of_one_that_stood_still() -> Answer:
    here, there = socket.socketpair()
    server = Abrupt(b"250 taken\r\n", resets=False, rings=there)
    threading.Thread(target=server.serve, daemon=True).start()
    loop, pool = asyncio.get_running_loop(), SmtpPool("client.test")

    def stand_still() -> None:  # while sockets are looked at: uvloop runs timers next, and looks at no other before
        loop.remove_reader(here)
        server.answers.set()
        assert server.gone.wait(30)
        time.sleep(2 * FINAL_S)

    with here, there:
        loop.add_reader(here, stand_still)
        result = await pool.send(server.config(), envelope(), message())
    await pool.close()
    return next(iter(result.answers.values()))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_process_that_stood_still_past_the_limit_reads_before_it_gives_up(
    run: Callable[[Any], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SmtpConnection.__init__.__kwdefaults__ or {}, "final_s", FINAL_S)
    answer = run(_answer_of_one_that_stood_still())
    assert (answer.phase, answer.reply and answer.reply.code) == (Phase.FINAL, 250)
