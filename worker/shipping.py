"""Shipping what changes have left to tell: rows of ``outgoing`` go to the workers, the audit and the events' queue.

Part of the composition root (see ``app``). Whoever changes the store writes what others have to hear
in the change's own transaction; here it is told, and only then forgotten. Any number of processes may
ship side by side, and one may die in between: something is told twice then, which does no harm.

Each kind has a lane of its own, so that a RabbitMQ that is away does not hold back the audit. Within a
lane the oldest goes first. A row that can never be told must not hold up the rest for ever:

- one that cannot be read (damaged, too large, or written by a newer version) is passed over at once;
- one that its place has refused three times is passed over once a later one was taken, which shows that
  the place works and the row does not.

Neither is deleted: it stays in the store, is counted (`postbote_outgoing_stuck`), logged, and tried again
every ten minutes and by every process that starts: a newer version may know what to do with it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from worker.api.ports import EventIntake
from worker.carriers import (
    AuditCarrier,
    Carrier,
    ConfigCarrier,
    ConfigTeller,
    DocumentSink,
    EventCarrier,
    Unreadable,
    open_carrier,
)
from worker.errors import BrokerUnavailable, PostboteError, PublishRefused, StoreUnavailable
from worker.settings import Settings
from worker.store.database import Store
from worker.store.outgoing import Backlog, Outgoing, OutgoingKind, OutgoingShelf

log = structlog.get_logger(__name__)

Gauges = Mapping[str, tuple[str, Callable[[], float | None]]]
"""By metric name: what it says, and how it is read (None: not known now)."""

Letter = tuple[int, Any]
"""A row's number, and what it says."""

_BATCH = 100
_REFUSALS = 3
_REST_S = 600.0  # of a row that was passed over
_MAX_RESTING = 1000  # rows that are remembered so; beyond, the oldest is tried again earlier
_POLL_S = 2.0  # another replica or a command may have died between its commit and its shipping
_MAX_BACKOFF_S = 15.0
_SURPRISE_PAUSE_S = 1.0
_SLOW_S = 5.0  # the audit waits for OpenSearch by itself, and says nothing meanwhile
_ONCE_S = 10.0


class ShippingLane:
    """One kind's way to its place."""

    def __init__(self, shelf: OutgoingShelf, carrier: Carrier[Any]) -> None:
        """Nothing runs before `run` or `ship_all`."""
        self._shelf = shelf
        self._carrier = carrier
        self._refused: dict[int, int] = {}  # how often
        self._resting: dict[int, float] = {}  # until when, on the monotonic clock
        self._passed_over: list[int] = []  # in this round, and nothing was taken since
        self._work, self._hurry = asyncio.Event(), asyncio.Event()
        self._fault: str | None = None
        self._carrying_since: float | None = None

    @property
    def kind(self) -> OutgoingKind:
        """What it carries."""
        return self._carrier.kind

    @property
    def place(self) -> str:
        """Where to."""
        return self._carrier.place

    @property
    def stuck(self) -> int:
        """Rows that were passed over."""
        return len(self._resting)

    @property
    def trouble(self) -> str | None:
        """Why what waits cannot be told now, for the log and the operator; None while it can."""
        if self._fault is not None:
            return self._fault
        since = self._carrying_since
        slow = since is not None and time.monotonic() - since > _SLOW_S
        return f"{self.place} did not take it within {_SLOW_S:.0f} s" if slow else None

    def wake(self, *, hurry: bool = False) -> None:
        """There is something to tell; `hurry`: without the rest that a failure has earned."""
        self._work.set()
        if hurry:
            self._hurry.set()

    async def run(self) -> None:
        """Tell whatever is woken for, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            again = AsyncRetrying(
                retry=retry_if_exception_type(PostboteError),
                wait=wait_exponential_jitter(multiplier=0.2, max=_MAX_BACKOFF_S),
                sleep=self._rest,
                before_sleep=self._note_failure,
            )
            try:
                await again(self.ship_all)
            except Exception:
                log.exception("telling of changes surprised", kind=self.kind)
                await asyncio.sleep(_SURPRISE_PAUSE_S)
                self._work.set()
            else:
                self._note_success()

    async def ship_all(self) -> None:
        """Tell all that waits, oldest first.

        Raises BrokerUnavailable, PublishRefused, AuditUnavailable or StoreUnavailable; what was told by
        then is forgotten.
        """
        self._hurry.clear()
        self._passed_over.clear()
        now = time.monotonic()
        resting = {seq for seq, until in self._resting.items() if until > now}
        seen: set[int] = set()
        after = 0
        while rows := await self._shelf.oldest(_BATCH, kind=self.kind, after=after):
            after = rows[-1].seq
            seen.update(resting.intersection(row.seq for row in rows))
            for letters in self._read([row for row in rows if row.seq not in resting]):
                await self._tell(letters)
        for seq in resting - seen:  # another version, or an operator, has dealt with it
            del self._resting[seq]
        if self._passed_over:
            raise PublishRefused(f"{self.place} refused the last that waits")

    def _read(self, rows: Sequence[Outgoing]) -> list[list[Letter]]:
        letters: list[Letter] = []
        for row in rows:
            try:
                letters.append((row.seq, self._carrier.read(row.body)))
            except Unreadable as error:
                self._let_rest(row.seq, str(error))
        size = self._carrier.at_once
        return [letters[first : first + size] for first in range(0, len(letters), size)]

    async def _tell(self, letters: Sequence[Letter]) -> None:
        """Tell these together; where they are refused, one by one, so that one cannot stop the others."""
        self._carrying_since = time.monotonic()
        try:
            await self._carrier.carry([letter for _, letter in letters])
        except PublishRefused as refusal:
            if len(letters) > 1:
                for letter in letters:
                    await self._tell([letter])
                return
            self._pass_over(letters[0][0], refusal)
            return
        finally:
            self._carrying_since = None
        await self._shelf.told([seq for seq, _ in letters])
        self._note_taken(seq for seq, _ in letters)

    def _pass_over(self, seq: int, refusal: PublishRefused) -> None:
        """Go on to the next one only after several refusals: mostly it is the place, and order matters."""
        self._refused[seq] = self._refused.get(seq, 0) + 1
        while len(self._refused) > _MAX_RESTING:
            del self._refused[next(iter(self._refused))]
        if self._refused[seq] < _REFUSALS:
            raise refusal
        self._passed_over.append(seq)

    def _note_taken(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            self._refused.pop(seq, None)
            self._resting.pop(seq, None)
        for seq in self._passed_over:
            self._refused.pop(seq, None)
            self._let_rest(seq, f"{self.place} refused it and took a later one")
        self._passed_over.clear()

    def _let_rest(self, seq: int, reason: str) -> None:
        if seq not in self._resting:
            log.error("a change cannot be told: it stays in the store", kind=self.kind, seq=seq, reason=reason)
        self._resting[seq] = time.monotonic() + _REST_S
        while len(self._resting) > _MAX_RESTING:
            del self._resting[next(iter(self._resting))]

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _note_failure(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if self._fault is None:  # one line for each outage
            log.warning("changes wait to be told", kind=self.kind, place=self.place, reason=str(error))
        self._fault = str(error)

    def _note_success(self) -> None:
        if self._fault is not None:
            log.info("changes are told again", kind=self.kind, place=self.place)
            self._fault = None


class Shipping:
    """Ships while it is started; fulfils the control plane's Broadcast."""

    def __init__(
        self,
        shelf: OutgoingShelf,
        *,
        configs: ConfigTeller | None,
        audit: DocumentSink,
        intake: EventIntake,
        poll_s: float = _POLL_S,
    ) -> None:
        """Nothing runs before `start`.

        `configs`: None where no worker reads the config topic: then nobody has to be told. `audit` and
        `intake` are closed by whoever opened them, after this.
        """
        self._shelf = shelf
        self._poll_s = poll_s
        carriers = (ConfigCarrier(configs), AuditCarrier(audit), EventCarrier(intake))
        self._lanes = [ShippingLane(shelf, carrier) for carrier in carriers]
        self._nudged = asyncio.Event()
        self._backlog: Mapping[OutgoingKind, Backlog] | None = None
        self._store_fault: str | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; waits for nothing, whoever is away."""
        self._nudged.set()
        loops = {"look": self._look(), **{lane.kind.value: lane.run() for lane in self._lanes}}
        self._tasks = [asyncio.create_task(loop, name=f"shipping {name}") for name, loop in loops.items()]

    async def close(self) -> None:
        """End; what is not told yet stays in the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def nudge(self) -> None:
        """Ship soon, also where something failed a moment ago; never waits and never fails."""
        self._nudged.set()
        for lane in self._lanes:
            lane.wake(hurry=True)

    @property
    def waiting(self) -> int | None:
        """Rows that waited when last looked, the stuck ones with them; None before that."""
        return None if self._backlog is None else sum(each.count for each in self._backlog.values())

    @property
    def trouble(self) -> str | None:
        """What fails now, for an operator; None where all is well."""
        faults = [self._store_fault, *(lane.trouble for lane in self._lanes)]
        return "; ".join(dict.fromkeys(fault for fault in faults if fault)) or None

    def gauges(self) -> Gauges:
        """What there is to measure."""
        return {
            "postbote_outgoing_waiting": ("Changes that are stored and not told yet", lambda: self.waiting),
            "postbote_outgoing_oldest_seconds": ("How long the oldest of them has waited", self._age_s),
            "postbote_outgoing_stuck": (
                "Changes that cannot be told and stay in the store",
                lambda: sum(lane.stuck for lane in self._lanes),
            ),
        }

    def _age_s(self) -> float | None:
        if self._backlog is None:
            return None
        ages = [(datetime.now(UTC) - each.oldest).total_seconds() for each in self._backlog.values()]
        return max(0.0, *ages) if ages else 0.0

    async def _look(self) -> None:
        """See what waits, at once when nudged and else now and then, and wake the lanes that have work."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._nudged.wait()
            self._nudged.clear()
            try:
                self._backlog = await self._shelf.backlog()
                self._store_fault = None
            except StoreUnavailable as error:
                if self._store_fault is None:
                    log.warning("changes wait to be told: the store cannot be read", reason=str(error))
                self._store_fault = str(error)
            except Exception:
                log.exception("looking for changes to tell surprised")
            for lane in self._lanes:
                if self._backlog and lane.kind in self._backlog:
                    lane.wake()


@dataclass(frozen=True, slots=True)
class Shipped:
    """What is left: how many rows wait, and why; `trouble` is a sentence for the operator."""

    waiting: int
    trouble: str | None


async def ship_once(settings: Settings, *, embedded: bool = False) -> Shipped:
    """Tell everything that waits, within ten seconds, for a command that has changed something.

    Never raises: what could not be told waits in the store for whoever runs ``postbote api``, or for the
    next command. Connects nowhere where nothing waits.
    """
    store = Store(settings.database_url)
    if not store.exists:
        return Shipped(0, f"there is no database at {store.location}")
    shelf = OutgoingShelf(store)
    try:
        kinds = sorted(await shelf.backlog())
        ways = [partial(_open_lane, settings, shelf, kind, embedded=embedded) for kind in kinds]
        faults = await asyncio.gather(*(_ship_lane(way) for way in ways))
        left = await shelf.waiting()
        trouble = "; ".join(dict.fromkeys(fault for fault in faults if fault))
        return Shipped(left, (trouble or "what is left cannot be told: see the log") if left else None)
    except PostboteError as error:
        return Shipped(0, str(error))
    finally:
        await store.close()


async def _ship_lane(open_lane: Callable[[], contextlib.AbstractAsyncContextManager[ShippingLane]]) -> str | None:
    try:
        async with asyncio.timeout(_ONCE_S), open_lane() as lane:
            await lane.ship_all()
    except BrokerUnavailable as error:
        return f"RabbitMQ cannot be reached: {error}"
    except PostboteError as error:
        return str(error)
    except TimeoutError:
        return f"not everything was taken within {_ONCE_S:.0f} s"
    return None


@contextlib.asynccontextmanager
async def _open_lane(
    settings: Settings, shelf: OutgoingShelf, kind: OutgoingKind, *, embedded: bool
) -> AsyncIterator[ShippingLane]:
    async with open_carrier(settings, kind, embedded=embedded) as carrier:
        yield ShippingLane(shelf, carrier)
