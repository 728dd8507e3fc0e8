"""A small pool: connections are reused by mail of the same record and version, and of no other.

The key is the whole record's identity, so that one tenant's mail can never travel over a
connection that another tenant's credentials opened. The pool decides under no lock at all (one
event loop, no await between look and take); closing happens afterwards.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from schemas.smtp_config import Scope, SmtpConfig
from worker.delivery.ports import MailEnvelope, RenderedMessage, TransactionResult
from worker.smtp.connection import SmtpConnection
from worker.smtp.dial import DialFailed, dial

IDLE_S = 30.0
MAX_KEYS = 1000


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What must be equal for two mails to share a connection."""

    scope: Scope
    name: str
    version: int
    fingerprint: str


@dataclass(slots=True)
class _Destination:
    slots: asyncio.Semaphore
    idle: list[SmtpConnection] = field(default_factory=list)
    users: int = 0


class SmtpPool:
    """Fulfils `worker.delivery.ports.Mailer`."""

    def __init__(self, ehlo_name: str) -> None:
        """Nothing is connected until mail comes."""
        self._ehlo_name = ehlo_name
        self._destinations: OrderedDict[PoolKey, _Destination] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, config: SmtpConfig, envelope: MailEnvelope, message: RenderedMessage) -> TransactionResult:
        """Run one transaction on a reused or new connection of `config`; faults are answers."""
        destination = self._destination(config)
        destination.users += 1
        try:
            async with destination.slots:
                return await self._send(destination, config, envelope, message)
        finally:
            destination.users -= 1

    async def close(self) -> None:
        """Say goodbye on every idle connection; transactions must have ended before."""
        for destination in self._destinations.values():
            self._retire(destination.idle)
        self._destinations.clear()
        await asyncio.gather(*self._closing)

    async def _send(
        self, destination: _Destination, config: SmtpConfig, envelope: MailEnvelope, message: RenderedMessage
    ) -> TransactionResult:
        connection, connect_ms = self._take_idle(destination), 0.0
        if connection is None:
            try:
                dialled = await dial(config, self._ehlo_name)
            except DialFailed as failed:
                return TransactionResult(dict.fromkeys(envelope.recipients, failed.answer))
            connection, connect_ms = SmtpConnection(dialled, config.timeout_s), dialled.connect_ms
        try:
            result = await connection.send(envelope, message)
        finally:
            if connection.usable:
                destination.idle.append(connection)
            else:
                self._retire([connection])
        return replace(result, connect_ms=connect_ms)

    def _take_idle(self, destination: _Destination) -> SmtpConnection | None:
        """Return the connection used last, so that the others grow old and are retired."""
        limit = time.monotonic() - IDLE_S
        fresh = [c for c in destination.idle if c.usable and c.idle_since > limit]
        self._retire([c for c in destination.idle if c not in fresh])
        destination.idle = fresh
        return fresh.pop() if fresh else None

    def _destination(self, config: SmtpConfig) -> _Destination:
        key = PoolKey(config.scope, config.display_name, config.version, config.fingerprint)
        found = self._destinations.get(key)
        if found is None:
            found = self._destinations[key] = _Destination(asyncio.Semaphore(config.max_connections))
            self._retire_unused()
        self._destinations.move_to_end(key)
        return found

    def _retire_unused(self) -> None:
        """Drop what has been unused longest: older versions of changed records end here."""
        surplus = [key for key, d in self._destinations.items() if not d.users][: len(self._destinations) - MAX_KEYS]
        for key in surplus if len(self._destinations) > MAX_KEYS else ():
            self._retire(self._destinations.pop(key).idle)

    def _retire(self, connections: list[SmtpConnection]) -> None:
        for connection in connections:
            task = asyncio.ensure_future(connection.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
