"""One accepted TCP connection, octet by octet: segments, exact cuts, FIN or RST, and a TLS that can be left half done.

Raw sockets on the loop rather than streams, because a test decides here which octet is the last one to
leave, and because a closed stream does not say whether it ends with a FIN or with a RST.
"""

import asyncio
import contextlib
import socket
import ssl
import struct

_CHUNK = 65536
_PATIENCE_S = 5.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Ended(Exception):
    """The client has closed, or it broke TLS off."""


class Cut(Exception):
    """The number of octets after which this connection was to end has been reached."""


class Wire:
    """The server's end of a connection.

    `sends` and `reads` are how many octets of SMTP (inside TLS, where there is TLS) go out and come in
    before `Cut` is raised, None for no limit. `segment` is how many octets leave at a time.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        sends: int | None = None,
        reads: int | None = None,
        segment: int | None = None,
    ) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._sends, self._reads, self._segment = sends, reads, segment
        self._buffer = bytearray()
        self._tls: ssl.SSLObject | None = None
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.clear = bytearray()
        self.sent = 0
        self.taken = 0

    @property
    def encrypted(self) -> bool:
        return self._tls is not None

    @property
    def waiting(self) -> bytes:
        """What the client has sent already and nobody has read."""
        return bytes(self._buffer)

    async def send(self, data: bytes) -> None:
        """Send, in segments where so asked, as far as `sends` allows."""
        left = len(data) if self._sends is None else min(len(data), self._sends - self.sent)
        step = self._segment or max(left, 1)
        for start in range(0, left, step):
            await self._send_sealed(data[start : min(start + step, left)])
            if self._segment:
                await asyncio.sleep(0)  # the client shares this loop and reads the segment in its next turn
        self.sent += left
        if left < len(data):
            raise Cut

    async def line(self) -> bytes:
        """The next line without its CRLF. Raises Ended, Cut."""
        while (end := self._buffer.find(b"\n")) < 0:
            await self._fill()
        return self._take(end + 1).rstrip(b"\r\n")

    async def read(self, octets: int) -> bytes:
        """Exactly so many octets. Raises Ended, Cut."""
        while len(self._buffer) < octets:
            await self._fill()
        return self._take(octets)

    async def content(self) -> bytes:
        """What stands before the final dot, dots still stuffed. Raises Ended, Cut."""
        while True:
            if self._buffer.startswith(b".\r\n"):
                self._take(3)
                return b""
            end = self._buffer.find(b"\r\n.\r\n")
            if end >= 0:
                return self._take(end + 5)[:-3]
            await self._fill()

    async def start_tls(self, context: ssl.SSLContext, flight: int | None = None) -> None:
        """Shake hands; with `flight`, raise Cut after so many octets of the server's first answer."""
        tls = context.wrap_bio(self._coming, self._going, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_flight(flight)
                self._coming.write(await self._receive())
            except ssl.SSLError as error:
                await self._flush()
                raise Ended from error
            else:
                break
        await self._flush()
        self._tls = tls
        self._put(self._opened(b""))  # what the client sent right behind its last message of the handshake

    async def client_hello(self) -> None:
        """Read what a client begins TLS with, and do not answer. Raises Ended."""
        await self._receive()

    async def raw(self, data: bytes) -> None:
        """Send octets beside TLS."""
        await self._deliver(data)

    async def until_closed(self) -> None:
        """Read and drop what comes until the client closes."""
        with contextlib.suppress(Ended):
            while True:
                await self._receive()

    async def finish(self) -> None:
        """End with a FIN: nothing more is sent, what still comes is read so that no RST answers it."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self.until_closed()

    def reset(self) -> None:
        """End with a RST, at once."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._sock.close()

    def close(self) -> None:
        """Free the socket; after `finish` the client has closed already."""
        self._sock.close()

    def _take(self, octets: int) -> bytes:
        taken = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        return taken

    async def _fill(self) -> None:
        if self._reads is not None and self.taken >= self._reads:
            raise Cut
        data = await self._receive()
        if self._tls is None:
            self.clear += data
        else:
            data = self._opened(data)
        self._put(data)

    def _put(self, data: bytes) -> None:
        room = len(data) if self._reads is None else self._reads - self.taken
        self._buffer += data[:room]
        self.taken += len(data[:room])

    def _opened(self, data: bytes) -> bytes:
        assert self._tls is not None
        self._coming.write(data)
        found = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError):
            while chunk := self._read_tls():
                found += chunk
        return bytes(found)

    def _read_tls(self) -> bytes:
        assert self._tls is not None
        try:
            return self._tls.read(_CHUNK)
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            raise Ended from error

    async def _send_sealed(self, data: bytes) -> None:
        if self._tls is None:
            await self._deliver(data)
        else:
            self._tls.write(data)
            await self._flush()

    async def _send_flight(self, flight: int | None) -> None:
        data = self._going.read()
        if flight is not None and data:
            await self._deliver(data[:flight])
            raise Cut
        await self._deliver(data)

    async def _flush(self) -> None:
        await self._deliver(self._going.read())

    async def _deliver(self, data: bytes) -> None:
        try:
            await self._loop.sock_sendall(self._sock, data)
        except OSError as error:
            raise Ended from error

    async def _receive(self) -> bytes:
        try:
            data = await self._loop.sock_recv(self._sock, _CHUNK)
        except OSError as error:
            raise Ended from error
        if not data:
            raise Ended
        return data
