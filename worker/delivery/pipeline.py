"""One event's way, from the bytes that the queue delivered to what the queue is told.

The queue is answered only after the audit holds what happened. An event that is in this process
already (the connection to the broker was lost, say, and it came again) is never begun twice: the
second copy waits for the first one's end and shares it (see `copies`).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import random

import structlog

from schemas.cloudevents import InvalidEvent, parse_event
from schemas.event import EmailEvent
from worker.delivery import records
from worker.delivery.copies import Copy, InHand
from worker.delivery.course import Conditions, Course, PipelinePorts
from worker.delivery.crowd import turn_away
from worker.delivery.identity import IN_HAND, EventKey
from worker.delivery.large import is_large
from worker.delivery.ports import Incoming, Park, Settlement
from worker.delivery.progress import Progress, read_progress
from worker.delivery.records import RecordWriter, Stopwatch
from worker.delivery.retry import Interrupted, RetryPolicy

__all__ = ["Pipeline", "PipelinePorts"]

log = structlog.get_logger(__name__)


class Pipeline:
    """Takes events one call each; as many calls at once as the queue allows."""

    def __init__(
        self, ports: PipelinePorts, *, worker_id: str, retry: RetryPolicy, jitter: Callable[[], float] = random
    ) -> None:
        """Nothing is opened here; `worker_id` names this process in the audit."""
        self._ports = ports
        self._worker_id = worker_id
        self._in_hand: set[InHand] = set()
        self._in_flight: dict[EventKey, InHand] = {}
        self._stopping = asyncio.Event()
        self._conditions = Conditions(retry, self._sleep, self._stopping.is_set, jitter)

    def stop(self) -> None:
        """Begin no further attempt: what waits for a retry is returned, what is being sent ends."""
        self._stopping.set()

    @property
    def in_flight(self) -> int:
        """How many events are being worked on."""
        return len(self._in_flight)

    def handle(self, incoming: Incoming) -> asyncio.Future[Settlement]:
        """Begin to work on one delivered message; the future has what the queue is to be told.

        Whoever cancels it, as when the connection to the broker is lost, hears no more; the work goes on.
        It raises only what the ports raise when they are closed under it; the event is then to be
        returned to the queue.
        """
        loop = asyncio.get_running_loop()
        copy: Copy = loop.create_future()
        in_hand = InHand(copy)
        self._in_hand.add(in_hand)
        in_hand.work = loop.create_task(self._work(incoming, in_hand))
        return copy

    def abort(self) -> None:
        """Cancel what is still running; only for the end of the grace, when nothing else is left."""
        for each in self._in_hand:
            if each.work is not None:
                each.work.cancel()

    async def _work(self, incoming: Incoming, in_hand: InHand) -> None:
        """Tell the copies in hand how their event ended."""
        try:
            settlement = await self._settlement(incoming, in_hand)
            if settlement is not None:
                in_hand.end(settlement)
        except Exception as error:  # noqa: BLE001 - for whoever handed it in
            log.debug("event could not be settled", error=repr(error))
            in_hand.fail(error)
        except BaseException:
            in_hand.give_up()
            raise
        finally:
            self._in_hand.discard(in_hand)

    async def _settlement(self, incoming: Incoming, in_hand: InHand) -> Settlement | None:
        """What the queue is to be told; None where the same event is worked on already, and tells it."""
        received = datetime.now(UTC)
        if self._ports.lines.crowded:
            rest = turn_away(incoming, self._ports.lines, self._conditions.jitter)
            if rest is not None:
                return rest
        try:
            event = await _parsed(incoming)
        except InvalidEvent as error:
            return await self._reject(error, incoming.body)
        identity = EventKey.of(event)
        IN_HAND.set(identity)  # a task has a context of its own, and takes the name with it when it ends
        running = self._in_flight.setdefault(identity, in_hand)
        if running is not in_hand:
            running.take_over(in_hand)
            return None
        try:
            return await self._deliver(event, incoming, received)
        finally:
            del self._in_flight[identity]

    async def _reject(self, error: InvalidEvent, body: bytes) -> Settlement:
        record = records.of_invalid(error, body, self._worker_id)
        await self._ports.audit.write([record])
        log.warning("event is invalid", event_id=record.event_id, source=record.event_source, reason=record.reason)
        return Park("invalid", record.reason or "")

    def _deliver(self, event: EmailEvent, incoming: Incoming, received: datetime) -> Awaitable[Settlement]:
        progress = _progress_of(event, incoming, received)
        queued_ms = max(0.0, (received - event.envelope.time).total_seconds() * 1000)
        writer = RecordWriter(event, self._worker_id, Stopwatch(received, queued_ms))
        return Course(self._ports, self._conditions, event, incoming, progress, writer).run()

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or raise Interrupted as soon as the worker stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        if self._stopping.is_set():
            raise Interrupted


async def _parsed(incoming: Incoming) -> EmailEvent:
    body, content_type, headers = incoming.body, incoming.content_type, incoming.headers
    if is_large(body):
        return await asyncio.to_thread(parse_event, body, content_type, headers)
    return parse_event(body, content_type, headers)


def _progress_of(event: EmailEvent, incoming: Incoming, received: datetime) -> Progress:
    """How far an event has come, that was taken for the first time at `received` if it does not say otherwise."""
    if not incoming.headers:
        return Progress(first_seen=received)
    progress = read_progress(incoming.headers, event.data.recipients())
    return progress._replace(first_seen=progress.first_seen or received)
