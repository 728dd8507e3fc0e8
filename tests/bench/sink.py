"""A small SMTP server in a process of its own: takes every mail, keeps none, notes when it answered.

    python -m tests.bench.sink --log FILE [--cert PEM]

It stands where `smtp-sink` cannot: for STARTTLS, and where the moment of each 250 matters. It
offers PIPELINING, 8BITMIME, SMTPUTF8 and, with a certificate, STARTTLS. Its log has one line per
mail and recipient: CLOCK_MONOTONIC in nanoseconds (the same clock in every process of this
machine) and the recipient. The port stands alone on the log's first line.
"""

import argparse
import asyncio
import signal
import ssl
import time
from pathlib import Path
from typing import TextIO, cast

import uvloop

END = b"\r\n.\r\n"


class Log:
    """Lines that are written at the end of the loop's turn, many in one write."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._pending: list[str] = []

    def note(self, line: str) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append(line)

    def _flush(self) -> None:
        self._file.write("\n".join(self._pending) + "\n")
        self._file.flush()
        self._pending.clear()


class Session(asyncio.Protocol):
    """One client's dialogue; replies to a batch of pipelined commands leave in one write."""

    def __init__(self, log: Log, tls: ssl.SSLContext | None) -> None:
        self._log = log
        self._tls = tls
        self._buffer = bytearray()
        self._recipients: list[str] = []
        self._in_data = False
        self._secure = False
        self._upgrade: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class
        if not self._secure:
            self._transport.write(b"220 bench ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        replies = bytearray()
        while (reply := self._step()) is not None:
            replies += reply
        if replies and not self._transport.is_closing():
            self._transport.write(replies)

    def _step(self) -> bytes | None:
        """Take one command or body from the buffer; None where it holds no whole one."""
        if self._in_data:
            return self._body()
        line, found, _ = self._buffer.partition(b"\r\n")
        if not found:
            return None
        del self._buffer[: len(line) + 2]
        return self._command(bytes(line))

    def _body(self) -> bytes | None:
        end = self._buffer.find(END)
        if end < 0:
            return None
        del self._buffer[: end + len(END)]
        self._in_data = False
        now = time.monotonic_ns()
        for recipient in self._recipients:
            self._log.note(f"{now} {recipient}")
        self._recipients.clear()
        return b"250 2.0.0 Ok\r\n"

    def _command(self, line: bytes) -> bytes:
        match line[:4].upper():
            case b"EHLO":
                secure = b"" if self._tls is None or self._secure else b"250-STARTTLS\r\n"
                return b"250-bench\r\n250-PIPELINING\r\n250-8BITMIME\r\n" + secure + b"250 SMTPUTF8\r\n"
            case b"RCPT":
                self._recipients.append(line.partition(b"<")[2].partition(b">")[0].decode())
            case b"DATA":
                if not self._recipients:
                    return b"554 5.5.1 no recipient\r\n"
                self._in_data = True
                return b"354 go on\r\n"
            case b"RSET":
                self._recipients.clear()
            case b"STAR":
                return self._start_tls()
            case b"QUIT":
                self._transport.write(b"221 2.0.0 Bye\r\n")
                self._transport.close()
                return b""
        return b"250 2.0.0 Ok\r\n"

    def _start_tls(self) -> bytes:
        if self._tls is None or self._secure:
            return b"502 5.5.1 no\r\n"
        self._transport.write(b"220 2.0.0 go on\r\n")
        self._upgrade = asyncio.ensure_future(self._protect(self._tls))
        return b""

    async def _protect(self, tls: ssl.SSLContext) -> None:
        self._secure = True
        loop = asyncio.get_running_loop()
        upgraded = await loop.start_tls(self._transport, self, tls, server_side=True)
        assert upgraded is not None
        self._transport = upgraded


async def serve(log_file: Path, certificate: Path | None) -> None:
    """Serve on a free loopback port until SIGTERM."""
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    with log_file.open("w") as file:  # a local file, opened before anybody is served
        log = Log(file)
        server = await loop.create_server(lambda: Session(log, tls), "127.0.0.1", 0, backlog=500)
        log.note(str(server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--cert", type=Path, help="PEM file: key and certificate")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.log, arguments.cert))


if __name__ == "__main__":
    main()
