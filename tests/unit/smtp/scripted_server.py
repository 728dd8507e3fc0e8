"""A scripted SMTP server on loopback, and what tests of the sending side need beside it.

It speaks enough of the server's side to take mail, keeps what it took, and leaves the script at
any command that a test names. `turns` counts how often the client's bytes were answered: over a
client that waits for nothing it needs not wait for, that is the number of round trips.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from schemas.smtp_config import SmtpConfig, TlsMode
from worker.delivery.ports import MailEnvelope, RenderedMessage

OFFER = ("PIPELINING", "SIZE 50000000", "8BITMIME", "ENHANCEDSTATUSCODES")
CLOSE = "close"
SILENCE = "silence"

Script = Callable[["Session", str], "str | bytes | Awaitable[str | None] | None"]
"""What to answer to a command (`.` for the end of content, `` for the greeting), or what to wait for; None: as usual."""


@dataclass
class Session:
    """One connection, as the server sees it; `number` counts from 1."""

    server: "ScriptedServer"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    commands: list[str] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)
    turns: int = 0
    task: "asyncio.Task[None] | None" = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _buffer: bytes = b""
    _in_content: bool = False

    async def run(self) -> None:
        try:
            if not await self._answer(""):
                return
            while data := await self.reader.read(65536):
                self.turns += 1
                self._buffer += data
                if not await self._step_through():
                    return
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            self.commands.append("reset by peer")
        finally:
            self.ended.set()
            self.writer.close()
            self.server.ended_one()

    async def _step_through(self) -> bool:
        while True:
            if self._in_content:
                content, end, rest = (b"\r\n" + self._buffer).partition(b"\r\n.\r\n")
                if not end:
                    return True
                self._buffer, self._in_content = rest, False
                self.mails.append(re.sub(rb"(?m)^\.", b"", content[2:] + b"\r\n"))
                if not await self._answer("."):
                    return False
                continue
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                return True
            self._buffer = rest
            if not await self._answer(line.decode()):
                return False

    async def _answer(self, command: str) -> bool:
        self.commands.append(command)
        answer = self.server.script(self, command)
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer is None:
            answer = self._usual(command)
        if answer == SILENCE:
            return True
        if answer == CLOSE:
            return False
        if answer == "starttls":
            self.writer.write(b"220 go\r\n")
            await self.writer.start_tls(self.server.context)
            self._buffer = b""
            return True
        self._in_content = answer.startswith("354") if isinstance(answer, str) else False
        self.writer.write(answer if isinstance(answer, bytes) else answer.encode() + b"\r\n")
        await self.writer.drain()
        closing = isinstance(answer, str) and answer.startswith(("221", "421"))
        return not closing

    def _usual(self, command: str) -> str:
        verb = re.split("[ :]", command, maxsplit=1)[0].upper()
        if verb == "EHLO":
            offer = ["scripted", *self.server.offer]
            return "\r\n".join(f"250{'-' if n < len(offer) - 1 else ' '}{each}" for n, each in enumerate(offer))
        usual = {"": "220 hello", "DATA": "354 go", ".": "250 2.0.0 Ok: queued", "QUIT": "221 bye", "AUTH": "235 in"}
        return usual.get(verb, "starttls" if verb == "STARTTLS" else "250 ok")


class ScriptedServer:
    """Listens on 127.0.0.1 between `async with` and its end."""

    def __init__(self, script: Script | None = None, *, offer=OFFER, context=None, tls_at_once=False) -> None:
        self.script = script or (lambda _session, _command: None)
        self.offer, self.context, self._tls_at_once = offer, context, tls_at_once
        self.sessions: list[Session] = []
        self.most_at_once = 0
        self._open = 0
        self.changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        tls = self.context if self._tls_at_once else None
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._listener.close()
        for session in self.sessions:
            session.writer.transport.abort()
            session.task.cancel()

    async def _serve(self, reader, writer):
        session = Session(self, reader, writer, len(self.sessions) + 1)
        session.task = asyncio.current_task()
        self.sessions.append(session)
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        await session.run()

    def ended_one(self) -> None:
        self._open -= 1

    @property
    def open(self) -> int:
        return self._open

    @property
    def mails(self) -> list[bytes]:
        return [mail for session in self.sessions for mail in session.mails]

    def config(self, **changes) -> SmtpConfig:
        given = {"host": "127.0.0.1", "port": self.port, "tls": TlsMode.NONE, "timeout_s": 5.0, "max_connections": 1}
        return SmtpConfig(**(given | changes))


def envelope(*recipients: str) -> MailEnvelope:
    return MailEnvelope("sender@from.test", recipients or ("rcpt@to.test",))


def message(text: str = "hello", *, octets: int = 0) -> RenderedMessage:
    body = f"Subject: {text}\r\n\r\n{text}\r\n".encode() + b"x" * 78 * (octets // 80) + b"\r\n"
    return RenderedMessage(body, f"<{text}@test>")


def after(condition: Callable[[], bool]) -> "asyncio.Future[None]":
    """Wait until `condition` holds, looking once each turn of the loop; a test's own timeout bounds it."""

    async def look() -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.002)

    return asyncio.ensure_future(look())
