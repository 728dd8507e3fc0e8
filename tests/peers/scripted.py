"""An SMTP server that follows its script to the octet, and keeps the truth of what it took.

A script says what happens at a point of the dialogue instead of the regular reply; without one the
server behaves. Each connection has its own script, so that a fault can be followed by a retry.
"""

import asyncio
import base64
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from enum import StrEnum, auto
from typing import Self

from tests.peers.wire import Cut, Ended, Wire

_WIDE = 4 * 1024 * 1024
USER, PASSWORD = "robot@peer.test", "correct horse battery staple"


class Point(StrEnum):
    """Where a script can step in: when the command has been read, before it is answered."""

    CONNECT = auto()
    EHLO = auto()
    STARTTLS = auto()
    HANDSHAKE = auto()
    EHLO_TLS = auto()
    AUTH = auto()
    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    BODY = auto()
    DOT = auto()
    RSET = auto()
    IDLE = auto()  # after the reply to a final dot


class End(StrEnum):
    """What becomes of the connection."""

    STAY = auto()
    FIN = auto()
    RST = auto()
    MUTE = auto()  # it stays open and is read from, and nothing is ever said again
    STALL = auto()  # it stays open, and is not even read from


@dataclass(frozen=True)
class Act:
    """What happens at the `nth` time that a point is reached (None: every time): the reply if `obey`, `say`, `end`.

    `holds`: the command takes effect, or at DOT the message is kept, though `say` stands for the reply;
    with `obey` it always does. `octets`: at BODY, how much of the content is read first; at HANDSHAKE,
    how much of the server's flight is sent.
    """

    say: bytes = b""
    end: End = End.STAY
    obey: bool = False
    holds: bool = False
    nth: int | None = 1
    octets: int | None = None


@dataclass(frozen=True)
class Script:
    """One connection: acts by point, and cuts by octets sent or read (see `Wire`), which end it by `cut_end`."""

    acts: Mapping[Point, Act] = field(default_factory=dict)
    sends: int | None = None
    reads: int | None = None
    segment: int | None = None
    cut_end: End = End.FIN


BEHAVED = Script()


@dataclass(frozen=True)
class Offers:
    """What EHLO announces; `starttls` and `auth` need a certificate."""

    pipelining: bool = True
    starttls: bool = False
    auth: bool = False
    size: int | None = 50_000_000


@dataclass(frozen=True)
class Kept:
    """The server's truth: a message that it holds for one recipient."""

    message_id: str
    recipient: str
    content: bytes
    encrypted: bool


class ScriptedPeer:
    """`async with ScriptedPeer(script_of_the_first_connection, ...) as peer:`; later connections follow `always`."""

    def __init__(
        self,
        *scripts: Script,
        always: Script = BEHAVED,
        offers: Offers = Offers(),
        tls: ssl.SSLContext | None = None,
        tls_at_once: bool = False,
        receive_buffer: int | None = None,
    ) -> None:
        self.scripts, self.always, self.offers, self.tls, self.tls_at_once = scripts, always, offers, tls, tls_at_once
        self.kept: list[Kept] = []
        self.sessions: list[Session] = []
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return self._socket.getsockname()[1]

    @property
    def clear(self) -> bytes:
        """Every octet of SMTP that came without TLS."""
        return b"".join(bytes(session.wire.clear) for session in self.sessions)

    @property
    def commands(self) -> list[str]:
        """The verbs of all connections, oldest first; in lower case where they came without TLS."""
        return [verb for session in self.sessions for verb in session.commands]

    @property
    def violations(self) -> list[str]:
        """What a client must not do, done."""
        return [each for session in self.sessions for each in session.violations]

    async def __aenter__(self) -> Self:
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(100)
        self._begin(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()

    def _begin(self, work) -> None:
        self._tasks.add(asyncio.ensure_future(work))

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._socket)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = len(self.sessions)
            session = Session(self, sock, self.scripts[number] if number < len(self.scripts) else self.always)
            if session.behaved:  # only a faulty connection has a narrow window
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WIDE)
            self.sessions.append(session)
            self._begin(session.run())


class _Over(Exception):
    """The dialogue has ended, by script or by QUIT."""


class Session:
    """One connection's dialogue."""

    def __init__(self, peer: ScriptedPeer, sock: socket.socket, script: Script) -> None:
        self._peer, self._script = peer, script
        self.wire = Wire(sock, sends=script.sends, reads=script.reads, segment=script.segment)
        self._times: Counter[Point] = Counter()
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._authenticated = False
        self.commands: list[str] = []
        self.violations: list[str] = []

    @property
    def behaved(self) -> bool:
        return self._script == BEHAVED

    async def run(self) -> None:
        """Serve until one side ends it."""
        try:
            await self._serve()
        except Cut:
            with contextlib.suppress(Ended):
                await self._end(self._script.cut_end)
        except (Ended, _Over):
            pass  # the client has gone, or the script is over: both are how a dialogue ends
        finally:
            self.wire.close()

    async def _serve(self) -> None:
        if self._peer.tls_at_once:
            await self._handshake()
        await self._reach(Point.CONNECT, b"220 peer.test ESMTP\r\n")
        while True:
            line = (await self.wire.line()).decode()
            verb = line[:4].upper()
            self.commands.append(verb if self.wire.encrypted else verb.lower())
            self._check_pipelining(line)
            handler = getattr(self, f"_{verb.lower()}", None) if verb.isalpha() else None
            if handler is None:
                self.violations.append(f"not a command: {line[:60]!r}")
                await self.wire.send(b"500 5.5.2 What?\r\n")
            else:
                await handler(line)

    def _check_pipelining(self, line: str) -> None:
        if self.wire.waiting and not self._peer.offers.pipelining:
            self.violations.append(f"pipelined behind {line[:60]!r} without an offer")

    async def _reach(self, point: Point, reply: bytes) -> bool:
        """Answer as the script wants at this point; True where the command holds."""
        act = self._act(point)
        if act is None:
            await self.wire.send(reply)
            return True
        if act.say or act.obey:
            await self.wire.send((reply if act.obey else b"") + act.say)
        await self._end(act.end)
        return act.obey or act.holds

    def _act(self, point: Point) -> Act | None:
        act = self._due(point)
        self._times[point] += 1
        return act

    def _due(self, point: Point) -> Act | None:
        act = self._script.acts.get(point)
        return act if act is not None and act.nth in (None, self._times[point] + 1) else None

    async def _end(self, end: End) -> None:
        match end:
            case End.STAY:
                return
            case End.FIN:
                await self.wire.finish()
            case End.RST:
                self.wire.reset()
            case End.MUTE:
                await self.wire.until_closed()
            case End.STALL:
                await asyncio.Event().wait()  # until the peer itself ends
        raise _Over

    # The commands; each is found by its first four letters.

    async def _ehlo(self, _line: str) -> None:
        offers, encrypted = self._peer.offers, self.wire.encrypted
        lines = ["peer.test", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        lines += ["PIPELINING"] * offers.pipelining
        lines += [f"SIZE {offers.size}"] * (offers.size is not None)
        lines += ["STARTTLS"] * (offers.starttls and not encrypted)
        lines += ["AUTH PLAIN"] * (offers.auth and encrypted)
        text = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
        await self._reach(Point.EHLO_TLS if encrypted and not self._peer.tls_at_once else Point.EHLO, text.encode())

    async def _star(self, _line: str) -> None:
        if await self._reach(Point.STARTTLS, b"220 2.0.0 Ready to start TLS\r\n"):
            await self._handshake()

    async def _handshake(self) -> None:
        act = self._act(Point.HANDSHAKE)
        if act is None or act.octets is not None:
            assert self._peer.tls is not None
            try:
                await self.wire.start_tls(self._peer.tls, act.octets if act else None)
            except Cut:
                await self._end(act.end if act else End.FIN)
            return
        await self.wire.client_hello()
        if act.say:
            await self.wire.raw(act.say)
        await self._end(act.end)

    async def _auth(self, line: str) -> None:
        if not self.wire.encrypted:
            self.violations.append("AUTH without TLS")
        given = line.split(" ")[2:] or [await self._challenge()]
        expected = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
        reply = b"235 2.7.0 Welcome\r\n" if given[0] == expected else b"535 5.7.8 Wrong\r\n"
        self._authenticated = await self._reach(Point.AUTH, reply) and given[0] == expected

    async def _challenge(self) -> str:
        await self.wire.send(b"334 \r\n")
        return (await self.wire.line()).decode()

    async def _mail(self, line: str) -> None:
        if self._sender is not None:
            self.violations.append("MAIL inside a transaction")
        if self._peer.offers.auth and not self._authenticated:
            await self.wire.send(b"530 5.7.0 Authentication required\r\n")
        elif await self._reach(Point.MAIL, b"250 2.1.0 Ok\r\n"):
            self._sender = _path(line)

    async def _rcpt(self, line: str) -> None:
        if self._sender is None:
            await self.wire.send(b"503 5.5.1 MAIL first\r\n")
        elif await self._reach(Point.RCPT, b"250 2.1.5 Ok\r\n"):
            self._recipients.append(_path(line))

    async def _data(self, _line: str) -> None:
        if not self._recipients:
            await self.wire.send(b"554 5.5.1 No valid recipients\r\n")
        elif await self._reach(Point.DATA, b"354 Go ahead\r\n"):
            await self._content()

    async def _content(self) -> None:
        act = self._act(Point.BODY)
        if act is not None:
            await self.wire.read(act.octets or 0)
            if act.say:
                await self.wire.send(act.say)
            await self._end(act.end)
        content = _unstuffed(await self.wire.content())
        act = self._due(Point.DOT)
        if act is None or act.holds or act.obey:
            self._keep(content)
        self._clear()
        await self._reach(Point.DOT, b"250 2.0.0 Ok: queued as %X\r\n" % (0xA0000 + len(self._peer.kept)))
        await self._idle()

    async def _idle(self) -> None:
        act = self._act(Point.IDLE)
        if act is not None:
            await self.wire.send(act.say)
            await self._end(act.end)

    def _keep(self, content: bytes) -> None:
        identity = BytesHeaderParser().parsebytes(content)["Message-ID"] or ""
        self._peer.kept += [Kept(identity, each, content, self.wire.encrypted) for each in self._recipients]

    async def _rset(self, _line: str) -> None:
        self._clear()
        await self._reach(Point.RSET, b"250 2.0.0 Ok\r\n")

    def _clear(self) -> None:
        self._sender, self._recipients = None, []

    async def _noop(self, _line: str) -> None:
        await self.wire.send(b"250 2.0.0 Ok\r\n")

    async def _quit(self, _line: str) -> None:
        await self.wire.send(b"221 2.0.0 Bye\r\n")
        await self._end(End.FIN)


def _path(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]


def _unstuffed(content: bytes) -> bytes:
    content = content.replace(b"\r\n..", b"\r\n.")
    return content[1:] if content.startswith(b"..") else content
