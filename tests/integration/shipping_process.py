"""A process that ships and dies before it forgets: `python -m tests.integration.shipping_process DATABASE AMQP`."""

import asyncio
import sys

from worker.carriers import ConfigCarrier
from worker.rabbit.config_publisher import open_config_publisher
from worker.shipping import ShippingLane
from worker.store.database import Store
from worker.store.outgoing import OutgoingShelf


class Forgetting(OutgoingShelf):
    """Says that all is told, and never gets to forget it."""

    async def told(self, seqs):
        print("told", *seqs, flush=True)
        await asyncio.Event().wait()


async def ship(database_url, amqp_url):
    async with open_config_publisher(amqp_url) as configs:
        await ShippingLane(Forgetting(Store(database_url)), ConfigCarrier(configs)).ship_all()


if __name__ == "__main__":
    asyncio.run(ship(*sys.argv[1:]))
