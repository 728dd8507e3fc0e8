"""A short memory in front of a source of SMTP records, so that each mail does not cost a query.

Entries live `ttl_s` seconds. Many mails of one scope that miss at once cost one read. While the
store is away, what was read last goes on being served, and `stale` says so.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from schemas.smtp_config import Scope
from worker.delivery.ports import ConfigSource, ScopedConfigs
from worker.errors import StoreUnavailable


@dataclass(frozen=True, slots=True)
class _Entry:
    configs: ScopedConfigs
    good_until: float


class CachedConfigSource:
    """Fulfils `ConfigSource` over another one; keeps the `max_scopes` scopes used last.

    `ttl_s` bounds, in seconds, how long a change in the store may go unseen, and after a failed
    read how long until the store is asked again. StoreUnavailable passes through only for a scope
    that is not in memory; other errors always do.
    """

    def __init__(
        self,
        inner: ConfigSource,
        ttl_s: float = 2.0,
        max_scopes: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the source to ask, and a clock in seconds."""
        self._inner = inner
        self._ttl_s = ttl_s
        self._max_scopes = max_scopes
        self._clock = clock
        self._entries: OrderedDict[Scope, _Entry] = OrderedDict()
        self._flights: dict[Scope, asyncio.Task[ScopedConfigs]] = {}
        self._stale = False

    @property
    def stale(self) -> bool:
        """True from a read that found the store away until the next one that succeeds."""
        return self._stale

    async def configs_for(self, scope: Scope) -> ScopedConfigs:
        """The scope's records, at most `ttl_s` old unless `stale`."""
        entry = self._entries.get(scope)
        if entry is not None and self._clock() < entry.good_until:
            self._entries.move_to_end(scope)
            return entry.configs
        # Shielded: one mail that is cancelled must not fail the others that wait for this read.
        return await asyncio.shield(self._flight(scope))

    def _flight(self, scope: Scope) -> asyncio.Task[ScopedConfigs]:
        flight = self._flights.get(scope)
        if flight is None:
            flight = asyncio.create_task(self._read(scope), name=f"read SMTP records of {scope}")
            self._flights[scope] = flight
            flight.add_done_callback(lambda done: self._landed(scope, done))
        return flight

    def _landed(self, scope: Scope, flight: asyncio.Task[ScopedConfigs]) -> None:
        del self._flights[scope]
        if not flight.cancelled():
            # Looked at here in case every waiter was cancelled; asyncio would log it as lost.
            flight.exception()

    async def _read(self, scope: Scope) -> ScopedConfigs:
        asked_at = self._clock()
        try:
            configs = await self._inner.configs_for(scope)
        except StoreUnavailable:
            self._stale = True
            entry = self._entries.get(scope)
            if entry is None:
                raise
            # The failure may have taken long: the pause before the next try begins only now.
            configs, asked_at = entry.configs, self._clock()
        else:
            self._stale = False
        self._remember(scope, _Entry(configs, asked_at + self._ttl_s))
        return configs

    def _remember(self, scope: Scope, entry: _Entry) -> None:
        self._entries[scope] = entry
        self._entries.move_to_end(scope)
        while len(self._entries) > self._max_scopes:
            self._entries.popitem(last=False)
