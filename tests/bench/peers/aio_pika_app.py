"""aio-pika and aiosmtplib, by hand: `python -m tests.bench.peers.aio_pika_app`.

One process on uvloop; prefetch 64; a pool of `BENCH_CONNECTIONS` (default 8) kept connections;
`orjson` reads the event; a message is acknowledged after its mail was sent, and requeued on error.
"""

import asyncio
import os
import signal
from pathlib import Path

import aio_pika
import aiosmtplib
import orjson
import uvloop

from tests.bench.peers.mail import AMQP_URL, CA_FILE, HOST, PORT, TIMEOUT_S, build, tls_context

QUEUE = "bench.aio-pika"
PREFETCH = 64
CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "8"))


class Pool:
    """Kept connections; the one used last goes out first."""

    def __init__(self, size: int) -> None:
        self._free: asyncio.LifoQueue[aiosmtplib.SMTP] = asyncio.LifoQueue()
        context = tls_context() if CA_FILE else None
        for _ in range(size):
            client = aiosmtplib.SMTP(
                hostname=HOST,
                port=PORT,
                local_hostname="bench",
                timeout=TIMEOUT_S,
                start_tls=bool(CA_FILE),
                tls_context=context,
            )
            self._free.put_nowait(client)

    async def send(self, body: bytes) -> None:
        """Send on a free connection, connecting it where it is not."""
        message = build(orjson.loads(body))
        client = await self._free.get()
        try:
            if not client.is_connected:
                await client.connect()
            await client.send_message(message)
        finally:
            self._free.put_nowait(client)


async def work() -> None:
    """Consume until SIGTERM."""
    pool = Pool(CONNECTIONS)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def on_message(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        async with message.process(requeue=True):
            await pool.send(message.body)

    async with await aio_pika.connect_robust(AMQP_URL) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.declare_queue(QUEUE, durable=True)
        await queue.consume(on_message)
        await stop.wait()


async def _publish(events: Path) -> None:
    async with await aio_pika.connect_robust(AMQP_URL) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True)
        lines = events.read_bytes().splitlines()  # noqa: ASYNC240 # nothing else runs here
        for first in range(0, len(lines), 500):
            async with asyncio.TaskGroup() as group:
                for line in lines[first : first + 500]:
                    message = aio_pika.Message(line, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                    group.create_task(channel.default_exchange.publish(message, QUEUE))


def publish(events: Path) -> None:
    """Enqueue a file of events, confirmed."""
    uvloop.run(_publish(events))


if __name__ == "__main__":
    uvloop.run(work())
