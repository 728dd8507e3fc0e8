"""A TLS relay in front of the secured OpenSearch, whose certificate may be changed while clients try."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import trustme

from tests.services.processes import free_port


@dataclass
class TlsRelay:
    """Listens at ``https://localhost:PORT`` and passes what comes on to `upstream`, both under TLS."""

    upstream_port: int
    ca_file: str
    port: int = 0

    @classmethod
    @contextlib.contextmanager
    def running(cls, upstream_port: int, ca_file: str) -> Iterator[Self]:
        relay = cls(upstream_port, ca_file, free_port())  # between two times of listening nobody else may take it
        loop = relay._loop = asyncio.new_event_loop()
        relay._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            relay.show(trustme.CA().issue_cert("localhost"))
            relay.listen()
            yield relay
        finally:
            relay.leave()
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def show(self, certificate: trustme.LeafCert) -> None:
        """Whoever connects from now on is shown this one."""
        certificate.configure_cert(self._context)

    def listen(self) -> None:
        """Take connections, on the same port as before."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def leave(self) -> None:
        """End every connection, and take none."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "localhost", self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        context = ssl.create_default_context(cafile=self.ca_file)
        there, back = await asyncio.open_connection("localhost", self.upstream_port, ssl=context)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        finally:
            target.close()
