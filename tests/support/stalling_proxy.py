"""A network that forgets connections: nothing goes through any more, and neither end is told.

That is what a firewall does that has dropped its state, or a switch that died: no FIN, no RST. A
connection that stalled stays so, as it would there; those made after `flow` work. `cut` is the loud
form: every connection ends at once, and so does each new one, until `flow`.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 65536
_START_S = 30.0


class StallingProxy:
    """Forwards TCP to `host:port` from a loopback port of its own, in a thread of its own, between `with` and its end."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stalling proxy", daemon=True)
        self._gates: set[asyncio.Event] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stalled = False
        self._cut_off = False
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_START_S)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_S)
        self._loop.close()

    def stall(self) -> int:
        """Let nothing through any more, and no new connection either; how many connections that hit."""
        return asyncio.run_coroutine_threadsafe(self._stall(), self._loop).result(_START_S)

    def cut(self) -> int:
        """End every connection, and each that is made before `flow`; how many there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(_START_S)

    def flow(self) -> None:
        """Let new connections through; those that stalled are gone for good."""
        self._loop.call_soon_threadsafe(self._flow)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _stall(self) -> int:
        self._stalled = True
        for gate in self._gates:
            gate.clear()
        return len(self._gates)

    async def _cut(self) -> int:
        self._cut_off = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(tasks)

    def _flow(self) -> None:
        self._stalled = self._cut_off = False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut_off:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with self._gate() as gate, contextlib.suppress(OSError, asyncio.CancelledError):
            await gate.wait()
            there, back = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(_pump(reader, back, gate), _pump(there, writer, gate))
            finally:
                back.close()
        writer.close()

    @contextlib.contextmanager
    def _gate(self) -> Iterator[asyncio.Event]:
        """One connection's gate, open unless everything stalls."""
        gate = asyncio.Event()
        if not self._stalled:
            gate.set()
        self._gates.add(gate)
        try:
            yield gate
        finally:
            self._gates.discard(gate)

    async def _end(self) -> None:
        self._server.close()
        await self._cut()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    """Forward until the end, which is forwarded, too; what is read while the gate is shut stays here for good."""
    while data := await reader.read(_CHUNK):
        await gate.wait()
        writer.write(data)
        await writer.drain()
    await gate.wait()
    writer.close()


@contextlib.contextmanager
def proxied(url: str, parameters: str = "") -> Iterator[tuple[StallingProxy, str]]:
    """A proxy before the server of a URL, and the URL that leads through it."""
    parts = urlsplit(url)
    user, _, _ = parts.netloc.rpartition("@")
    with StallingProxy(parts.hostname or "127.0.0.1", parts.port or 5672) as proxy:
        through = parts._replace(netloc=f"{user}@127.0.0.1:{proxy.port}", query=parameters)
        yield proxy, through.geturl()
