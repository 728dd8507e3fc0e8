"""The delivering part of a process: one pipeline between its queue and its SMTP connections.

Part of the composition root (see ``app``).
"""

import asyncio

import structlog

from worker.configs import Configs, Gauges
from worker.delivery.admission import Admission
from worker.delivery.lines import Lines
from worker.delivery.pipeline import Pipeline, PipelinePorts
from worker.delivery.retry import RetryPolicy
from worker.delivery.schedule import Limits
from worker.settings import Settings
from worker.smtp.egress import EgressGuard
from worker.smtp.pool import SmtpPool
from worker.workshop import Workshop, before

log = structlog.get_logger(__name__)


class Delivery:
    """The delivering part of a process: one pipeline between its queue and its SMTP connections."""

    def __init__(self, settings: Settings, work: Workshop, configs: Configs) -> None:
        """Nothing is consumed before `run`."""
        guard = EgressGuard(settings.egress_allow, settings.egress_ports)
        self._pool = SmtpPool(settings.ehlo_name, guard=guard, max_connections=settings.smtp_max_connections)
        self._grace_s = settings.shutdown_grace_s
        self._work = work
        self._configs = configs
        ports = PipelinePorts(
            configs.source,
            self._pool,
            work.audit,
            work.lookup,
            work.breakers,
            Lines(admission_of(settings)),
            work.share,
            work.claims,
        )
        self._pipeline = Pipeline(ports, worker_id=settings.worker_id, retry=retry_policy(settings))

    @property
    def gauges(self) -> Gauges:
        """What there is to measure."""
        here: Gauges = {"postbote_in_flight_events": ("Events in hand", lambda: self._pipeline.in_flight)}
        return {**self._work.gauges, **self._configs.gauges, **here}

    async def run(self, stop: asyncio.Event) -> None:
        """Consume and deliver until `stop`; then let transactions end, within the grace."""
        consuming = asyncio.ensure_future(self._consume(stop))
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({consuming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            self._pipeline.stop()
            await self._within_grace(consuming)
        finally:
            stopped.cancel()
            await self._pool.close()

    async def _consume(self, stop: asyncio.Event) -> None:
        if await before(stop, self._configs.ready()):
            await self._work.consume(self._pipeline.handle, stop)

    async def _within_grace(self, consuming: asyncio.Future[None]) -> None:
        log.info("stopping", in_flight=self._pipeline.in_flight)
        await asyncio.wait({consuming}, timeout=self._grace_s)
        if consuming.done():
            consuming.result()
            return
        log.warning("the grace is over: what is not settled goes back to the queue", in_flight=self._pipeline.in_flight)
        self._pipeline.abort()
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)


def retry_policy(settings: Settings) -> RetryPolicy:
    """The retry schedule that the settings ask for."""
    limits = Limits(settings.transactional_limit_h * 3600, settings.bulk_limit_h * 3600)
    return RetryPolicy(settings.retry_budget_s, settings.retry_first_wait_s, settings.doubt_wait_s, limits)


def admission_of(settings: Settings) -> Admission:
    """The caps: one tenant may have half of what this worker holds, one provider three quarters."""
    return Admission(max(1, settings.prefetch // 2), max(1, settings.prefetch * 3 // 4))
