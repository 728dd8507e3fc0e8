"""The pool: every record's connections, within one bound for all of them.

The key is the whole record's identity, so that one tenant's mail can never travel over a
connection that another tenant's credentials opened. Decisions are made at once, in one turn of
the loop and without a lock; what they ask for (dials, farewells) happens afterwards.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from schemas.smtp_config import Scope, SmtpConfig, TlsMode
from worker.delivery.ports import Answer, Fault, Heard, MailEnvelope, Phase, RenderedMessage, TransactionResult
from worker.smtp.connection import QUIT_S, SmtpConnection
from worker.smtp.destination import Destination
from worker.smtp.dial import DialFailed, Dialled, dial
from worker.smtp.egress import EgressGuard
from worker.smtp.job import Job
from worker.smtp.room import WaitingRoom

log = structlog.get_logger(__name__)

MAX_KEYS = 1000
MAX_CONNECTIONS = 500

Dialler = Callable[[SmtpConfig], Awaitable[Dialled]]
"""Makes a connection of a record; raises DialFailed."""


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What must be equal for two mails to share a connection."""

    scope: Scope
    name: str
    host: str
    port: int
    tls: TlsMode
    username: str | None
    version: int
    fingerprint: str


class SmtpPool:
    """Fulfils `worker.delivery.ports.Mailer`, and `worker.smtp.destination.Host` for its destinations."""

    def __init__(
        self,
        ehlo_name: str,
        *,
        guard: EgressGuard | None = None,
        max_connections: int = MAX_CONNECTIONS,
        dialler: Dialler | None = None,
    ) -> None:
        """Nothing is connected until mail comes; `guard` says where tenants' records may lead.

        `dialler` dials in place of `dial` with that name and guard (see `probe_reach`).
        """
        permitted = guard or EgressGuard()
        self._dialler = dialler or (lambda config: dial(config, ehlo_name, permitted))
        self._max_connections = max_connections
        self._room = WaitingRoom()
        self._destinations: OrderedDict[PoolKey, Destination] = OrderedDict()
        self._newest: dict[tuple[Scope, str], Destination] = {}
        # A record's object serves all mail while it is cached; to digest it for its key costs more than a mail.
        self._by_record: dict[int, tuple[SmtpConfig, Destination]] = {}
        self._hungry: dict[Destination, None] = {}
        self._connections: set[SmtpConnection] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._open = 0
        self._closed = False

    async def send(
        self, config: SmtpConfig, envelope: MailEnvelope, message: RenderedMessage, heard: Heard | None = None
    ) -> TransactionResult:
        """Run one transaction on a reused or new connection of `config`; faults are answers.

        A caller that is cancelled takes its message back, unless a connection has it already.
        """
        destination, octets = self._destination(config), len(message.content)
        guest = destination.guest
        destination.senders += 1
        try:
            if not self._room.enters(guest, octets):
                await self._room.wait(guest, octets)
            job = Job(envelope, message, destination.loop.create_future(), heard=heard)
            try:
                destination.waiting.append(job)
                self._serve(destination)
                return await job.answered
            except asyncio.CancelledError:
                destination.discard(job)
                raise
            finally:
                self._room.leaves(guest, octets)
        finally:
            destination.senders -= 1

    async def close(self) -> None:
        """Say goodbye on every idle connection and cut the others off: transactions must have ended before."""
        self._closed = True
        for task in self._dials:
            task.cancel()
        for destination in self._destinations.values():
            destination.close()
        farewells = [connection.closed for connection in self._connections]
        if farewells:
            await asyncio.wait(farewells, timeout=2 * QUIT_S)
        await asyncio.gather(*self._dials, return_exceptions=True)

    # Which destination

    def _destination(self, config: SmtpConfig) -> Destination:
        found = self._by_record.get(id(config))
        if found is not None and found[0] is config:
            found[1].config = config
            return found[1]
        destination = self._look_up(config)
        destination.config = config  # where the record refers to a file, its password may have changed, and no version
        self._by_record[id(config)] = (config, destination)
        if len(self._by_record) > MAX_KEYS:
            self._prune()
        return destination

    def _look_up(self, config: SmtpConfig) -> Destination:
        key = PoolKey(
            config.scope,
            config.display_name,
            config.host,
            config.port,
            config.tls,
            config.username,
            config.version,
            config.fingerprint,
        )
        found = self._destinations.get(key)
        if found is None:
            found = self._destinations[key] = Destination(config, self)
        self._destinations.move_to_end(key)
        self._supersede(found)
        return found

    def _supersede(self, destination: Destination) -> None:
        """Let an older version of the same record drain; mail that was resolved before still goes out by it."""
        config = destination.config
        name = (config.scope, config.display_name)
        newest = self._newest.get(name, destination)
        if newest is not destination and newest.config.version > config.version:
            destination.outdated = True
            return
        destination.outdated = False
        self._newest[name] = destination
        if newest is not destination:
            newest.outdated = True
            self.tend(newest)

    def _prune(self) -> None:
        """Forget the records' objects, and the destinations unused longest beyond the most that are kept."""
        self._by_record.clear()
        surplus = len(self._destinations) - MAX_KEYS
        unused = [key for key, destination in self._destinations.items() if destination.unused]
        for key in unused[: max(0, surplus)]:
            destination = self._destinations.pop(key)
            name = (destination.config.scope, destination.config.display_name)
            if self._newest.get(name) is destination:
                del self._newest[name]

    # What is opened and closed

    @property
    def crowded(self) -> bool:
        """True while a destination waits for others to give up a connection."""
        return bool(self._hungry)

    def tend(self, destination: Destination) -> None:
        """Hand out what waits, open what that takes, and close what is too much."""
        self._serve(destination)
        for connection in destination.surplus():
            connection.retire()

    def forget(self, connection: SmtpConnection) -> None:
        """Count a connection out, and let the hungriest destination have its place."""
        self._connections.discard(connection)
        self._give_back()

    def _serve(self, destination: Destination) -> None:
        if self._closed:
            destination.fail(Answer(Phase.CONNECT, fault=Fault.SHUTDOWN))
            return
        destination.offer()
        for _ in range(destination.dials_wanted()):
            if self._open >= self._max_connections:
                self._make_room(destination)
                return
            self._dial(destination)

    def _dial(self, destination: Destination) -> None:
        self._open += 1
        destination.dialling += 1
        task = asyncio.ensure_future(self._connect(destination))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _connect(self, destination: Destination) -> None:
        try:
            dialled = await self._dialler(destination.config)
        except DialFailed as failed:
            destination.dial_failed(failed.answer)
            self._give_back()
        except BaseException as error:
            # Cancelled by `close`, or a mistake in our own code: no sender may wait for it for ever.
            destination.dialling -= 1
            destination.fail_with(error)
            self._give_back()
            raise
        else:
            config = destination.config
            connection = SmtpConnection(
                dialled, config.timeout_s, destination, chunking=config.chunking, require_tls=config.require_tls
            )
            self._connections.add(connection)
            destination.dialled(connection)
        self.tend(destination)

    # The bound on all of them

    def _make_room(self, destination: Destination) -> None:
        """Have another destination give up a connection: an idle one, else one of whoever has the most."""
        if destination in self._hungry:
            return
        self._hungry[destination] = None
        others = [each for each in self._destinations.values() if each is not destination and each.connections]
        idle = [found for each in others if (found := each.idle_connection()) is not None]
        if idle:
            min(idle, key=lambda each: each.finished_at).retire()
            return
        richest = max(others, key=lambda each: each.size, default=destination)
        if richest.size > destination.size + 1:
            richest.give_up_one()

    def _give_back(self) -> None:
        self._open -= 1
        for hungry in sorted(self._hungry, key=lambda each: each.size):
            del self._hungry[hungry]
            if hungry.dials_wanted():
                self._serve(hungry)
                return
