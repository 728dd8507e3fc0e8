"""A TCP proxy that is far away: everything arrives half a round trip late, in each direction.

    python -m tests.bench.proxy --to PORT --rtt-ms 50 --log FILE

Bandwidth is unlimited and the order is kept. The port stands alone on the log's first line.
"""

import argparse
import asyncio
import signal
from collections import deque
from pathlib import Path


class Wire:
    """One direction: what is put in comes out at the far end `delay_s` later."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._far: asyncio.Transport | None = None
        self._on_its_way: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def attach(self, far: asyncio.Transport) -> None:
        """Name the far end; what arrived before waits for it."""
        self._far = far
        self._arm()

    def put(self, data: bytes | None) -> None:
        """Send bytes; None is the end."""
        self._on_its_way.append((asyncio.get_running_loop().time() + self._delay_s, data))
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._far is not None and self._on_its_way:
            self._timer = asyncio.get_running_loop().call_at(self._on_its_way[0][0], self._deliver)

    def _deliver(self) -> None:
        assert self._far is not None
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._on_its_way and self._on_its_way[0][0] <= now + 0.0002:
            data = self._on_its_way.popleft()[1]
            if data is None:
                self._far.close()
            elif not self._far.is_closing():
                self._far.write(data)
        self._arm()


class End(asyncio.Protocol):
    """One end of a proxied connection: reads into one wire, and is the far end of the other."""

    def __init__(self, outgoing: Wire, incoming: Wire) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._incoming.attach(transport)

    def data_received(self, data: bytes) -> None:
        self._outgoing.put(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._outgoing.put(None)


class Entrance(End):
    """The client's end; makes the connection to the server."""

    def __init__(self, port: int, delay_s: float) -> None:
        super().__init__(Wire(delay_s), Wire(delay_s))
        self._port = port
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._dialling = asyncio.ensure_future(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: End(self._incoming, self._outgoing), "127.0.0.1", self._port)


async def serve(to: int, rtt_s: float, log_file: Path) -> None:
    """Serve on a free loopback port until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Entrance(to, rtt_s / 2), "127.0.0.1", 0, backlog=500)
    log_file.write_text(f"{server.sockets[0].getsockname()[1]}\n")  # noqa: ASYNC240 # before anybody is served
    await stop.wait()
    server.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=int, required=True, help="the server's port on loopback")
    parser.add_argument("--rtt-ms", type=float, required=True)
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.to, arguments.rtt_ms / 1000, arguments.log))


if __name__ == "__main__":
    main()
