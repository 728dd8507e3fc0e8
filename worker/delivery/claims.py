"""Claims: of several copies of one event that may have been sent before, one is in a worker's hands at a time.

RabbitMQ may hold an event twice (a worker was killed between a tier's confirm and its acknowledgement,
say). Each copy is a suspect, each is looked up, and two workers that find nothing at the same moment would
both send. So a suspect is claimed, looked up once more, and only then sent; whoever gets no claim lets it rest.

A claim goes back only when everything that the delivery recorded is found: the next one who gets it
looks there. Where that is not sure (the records are in the outbox, the delivery was broken off), nobody
renews it any more, and it ends by itself.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from schemas.audit import AuditRecord
from schemas.event import EmailEvent
from worker.delivery.identity import EventKey
from worker.delivery.lookups import Known
from worker.delivery.ports import AuditLookup, AuditSink, Settlement
from worker.delivery.retry import Interrupted
from worker.errors import AuditUnavailable

__all__ = ["Claim", "ClaimTimes", "Claims", "EventKey", "Noted", "Unclaimed"]

log = structlog.get_logger(__name__)

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ClaimTimes:
    """Seconds: how long a claim lasts, how often it is renewed, and by how much others wait longer.

    A worker may have an event in hand for twelve minutes. A claim of that length would also be how long
    a password reset waits after its worker's death, so it is a minute, renewed while the delivery goes on:
    two renewals may fail before a third would come too late. The holder counts on it for `margin_s` less
    than it lasts, and others wait for `margin_s` more: what clocks may differ by, in rate or in hour.
    """

    lasts_s: float = 60.0
    renew_s: float = 20.0
    margin_s: float = 5.0

    @property
    def trusted_s(self) -> float:
        """For how long, from the moment it was asked for, the holder counts on a claim."""
        return self.lasts_s - self.margin_s


class Claims(Protocol):
    """Who has which event in hand, as all workers see it; what is claimed is renewed until it is let go."""

    async def claim(self, key: EventKey) -> bool:
        """Whether the event is this worker's from now on: nobody else's claim on it lasts.

        The same worker id counts as the same worker: one that was killed and is back has shipped its journal.
        Raises AuditUnavailable where nobody can say now.
        """
        ...

    def holds(self, key: EventKey) -> bool:
        """Whether the claim still lasts, as far as this worker knows; False also once others may have it."""
        ...

    async def release(self, key: EventKey) -> None:
        """Give it back for others to have at once; where that fails, it ends by itself."""
        ...

    def leave(self, key: EventKey) -> None:
        """Renew it no more: it ends by itself, within `ClaimTimes.lasts_s`."""
        ...


class Unclaimed:
    """Fulfils Claims for a worker that is alone: whatever it asks for is its own."""

    async def claim(self, key: EventKey) -> bool:
        """True."""
        del key
        return True

    def holds(self, key: EventKey) -> bool:
        """True."""
        del key
        return True

    async def release(self, key: EventKey) -> None:
        """Nobody waits for it."""

    def leave(self, key: EventKey) -> None:
        """Nobody waits for it."""


class Noted:
    """An AuditSink that remembers what was written through it: document id -> index month."""

    def __init__(self, audit: AuditSink) -> None:
        """Write to `audit`."""
        self._audit = audit
        self.written: dict[str, str] = {}

    def write(self, records: Sequence[AuditRecord]) -> Awaitable[None]:
        """See `AuditSink.write`."""
        return self._noted(self._audit.write(records), records)

    async def _noted(self, writing: Awaitable[None], records: Sequence[AuditRecord]) -> None:
        await writing
        self.written.update((record.document_id, record.index_month) for record in records)


class Claim:
    """The claim of one delivery of a suspect, to be taken when it is about to be sent.

    `refused`: another worker has it. `audit` notes what the delivery records through it.
    """

    def __init__(self, claims: Claims, event: EmailEvent, audit: AuditSink, lookup: AuditLookup) -> None:
        """Nothing is claimed yet."""
        self._claims = claims
        self._key = EventKey.of(event)
        self._lookup = lookup
        self._taken = False
        self.refused = False
        self.audit = Noted(audit)

    async def known(self, ask: Callable[[], Awaitable[Known]], unsure: Callable[[Known], bool]) -> Known | None:
        """What the audit knows of a suspect, which is claimed if anybody is to be sent to; None where it has to rest.

        What was known before the claim may have grown until it was granted, so `ask` is asked again then.
        Raises AuditUnavailable.
        """
        known = await ask()
        if known.pending and not unsure(known):
            self._taken = await self._claims.claim(self._key)
            self.refused = not self._taken
            if self.refused:
                log.info("another worker has a copy of the event in hand")
                return None
            known = await ask()
        return None if known.pending and unsure(known) else known

    def check(self) -> None:
        """Raise Interrupted where the claim was lost: another worker may have the event now."""
        if self._taken and not self._claims.holds(self._key):
            raise Interrupted

    def watched(self, sleep: Sleep) -> Sleep:
        """The same sleep; whoever has claimed the event goes on after it only with the claim."""
        if not self._taken:
            return sleep

        async def sleep_and_check(seconds: float) -> None:
            await sleep(seconds)
            self.check()

        return sleep_and_check

    async def during(self, delivery: Awaitable[Settlement]) -> Settlement:
        """Await the delivery, and let go of what it has claimed, however it ends."""
        released = False
        try:
            settlement = await delivery
            released = self._taken and await self._release_if_found()
        finally:
            if self._taken and not released:
                self._claims.leave(self._key)
        return settlement

    async def _release_if_found(self) -> bool:
        written = self.audit.written
        try:
            found = await self._lookup.recorded(written) if written else frozenset[str]()
        except AuditUnavailable:
            return False
        if not found.issuperset(written):
            return False
        await self._claims.release(self._key)
        return True
