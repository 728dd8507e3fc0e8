"""One event's way, from the bytes that the queue delivered to what the queue is told.

The queue is answered only after the audit holds what happened. An event that is in this process
already (the connection to the broker was lost, say, and it came again) is never begun twice: the
second copy waits for the first one's end and shares it (see `copies`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from random import random

import structlog

from schemas.cloudevents import InvalidEvent, parse_event
from schemas.event import EmailEvent
from worker.delivery import records
from worker.delivery.copies import InHand
from worker.delivery.course import Conditions, Course, PipelinePorts
from worker.delivery.crowd import turn_away
from worker.delivery.large import off_loop_if_large
from worker.delivery.ports import Incoming, Park, Settlement
from worker.delivery.progress import read_progress
from worker.delivery.records import RecordWriter, Stopwatch
from worker.delivery.retry import Interrupted, RetryPolicy

__all__ = ["Pipeline", "PipelinePorts"]

log = structlog.get_logger(__name__)

Identity = tuple[str, str, str]


class Pipeline:
    """Takes events one call each; as many calls at once as the queue allows."""

    def __init__(
        self, ports: PipelinePorts, *, worker_id: str, retry: RetryPolicy, jitter: Callable[[], float] = random
    ) -> None:
        """Nothing is opened here; `worker_id` names this process in the audit."""
        self._ports = ports
        self._worker_id = worker_id
        self._in_flight: dict[Identity, InHand] = {}
        self._stopping = asyncio.Event()
        self._conditions = Conditions(retry, self._sleep, self._stopping.is_set, jitter)

    def stop(self) -> None:
        """Begin no further attempt: what waits for a retry is returned, what is being sent ends."""
        self._stopping.set()

    @property
    def in_flight(self) -> int:
        """How many events are being worked on."""
        return len(self._in_flight)

    async def handle(self, incoming: Incoming) -> Settlement:
        """Work on one delivered message until it can be settled.

        Raises only what the ports raise when they are closed under it; the event is then to be
        returned to the queue.
        """
        received = datetime.now(UTC)
        if self._ports.lines.crowded:
            rest = turn_away(incoming, self._ports.lines, self._conditions.jitter)
            if rest is not None:
                return rest
        try:
            event = await off_loop_if_large(
                incoming.body, parse_event, incoming.body, incoming.content_type, incoming.headers
            )
        except InvalidEvent as error:
            return await self._reject(error, incoming.body)
        identity = (str(event.scope), *event.key)
        running = self._in_flight.get(identity)
        if running is None:
            running = self._begin(identity, event, incoming, received)
        return await running.settlement()

    def abort(self) -> None:
        """Cancel what is still running; only for the end of the grace, when nothing else is left."""
        for running in self._in_flight.values():
            running.work.cancel()

    def _begin(self, identity: Identity, event: EmailEvent, incoming: Incoming, received: datetime) -> InHand:
        running = InHand(asyncio.ensure_future(self._deliver(event, incoming, received)))
        self._in_flight[identity] = running

        def forget(ended: asyncio.Task[Settlement]) -> None:
            del self._in_flight[identity]
            if not ended.cancelled() and ended.exception() is not None:
                log.debug("event could not be settled", event_id=event.envelope.id, error=repr(ended.exception()))

        running.work.add_done_callback(forget)
        return running

    async def _reject(self, error: InvalidEvent, body: bytes) -> Settlement:
        record = records.of_invalid(error, body, self._worker_id)
        await self._ports.audit.write([record])
        log.warning("event is invalid", event_id=record.event_id, source=record.event_source, reason=record.reason)
        return Park("invalid", record.reason or "")

    async def _deliver(self, event: EmailEvent, incoming: Incoming, received: datetime) -> Settlement:
        # A task has a context of its own, and takes these names with it when it ends.
        structlog.contextvars.bind_contextvars(
            event_id=event.envelope.id, source=event.envelope.source, scope=str(event.scope)
        )
        progress = read_progress(incoming.headers, event.data.recipients())
        queued_ms = max(0.0, (received - event.envelope.time).total_seconds() * 1000)
        writer = RecordWriter(event, self._worker_id, Stopwatch(received, queued_ms))
        return await Course(self._ports, self._conditions, event, incoming, progress, writer).run()

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or raise Interrupted as soon as the worker stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        if self._stopping.is_set():
            raise Interrupted
