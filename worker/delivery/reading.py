"""Reading the SMTP records of an event, however long the store is away, within what a queue allows."""

from collections.abc import Awaitable, Callable

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_exponential_jitter

from schemas.smtp_config import Scope
from worker.delivery.ports import ConfigSource, ScopedConfigs
from worker.errors import StoreUnavailable

log = structlog.get_logger(__name__)

# RabbitMQ gives a consumer 30 minutes for a delivery: nothing is held longer than 12.
_PATIENCE_S = 600.0


async def configs_of(source: ConfigSource, scope: Scope, sleep: Callable[[float], Awaitable[None]]) -> ScopedConfigs:
    """Read the records; while the store is away, wait for it as long as a queue lets us.

    Raises StoreUnavailable after ten minutes, and whatever `sleep` and the source raise.
    """
    try:
        return await source.configs_for(scope)
    except StoreUnavailable:
        log.warning("the config store is away: waiting")
    patient = AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_exponential_jitter(multiplier=1, max=15),
        stop=stop_after_delay(_PATIENCE_S),
        sleep=sleep,
        reraise=True,
    )
    return await patient(source.configs_for, scope)
