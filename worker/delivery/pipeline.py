"""One event's way, from the bytes that the queue delivered to what the queue is told.

The queue is answered only after the audit holds what happened. An event that is in this process
already (the connection to the broker was lost, say, and it came again) is never begun twice: the
second copy waits for the first one's end and shares it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_exponential_jitter

from schemas.audit import Outcome, document_id
from schemas.cloudevents import InvalidEvent, parse_event
from schemas.event import EmailEvent, OnDoubt
from schemas.smtp_config import Scope, SmtpConfig
from worker.delivery import records
from worker.delivery.attempts import Attempts, Finished
from worker.delivery.ports import (
    Ack,
    AuditLookup,
    AuditSink,
    ConfigSource,
    Incoming,
    Lane,
    Mailer,
    Park,
    Return,
    ScopedConfigs,
    Settlement,
)
from worker.delivery.records import RecordWriter, Stopwatch
from worker.delivery.resolution import Resolved, Unresolved, resolve
from worker.delivery.retry import Interrupted, RetryPolicy
from worker.errors import RenderError, SecretKeyMissing, SecretUnreadable, StoreUnavailable
from worker.message import ConfigFaultReason, Rendered, choose_sender, render

log = structlog.get_logger(__name__)

# Of a redelivery, refusals and doubts are looked up for so many attempts; a refusal beyond is only refused again.
_LOOKED_UP_ATTEMPTS = 3
# RabbitMQ gives a consumer 30 minutes for a delivery: nothing is held longer than 12.
_STORE_PATIENCE_S = 600.0
# A message of this size is parsed and rendered in a few milliseconds; 24 MB take about 0.4 s.
_LARGE_BYTES = 256 * 1024

T = TypeVar("T")

Identity = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class PipelinePorts:
    """The outside that one pipeline works with."""

    configs: ConfigSource
    mailer: Mailer
    audit: AuditSink
    lookup: AuditLookup


@dataclass(frozen=True, slots=True)
class _Job:
    """One event on its way; `pending` are the recipients of whom nothing final is recorded."""

    event: EmailEvent
    incoming: Incoming
    writer: RecordWriter
    pending: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the audit knows: who has no end yet, and who is held in doubt."""

    pending: tuple[str, ...]
    in_doubt: tuple[str, ...]


class Pipeline:
    """Takes events one call each; as many calls at once as the queue allows."""

    def __init__(self, ports: PipelinePorts, *, worker_id: str, retry: RetryPolicy) -> None:
        """Nothing is opened here; `worker_id` names this process in the audit."""
        self._ports = ports
        self._worker_id = worker_id
        self._retry = retry
        self._in_flight: dict[Identity, asyncio.Task[Settlement]] = {}
        self._stopping = asyncio.Event()

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
        try:
            event = await _off_loop_if_large(
                incoming.body, parse_event, incoming.body, incoming.content_type, incoming.headers
            )
        except InvalidEvent as error:
            return await self._reject(error, incoming.body)
        identity = (str(event.scope), *event.key)
        running = self._in_flight.get(identity)
        if running is None:
            running = self._begin(identity, event, incoming, received)
        # The caller may be cancelled, as when its broker connection is lost; the work goes on.
        return await asyncio.shield(running)

    def abort(self) -> None:
        """Cancel what is still running; only for the end of the grace, when nothing else is left."""
        for running in self._in_flight.values():
            running.cancel()

    def _begin(
        self, identity: Identity, event: EmailEvent, incoming: Incoming, received: datetime
    ) -> asyncio.Task[Settlement]:
        running = asyncio.ensure_future(self._deliver(event, incoming, received))
        self._in_flight[identity] = running

        def forget(ended: asyncio.Task[Settlement]) -> None:
            del self._in_flight[identity]
            if not ended.cancelled() and ended.exception() is not None:
                log.debug("event could not be settled", event_id=event.envelope.id, error=repr(ended.exception()))

        running.add_done_callback(forget)
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
        queued_ms = max(0.0, (received - event.envelope.time).total_seconds() * 1000)
        writer = RecordWriter(event, self._worker_id, Stopwatch(received, queued_ms))
        writer.possible_duplicate = incoming.redelivered
        known = await self._known(event, attempts=_LOOKED_UP_ATTEMPTS if incoming.redelivered else 1)
        job = _Job(event, incoming, writer, known.pending)
        if job.pending:
            return _held_too(await self._deliver_pending(job), known.in_doubt)
        log.info("event is recorded already: nothing left to send")
        return _held_too(Ack(), known.in_doubt)

    async def _deliver_pending(self, job: _Job) -> Settlement:
        expires_at = job.event.data.expires_at
        if expires_at is not None and expires_at <= job.writer.stopwatch.received:
            await self._record_all(job, Outcome.EXPIRED, "expires_at passed before delivery")
            return Ack()
        early = await self._wait_for_start(job.event)
        return early if early is not None else await self._resolve_and_send(job)

    async def _known(self, event: EmailEvent, attempts: int) -> _Known:
        """Ask the audit which recipients have their end already, in any of the first `attempts`."""
        recipients = event.data.recipients()
        month = event.envelope.time.astimezone(UTC).strftime("%Y.%m")
        accepted = {r: _ids(event, r, Outcome.ACCEPTED, 1) for r in recipients}
        final = {r: accepted[r] | _ids(event, r, Outcome.REFUSED, attempts) for r in recipients}
        # Whoever asked to hold in doubt must not get a second mail because a worker was restarted.
        holds = event.data.on_doubt is OnDoubt.HOLD
        doubt = {r: _ids(event, r, Outcome.IN_DOUBT, attempts) if holds else frozenset[str]() for r in recipients}
        asked = frozenset[str]().union(*final.values(), *doubt.values())
        known = await self._ports.lookup.recorded(dict.fromkeys(asked, month))
        in_doubt = tuple(r for r in recipients if known & doubt[r] and not known & final[r])
        return _Known(tuple(r for r in recipients if not known & (final[r] | doubt[r])), in_doubt)

    async def _wait_for_start(self, event: EmailEvent) -> Settlement | None:
        """Wait for `not_before` where it is near; a later one is set aside, with its time."""
        start = event.data.not_before
        wait = (start - datetime.now(UTC)).total_seconds() if start else 0.0
        if wait <= 0:
            return None
        if wait > self._retry.budget_s:
            return Park("not_before", f"is to be sent at {start}: replay it then")
        try:
            await self._sleep(wait)
        except Interrupted:
            return Return()
        return None

    async def _resolve_and_send(self, job: _Job) -> Settlement:
        began = time.perf_counter()
        try:
            stored = await self._configs_for(job.event.scope)
        except Interrupted:
            return Return()
        except (SecretUnreadable, SecretKeyMissing) as error:
            await self._record_all(job, Outcome.CONFIG_FAULT, f"secret: {error}")
            return Park("config_fault", str(error), job.pending)
        resolution = resolve(job.event.scope, stored)
        job.writer.stopwatch.resolve_ms = _ms_since(began)
        match resolution:
            case Unresolved(looked_at):
                reason = f"no SMTP record for {', '.join(str(s) for s in looked_at)}"
                await self._record_all(job, Outcome.UNCONFIGURED, reason)
                return Park("unconfigured", reason, job.pending)
            case Resolved(config):
                job.writer.config = config
                return await self._render_and_send(job, config)

    async def _configs_for(self, scope: Scope) -> ScopedConfigs:
        """Read the records; while the store is away, wait for it as long as a queue lets us."""
        try:
            return await self._ports.configs.configs_for(scope)
        except StoreUnavailable:
            log.warning("the config store is away: waiting")
        patient = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_exponential_jitter(multiplier=1, max=15),
            stop=stop_after_delay(_STORE_PATIENCE_S),
            sleep=self._sleep,
            reraise=True,
        )
        return await patient(self._ports.configs.configs_for, scope)

    async def _render_and_send(self, job: _Job, config: SmtpConfig) -> Settlement:
        sender = choose_sender(job.event, config)
        if isinstance(sender, ConfigFaultReason):
            await self._record_all(job, Outcome.CONFIG_FAULT, f"{sender.code}: {sender.detail}")
            return Park("config_fault", sender.detail, job.pending)
        began = time.perf_counter()
        try:
            sender = replace(sender, bulk=job.incoming.lane is Lane.BULK)
            if sender.dkim is not None:  # a signature takes milliseconds
                rendered = await asyncio.to_thread(render, job.event, sender)
            else:
                rendered = await _off_loop_if_large(job.incoming.body, render, job.event, sender)
        except RenderError as error:
            await self._record_all(job, Outcome.INVALID, str(error))
            return Park("invalid", str(error), job.pending)
        job.writer.stopwatch.render_ms = _ms_since(began)
        job.writer.message_id = rendered.message.message_id
        return await self._send(job, config, rendered)

    async def _send(self, job: _Job, config: SmtpConfig, rendered: Rendered) -> Settlement:
        if self._stopping.is_set():
            return Return()
        attempts = Attempts(self._ports.mailer, self._ports.audit, config, rendered, job.writer, job.pending)
        return _settlement(await attempts.run(self._retry, self._sleep))

    async def _record_all(self, job: _Job, outcome: Outcome, reason: str) -> None:
        found = [job.writer.plain(outcome, reason, recipient) for recipient in job.pending]
        await self._ports.audit.write(found)
        log.warning("event ends without mail", outcome=outcome.value, reason=reason)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or raise Interrupted as soon as the worker stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        if self._stopping.is_set():
            raise Interrupted


def _ids(event: EmailEvent, recipient: str, outcome: Outcome, attempts: int) -> frozenset[str]:
    """The ids that records of this outcome would have in the first `attempts`."""
    return frozenset(
        document_id(
            partner=event.scope.partner,
            org=event.scope.org,
            source=event.envelope.source,
            event_id=event.envelope.id,
            recipient=recipient,
            outcome=outcome,
            attempt=attempt,
        )
        for attempt in range(1, attempts + 1)
    )


def _held_too(settlement: Settlement, in_doubt: tuple[str, ...]) -> Settlement:
    """Park the recipients that were in doubt before, beside whatever became of the others."""
    if not in_doubt or isinstance(settlement, Return):
        return settlement
    if isinstance(settlement, Park):
        return replace(settlement, pending=settlement.pending + in_doubt)
    return Park("in_doubt", "the server may have the mail already, and the event asks to hold it then", in_doubt)


def _settlement(finished: Finished) -> Settlement:
    if finished.interrupted:
        return Return()
    if finished.parked:
        return Park(finished.reason, finished.detail, finished.parked)
    return Ack()


async def _off_loop_if_large(body: bytes, work: Callable[..., T], *arguments: object) -> T:
    """Run `work` here, or in a thread where `body` is large enough to hold everybody else up."""
    if len(body) < _LARGE_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
