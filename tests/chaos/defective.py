"""`python -m tests.chaos.defective DEFECT worker`: the product with one deliberate defect.

A suite that finds nothing is worth as much as what it would have found. Each defect breaks one
promise, in this process only, by replacing one part of the product before it starts; the product
itself has no switch for it.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from schemas.audit import AuditRecord

_LATE_S = 3.0


def ack_before_audit() -> None:
    """The audit is said to be written, and is written seconds later."""
    from worker.delivery.trail import Trail

    write = Trail.write
    late: set[asyncio.Task[None]] = set()

    async def promise(self: Trail, records: Sequence[AuditRecord]) -> None:
        task = asyncio.create_task(keep(self, records))
        late.add(task)
        task.add_done_callback(late.discard)

    async def keep(self: Trail, records: Sequence[AuditRecord]) -> None:
        await asyncio.sleep(_LATE_S)
        await write(self, records)

    Trail.write = promise  # type: ignore[method-assign]


def no_reject_publish() -> None:
    """The tiers lack `x-overflow=reject-publish`: RabbitMQ then dead-letters at most once, and says nothing."""
    from worker.delivery.ports import Lane, Tier
    from worker.rabbit import topology

    tiers = {topology.retry_queue(lane, tier) for lane in Lane for tier in Tier}

    def without(queue: topology.Queue) -> topology.Queue:
        arguments = {name: value for name, value in queue.arguments.items() if name != "x-overflow"}
        return replace(queue, arguments=arguments) if queue.name in tiers else queue

    # Before anything else of `worker.rabbit` is imported, which takes its own copy of these.
    topology.QUEUES = tuple(map(without, topology.QUEUES))


def no_lookup() -> None:
    """Nothing is ever found to be recorded, so what is delivered again is sent again."""
    from worker.delivery.trail import Trail

    async def recorded(self: Trail, ids: Mapping[str, str]) -> frozenset[str]:
        return frozenset()

    Trail.recorded = recorded  # type: ignore[method-assign]


DEFECTS: dict[str, Callable[[], None]] = {
    "ack-before-audit": ack_before_audit,
    "no-reject-publish": no_reject_publish,
    "no-lookup": no_lookup,
}


def main() -> None:
    """Break the product, and then run its command."""
    defect = sys.argv.pop(1)
    DEFECTS[defect]()

    from worker.cli import main as postbote

    postbote()


if __name__ == "__main__":
    main()
