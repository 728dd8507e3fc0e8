"""An SMTP server in a process of its own that never forgets what it answered with 250.

    python -m tests.chaos.sink --log FILE --control PORT --port PORT [--port PORT ...]

Every mail that it keeps is one line of the log, a single write to a file that was opened for
appending, before the first octet of the reply is handed to the socket. So the log holds at least
what any client was told, also after kill -9 of this process, and a mail that stands in it without
the client having heard of it is exactly the case that SMTP leaves open (RFC 5321 section 4.5.3.2.6
names the time-out after which a client must send again).

Lines are JSON. A mail: `at` (CLOCK_MONOTONIC, the same in every process of a machine), `time`
(wall clock), `id` (Message-ID), `to`, `ehlo`, `replied` (false: the reply was withheld by a cut), `sum`
(a hash of the content), `link` (the connection, over all lives of this server), `end` (where its reply
ends, in octets that were sent on that connection).

Cuts are ordered over the control port, one JSON object a line: `{"cut": {"mail": 3}}` ends the
next three dialogues that reach MAIL; `{"delay_s": [0.0, 0.2]}` answers each final dot so much later.
Each is answered with how much was sent on every connection, or the last one between the same ports, open or
not: client's port, server's port, link, octets: `[[40112, 2525, "1234-7", 310]]`.
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import signal
import time
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import uvloop

END = b"\r\n.\r\n"
_MESSAGE_ID = re.compile(rb"^Message-ID:\s*(<[^>]*>)", re.IGNORECASE | re.MULTILINE)
_HEAD_OCTETS = 8192
Ends = tuple[int, int]
"""The ports of a connection: the client's, the server's."""
OK = b"250 2.0.0 Ok\r\n"


class Cut(StrEnum):
    """Where a dialogue ends; `kept`: the mail is taken and the reply is not sent, `dropped`: neither."""

    CONNECT = "connect"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    DROPPED = "dropped"
    KEPT = "kept"
    REPLIED = "replied"


class Orders:
    """What the driver has ordered: cuts still to be made, and how slow final replies are."""

    def __init__(self) -> None:
        self.cuts: dict[Cut, int] = {}
        self.delay_s = (0.0, 0.0)

    def take(self, cut: Cut) -> bool:
        """Whether a dialogue that is here now is to end here."""
        left = self.cuts.get(cut, 0)
        self.cuts[cut] = max(0, left - 1)
        return left > 0

    def obey(self, line: bytes) -> None:
        """Read one line of the control port."""
        order: dict[str, Any] = json.loads(line)
        for name, times in order.get("cut", {}).items():
            self.cuts[Cut(name)] = times
        low, high = order.get("delay_s", self.delay_s)
        self.delay_s = (low, high)


class Log:
    """The file of what was kept."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def keep(self, content: bytes, **told: Any) -> None:
        """Write one mail's line; it is the kernel's, and safe from our own death, when this returns."""
        found = _MESSAGE_ID.search(content[:_HEAD_OCTETS])
        line = {
            "at": time.monotonic(),
            "time": time.time(),
            "id": found[1].decode() if found else "",
            **told,
            "sum": hashlib.blake2b(content, digest_size=8).hexdigest(),
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")


class Session(asyncio.Protocol):
    """One client's dialogue; replies to a batch of pipelined commands leave in one write."""

    _serials = itertools.count()

    def __init__(self, orders: Orders, log: Log, sessions: dict[Ends, "Session"]) -> None:
        self._orders = orders
        self._log = log
        self._sessions = sessions
        self.link = f"{os.getpid()}-{next(self._serials)}"
        self.sent = 0
        self._buffer = bytearray()
        self._replies = bytearray()
        self._recipients: list[str] = []
        self._ehlo = ""
        self._in_data = False
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class
        ends = transport.get_extra_info("peername")[1], transport.get_extra_info("sockname")[1]
        self._sessions[ends] = self
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        if self._orders.take(Cut.CONNECT):
            self._end()
        else:
            self._replies += b"220 chaos ESMTP\r\n"
            self._flush()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        """Work through what has come, up to a final dot whose reply is to be late."""
        while not self._answering and not self._transport.is_closing() and self._step():
            pass
        self._flush()

    def _flush(self) -> None:
        """Hand the replies to the kernel, not to the transport: it keeps them for a turn, and forgets them in `abort`."""
        if self._replies and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # the client is gone; the transport will notice
                self.sent += os.write(self._descriptor, self._replies)
        self._replies.clear()

    def _end(self) -> None:
        """End the dialogue as servers do: by FIN, or by RST when something is unread."""
        self._flush()
        random.choice((self._transport.close, self._transport.abort))()

    def _step(self) -> bool:
        """Take one command or one mail; False where no whole one is there."""
        if self._in_data:
            return self._content()
        line, found, _ = self._buffer.partition(b"\r\n")
        if not found:
            return False
        del self._buffer[: len(line) + 2]
        self._command(bytes(line))
        return True

    def _content(self) -> bool:
        if self._buffer and self._orders.take(Cut.BODY):
            self._end()
            return False
        end = self._buffer.find(END)
        if end < 0:
            return False
        content = bytes(self._buffer[: end + 2])
        del self._buffer[: end + len(END)]
        self._in_data = False
        self._answering = True
        self._flush()
        delay = random.uniform(*self._orders.delay_s)
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self._answer_late, content)
        else:
            self._answer(content)
        return True

    def _answer_late(self, content: bytes) -> None:
        self._answer(content)
        self._go_on()

    def _answer(self, content: bytes) -> None:
        """Keep the mail and say so, unless the dialogue is to end here; who has gone has not been told."""
        recipients, self._recipients, self._answering = self._recipients, [], False
        if self._orders.take(Cut.DROPPED):
            self._end()
            return
        replied = not self._orders.take(Cut.KEPT) and not self._transport.is_closing()
        end = self.sent + len(self._replies) + len(OK)
        self._log.keep(content, to=recipients, ehlo=self._ehlo, replied=replied, link=self.link, end=end)
        if not replied:
            self._end()
            return
        self._replies += OK
        if self._orders.take(Cut.REPLIED):
            self._flush()
            self._transport.close()

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        match verb:
            case b"EHLO":
                self._ehlo = line[5:].decode()
                self._replies += b"250-chaos\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
            case b"MAIL" | b"RCPT" | b"DATA" if self._orders.take(Cut(verb.decode().lower())):
                self._end()
            case b"DATA" if self._recipients:
                self._in_data = True
                self._replies += b"354 go on\r\n"
            case b"DATA":
                self._replies += b"554 5.5.1 no recipient\r\n"
            case b"QUIT":
                self._replies += b"221 2.0.0 Bye\r\n"
                self._flush()
                self._transport.close()
            case _:
                self._envelope(verb, line)
                self._replies += OK

    def _envelope(self, verb: bytes, line: bytes) -> None:
        if verb == b"RCPT":
            self._recipients.append(line.partition(b"<")[2].partition(b">")[0].decode())
        elif verb in (b"MAIL", b"RSET"):
            self._recipients = []


async def serve(log_file: Path, control: int, ports: list[int]) -> None:
    """Serve on loopback until SIGTERM; the control port opens last, so whoever reaches it reaches all."""
    orders, log, stop = Orders(), Log(log_file), asyncio.Event()
    sessions: dict[Ends, Session] = {}
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    for port in ports:
        await loop.create_server(lambda: Session(orders, log, sessions), "127.0.0.1", port, backlog=500)

    async def controlled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            orders.obey(line)
            sent = [[*ends, session.link, session.sent] for ends, session in sessions.items()]
            writer.write(json.dumps(sent).encode() + b"\n")
        writer.close()

    await asyncio.start_server(controlled, "127.0.0.1", control)
    await stop.wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.sink", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--port", type=int, action="append", required=True)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.log, arguments.control, arguments.port))


if __name__ == "__main__":
    main()
