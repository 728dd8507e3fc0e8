"""A process that ships a part of the outbox and is to be killed then.

`python -m tests.integration.audit.shipping AMQP OPENSEARCH PREFIX`
"""

import asyncio
import sys

import structlog

from worker.audit.opensearch import OpenSearchAudit
from worker.audit.outbox import DurableAudit
from worker.rabbit.outbox_queue import RabbitOutbox
from worker.rabbit.publisher import open_publisher

WRITTEN = 8


class StopsInTheMiddle(RabbitOutbox):
    """Has so many messages written, says so, and acknowledges neither the last of them nor any that follows."""

    written = 0

    async def ship(self, write, stop):
        async def write_some(body):
            await write(body)
            self.written += 1
            if self.written == WRITTEN:
                print("middle", flush=True)
            if self.written >= WRITTEN:
                await asyncio.Event().wait()

        await super().ship(write_some, stop)


async def ship(amqp_url, opensearch_url, prefix):
    async with open_publisher(amqp_url) as publisher:
        queue = StopsInTheMiddle(amqp_url, publisher, name="test shipping")
        audit = DurableAudit(OpenSearchAudit(opensearch_url, index_prefix=prefix), queue)
        audit.start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # the one word alone on stdout
    asyncio.run(ship(*sys.argv[1:]))
