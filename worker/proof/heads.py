"""Heads at intervals: whoever writes records says, now and then, how far the chain has come.

At most one waits for an audit that is away, since the next is made only after it.
"""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Protocol

import structlog

from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

GRACE_S = 2.0
_SURPRISE_PAUSE_S = 1.0


class HeadWriter(Protocol):
    """Ends with a head whatever of its chain has none yet."""

    async def write_head(self, now: datetime) -> None:
        """Return once it is durable, at once where nothing is new; raises AuditUnavailable once the audit closes."""
        ...


class Heads:
    """Writes a head every so often, and at the end."""

    def __init__(self, writer: HeadWriter, every_s: float) -> None:
        """Nothing runs before `start`."""
        self._writer = writer
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first head is due after one interval."""
        self._task = asyncio.create_task(self._run(), name="audit heads")

    async def stop(self) -> None:
        """End without another head, for a writer that writes its last one itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def close(self, grace_s: float = GRACE_S) -> None:
        """End with the last head, for which there are `grace_s` seconds."""
        await self.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._write()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._write()
            except Exception:
                log.exception("writing a head of the audit's chain surprised")
                await asyncio.sleep(_SURPRISE_PAUSE_S)

    async def _write(self) -> None:
        try:
            await self._writer.write_head(datetime.now(UTC))
        except AuditUnavailable as error:
            log.warning("the audit does not take the head of its chain", reason=str(error))
