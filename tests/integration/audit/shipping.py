"""A process that ships the outbox until it is killed: `python -m tests.integration.audit.shipping AMQP OPENSEARCH PREFIX`."""

import asyncio
import sys

from worker.audit.opensearch import OpenSearchAudit
from worker.audit.outbox import DurableAudit
from worker.rabbit.outbox_queue import RabbitOutbox
from worker.rabbit.publisher import open_publisher


async def ship(amqp_url, opensearch_url, prefix):
    async with open_publisher(amqp_url) as publisher:
        queue = RabbitOutbox(amqp_url, publisher, name="test shipping")
        audit = DurableAudit(OpenSearchAudit(opensearch_url, index_prefix=prefix), queue)
        audit.start()
        print("shipping", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(ship(*sys.argv[1:]))
