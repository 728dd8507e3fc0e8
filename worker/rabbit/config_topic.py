"""The SMTP records from the config topic, in memory: a `ConfigSource` that needs no database.

A worker reads the whole stream when it starts and waits until it has; from then on changes reach it
as they are published. When the topic is lost it goes on with what it knows, says so, and resumes
behind the last message that it read. A stream that was made anew, or that has forgotten messages
which were not read yet, is read from its beginning into a second memory; the first one stays in use
until the second has a whole snapshot, since an empty new stream is no reason to forget every tenant.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from schemas.config_change import ConfigMessageError, Marker, Message, read_message
from schemas.smtp_config import Scope
from worker.control.references import OpenSecret
from worker.delivery.known_configs import KnownConfigs
from worker.delivery.ports import ScopedConfigs
from worker.errors import BrokerUnavailable, TopologyMismatch
from worker.rabbit.config_stream import FIRST, Delivery, Place, StreamReader, head_of, publish_marker
from worker.rabbit.connection import Link, open_link
from worker.rabbit.declaring import Provision, prepare

log = structlog.get_logger(__name__)

# After a loss; what fails then waits longer from try to try.
_PAUSE_S = 0.1
_MAX_WAIT_S = 10


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """How the reading stands, for metrics.

    records     SMTP records in memory
    messages    read since the start
    skipped     messages or changes that could not be read
    lag_s       seconds from the last message's publication until it was read, by both hosts' clocks
    connected   everything that is published arrives
    """

    records: int
    messages: int
    skipped: int
    lag_s: float
    connected: bool


class ConfigTopic:
    """Fulfils `worker.delivery.ports.ConfigSource` from the topic.

    `open_secret` opens a sealed password at its record's first use, once for each version, and is
    asked at each use what a reference leads to (see `worker.control.references.Opening`).
    """

    def __init__(
        self,
        url: str,
        open_secret: OpenSecret,
        *,
        name: str = "postbote config topic",
        provision: Provision = Provision.DECLARE,
    ) -> None:
        """Nothing is connected before `start`; `name` is shown in the broker's management UI."""
        self._url = url
        self._open_secret = open_secret
        self._name = name
        self._provision = provision
        self._known = KnownConfigs()
        self._anew: KnownConfigs | None = None
        self._head: Place | None = None
        self._next = 0
        self._caught_up = asyncio.Event()
        self._connected = False
        self._lost_since = datetime.now(UTC)
        self._reason = "not connected yet"
        self._messages = self._skipped = 0
        self._lag_s = 0.0
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read in the background, over as many connections as that takes, until `close`."""
        self._keeper = asyncio.create_task(self._keep(), name=self._name)
        self._keeper.add_done_callback(_say_why_it_ended)

    async def close(self) -> None:
        """Read no more and close the connection."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def caught_up(self) -> None:
        """Return once everything that was published before the start has been read.

        Waits for the topic however long it is away. Raises TopologyMismatch where it is no stream as
        Postbote needs it.
        """
        if self._keeper is None:
            raise RuntimeError("start the topic first")
        reached = asyncio.ensure_future(self._caught_up.wait())
        try:
            await asyncio.wait({reached, self._keeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reached.cancel()
        if not self._caught_up.is_set():
            self._keeper.result()

    async def configs_for(self, scope: Scope) -> ScopedConfigs:
        """What the topic says of the scope's lineage; waits for `caught_up` first.

        Raises SecretUnreadable, naming the record, or SecretKeyMissing where a password that would be
        used cannot be opened.
        """
        if not self._caught_up.is_set():
            await self.caught_up()
        return self._known.configs_for(scope, self._open_secret)

    def missing(self) -> str | None:
        """What `/readyz` should say, or None while changes arrive."""
        if not self._caught_up.is_set():
            return f"the config topic has not been read yet: {self._reason}"
        if not self._connected:
            since = self._lost_since.isoformat(timespec="seconds")
            return f"config topic lost since {since} ({self._reason}); {len(self._known)} records from memory"
        if self._anew is not None:
            return (
                f"the config topic was made anew and holds no whole snapshot: {len(self._known)} records from "
                "memory; run `postbote config publish-snapshot`"
            )
        return None

    @property
    def status(self) -> TopicStatus:
        """How the reading stands now."""
        return TopicStatus(len(self._known), self._messages, self._skipped, self._lag_s, self._connected)

    async def _keep(self) -> None:
        again = AsyncRetrying(
            retry=retry_if_exception_type(BrokerUnavailable),
            wait=wait_exponential_jitter(multiplier=0.2, max=_MAX_WAIT_S),
        )
        while True:
            try:
                await again(self._read)
            except TopologyMismatch as error:
                self._say_lost(str(error))
                raise

    async def _read(self) -> None:
        """Read over one link until it is lost; raises BrokerUnavailable where it never came so far."""
        try:
            async with self._linked() as link:
                marker = await publish_marker(self._url, f"{self._name} marker")
                reader = await StreamReader(link).open(await self._where_to_begin())
                await self._take_all(reader, marker)
        except BrokerUnavailable as error:
            was_connected = self._connected
            self._say_lost(str(error))
            if not was_connected:
                raise
        await asyncio.sleep(_PAUSE_S)

    @contextlib.asynccontextmanager
    async def _linked(self) -> AsyncIterator[Link]:
        link = await open_link(self._url, self._name)
        try:
            await prepare(link, self._provision)
            yield link
        finally:
            await link.close()

    async def _where_to_begin(self) -> int | str:
        """The offset to read on from, or the beginning where this is another stream, or has a gap."""
        if self._head is None:
            return FIRST
        head = await head_of(self._url, f"{self._name} head")
        other = head.offset < self._head.offset or (head.offset == self._head.offset and head.id != self._head.id)
        if not other and head.offset <= self._next:
            self._head = head
            return self._next
        log.warning("the config topic is read from its beginning", made_anew=other, read_up_to=self._next)
        self._head, self._next = None, 0
        if self._caught_up.is_set():
            self._anew = KnownConfigs()
        else:
            self._known = KnownConfigs()
        return FIRST

    async def _take_all(self, reader: StreamReader, marker: str) -> None:
        while True:
            message = self._take(await reader.next())
            if isinstance(message, Marker) and message.marker == marker:
                self._say_connected()
            if self._anew is not None and self._connected and self._anew.snapshots_read:
                self._known, self._anew = self._anew, None
                log.info("the config topic's new records are in use", records=len(self._known))
            # Messages may be at hand by the thousand: events are under way, too.
            await asyncio.sleep(0)

    def _take(self, delivery: Delivery) -> Message | None:
        self._head = self._head or delivery.place
        self._next = delivery.place.offset + 1
        self._messages += 1
        try:
            reading = read_message(delivery.body)
        except ConfigMessageError as error:
            self._skip(delivery.place, str(error))
            return None
        for fault in reading.faults:
            self._skip(delivery.place, fault)
        self._lag_s = max(0.0, (datetime.now(UTC) - reading.message.published_at).total_seconds())
        for known in (self._known, self._anew):
            ended = known.apply(reading.message, delivery.place.offset) if known is not None else None
            if ended is not None:
                log.info("config snapshot", id=ended.snapshot, complete=ended.complete, dropped=ended.dropped)
        return reading.message

    def _skip(self, place: Place, reason: str) -> None:
        self._skipped += 1
        log.error("a message of the config topic was skipped", offset=place.offset, reason=reason)

    def _say_connected(self) -> None:
        self._connected = True
        self._caught_up.set()
        log.info("the config topic is read", records=len(self._known), messages=self._messages)

    def _say_lost(self, reason: str) -> None:
        if self._connected:
            self._lost_since = datetime.now(UTC)
        self._connected = False
        self._reason = reason
        log.warning("the config topic is not available", reason=reason, records=len(self._known))


def _say_why_it_ended(keeper: asyncio.Task[None]) -> None:
    if not keeper.cancelled() and keeper.exception() is not None:
        log.error("the config topic is read no more", reason=str(keeper.exception()))


@contextlib.asynccontextmanager
async def open_config_topic(
    url: str, open_secret: OpenSecret, *, name: str = "postbote config topic", provision: Provision = Provision.DECLARE
) -> AsyncIterator[ConfigTopic]:
    """Yield a started ConfigTopic, caught up or not, and close it."""
    topic = ConfigTopic(url, open_secret, name=name, provision=provision)
    topic.start()
    try:
        yield topic
    finally:
        await topic.close()
