"""A way to OpenSearch that tells when a request passes, before it arrives or once it was answered.

What a command is doing when it is killed is so decided by the test, and not by a clock.
"""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Passing:
    """`reached` is set once the `nth` request that begins with `line` passes; nothing goes on after it."""

    line: str
    answered: bool = True
    nth: int = 1
    reached: asyncio.Event = field(default_factory=asyncio.Event)


class KillingProxy:
    """Hands requests on; the one that is waited for ends all traffic."""

    def __init__(self, url):
        self._to = urlsplit(url)
        self.url = ""
        self._watch = None
        self._left = 0

    def watch(self, passing):
        self._watch, self._left = passing, passing.nth

    async def serve(self, reader, writer):
        opened = []
        try:
            onward_reader, onward = await asyncio.open_connection(self._to.hostname, self._to.port)
            opened.append(onward)
            await asyncio.gather(self._requests(reader, onward), self._answers(onward_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (*opened, writer):
                each.close()

    async def _requests(self, reader, onward):
        while data := await reader.read(1 << 20):
            if self._found(data) and not self._watch.answered:
                self._watch.reached.set()
                await asyncio.Event().wait()
            onward.write(data)
            await onward.drain()
        onward.close()

    def _found(self, data):
        if self._watch and data.startswith(self._watch.line.encode()):
            self._left -= 1
            return self._left == 0
        return False

    async def _answers(self, onward_reader, writer):
        while data := await onward_reader.read(1 << 20):
            if self._watch and self._left == 0 and self._watch.answered:
                self._watch.reached.set()
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def killing_proxy(url):
    proxy = KillingProxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        # Its connections end with the processes that were killed, and with the loop.
