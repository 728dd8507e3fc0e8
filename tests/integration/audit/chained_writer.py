"""A process that records like a worker until it is killed.

    python -m tests.integration.audit.chained_writer FOLDER OPENSEARCH PREFIX NUMBER

First it ships what was left in the journals of FOLDER, a line `shipped` for each batch, then it records
events of its own NUMBER, and tells each number of its chain that its journal has.
"""

import asyncio
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import orjson

from tests.unit.audit.audit_samples import audit_record
from worker.audit.opensearch import OpenSearchAudit
from worker.delivery.ports import Document
from worker.delivery.trail import Trail
from worker.journal.journal import Journal
from worker.journal.left_behind import ship_left_behind
from worker.proof.chain import Chain, new_writer
from worker.proof.heads import Heads

_SIDE_BY_SIDE = 60


class Telling(Journal):
    """A journal that tells what it has, after the fact."""

    async def append(self, entries: Sequence[Document]) -> None:
        await super().append(entries)
        for entry in entries:
            chain = orjson.loads(entry.document).get("chain")
            if chain:
                print("journalled", chain["writer"], chain["seq"], flush=True)


class Alone(OpenSearchAudit):
    """OpenSearch without an outbox beside it: what is urgent has no other way."""

    async def write_documents(self, documents: Sequence[Document], *, urgent: bool = False) -> None:
        await super().write_documents(documents)


async def live(folder: str, url: str, prefix: str, number: str) -> None:
    journal = Telling(Path(folder), worker_id=f"worker-{number}")
    await journal.open()
    audit = Alone(url, index_prefix=prefix)

    trail = Trail(journal, audit, Chain(new_writer(f"worker-{number}")))

    async def ship(batch: Sequence[Document]) -> None:
        print("shipping", len(batch), flush=True)
        await trail.keep_left_behind(batch)
        print("shipped", len(batch), flush=True)

    await ship_left_behind(journal, ship)
    Heads(trail, 0.05).start()
    numbers = count()

    async def record() -> None:
        while True:
            await trail.write([audit_record(0, event_id=f"{number}-{next(numbers)}", worker_id=f"worker-{number}")])

    await asyncio.gather(*(record() for _ in range(_SIDE_BY_SIDE)))


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:]))
