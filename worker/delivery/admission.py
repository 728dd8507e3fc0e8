"""How much of this worker one tenant and one provider may take, so that a slow one leaves room for the rest.

An event is counted from its admission to its end, under its tenant (the event's scope) and under
its provider (host and port of the record that serves it). One that finds a cap reached waits in a
line (see `lines`) or is sent to rest in the broker, uncharged. Bulk may fill half of a cap, so that
transactional mail always finds room; and where bulk has nothing under way it may have one, even
beyond the cap, so that a flood of transactional mail never starves it.

A cap is what the server shows to handle in a quarter of a minute, between a few and the bound that
was set: whoever is fast may fill it, and of a slow one nothing is held for longer than the broker's
shortest rest can bring back in time.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import random
from typing import NamedTuple, Self

from schemas.smtp_config import Scope
from worker.delivery.ports import Lane, Tier

SHORT_HOPS = 6
# The first rests for a cap are not recorded: a flood would be a flood of records.
CROWDED_HOPS = 2
# What is under way lasts a little longer than the shortest rest, so that no server idles while mail rests.
_HELD_S = 15.0
_FEWEST = 4
_UNKNOWN = 50  # as long as nothing has ended, nobody knows how fast a server is
_SMOOTHING_S = 5.0
# Who has just begun is no slow one yet: a connection, TLS, a login and a first mail take a moment.
GRACE_S = 1.0
LONGEST_LINE_S = 1.0
# A pace of seconds is the same for so long: what it allows is reckoned anew at most so often.
_SAME_S = 0.05
# How often a line is looked at whether it moves.
LOOK_S = 0.25
# A server may have become faster by then, so nobody rests longer, however many were turned away before.
LONGEST_REST_S = 60.0
_SHORTEST_REST_S = 0.5
_SLOWEST = 1 / LONGEST_REST_S
_BULK = Lane.BULK  # an enum's members are looked up slowly, and every mail asks

Provider = tuple[str, int]
"""Host and port, as the record writes them."""

Key = Scope | Provider


class Cap(StrEnum):
    """Which bound was reached."""

    TENANT = "tenant"
    PROVIDER = "provider"


class Refusal(NamedTuple):
    """No room now; `which` cap was reached, that of `key`. `rest_s`: when there will be room (see `turned_away`)."""

    which: Cap
    key: Key
    rest_s: float = LONGEST_REST_S


@dataclass(slots=True)
class _Pace:
    """How many ends a second there were of late: exponentially smoothed, and right from the first one on."""

    began: float
    at: float
    value: float = 0.0

    def ended(self, now: float) -> None:
        self.value = self.value * math.exp((self.at - now) / _SMOOTHING_S) + 1 / _SMOOTHING_S
        self.at = now

    def per_second(self, now: float) -> float:
        known_for = max(now - self.began, LOOK_S)
        return self.value * math.exp((self.at - now) / _SMOOTHING_S) / (1 - math.exp(-known_for / _SMOOTHING_S))


@dataclass(slots=True)
class _Count:
    """What is under way of one tenant or provider; `all` includes `bulk`.

    `spoken_for`: until when its server is busy with what is under way and what was turned away before.
    `allowed` is how many may be under way, until `allowed_until`.
    """

    pace: _Pace
    spoken_for: float = 0.0
    allowed: int = 0
    allowed_until: float = 0.0
    all: int = 0
    bulk: int = 0


_Place = tuple[Scope, _Count, Provider, _Count, bool]
"""Where an event is counted, under its tenant and under its provider, and whether it is bulk."""


class _Bound:
    """One cap for each key; a key with nothing under way takes no memory."""

    def __init__(self, which: Cap, cap: int) -> None:
        self.which = which
        self._cap = cap
        self._counts: dict[Key, _Count] = {}

    def count_of(self, key: Key) -> _Count | None:
        return self._counts.get(key)

    def has_room(self, count: _Count | None, now: float, *, bulk: bool) -> bool:
        if count is None or (bulk and count.bulk == 0):
            return True
        if count.all < _FEWEST and not bulk:
            return count.all < self._cap
        cap = self._allowed(count, now)
        return count.all < cap and not (bulk and count.bulk >= max(1, cap // 2))

    def enter(self, key: Key, count: _Count | None, now: float, *, bulk: bool) -> _Count:
        if count is None:
            count = self._counts[key] = _Count(_Pace(now, now))
        count.all += 1
        count.bulk += bulk
        return count

    def leave(self, key: Key, count: _Count, now: float, *, bulk: bool) -> None:
        count.all -= 1
        count.bulk -= bulk
        count.pace.ended(now)
        if count.all == 0:
            del self._counts[key]

    def rest_s(self, key: Key, now: float) -> float:
        """Give the next place in time: one after the other, as fast as the server is."""
        count = self._counts.get(key)
        if count is None:
            return _SHORTEST_REST_S
        pace = count.pace.per_second(now) if count.pace.value else float(_UNKNOWN)
        busy = max(count.spoken_for, now + count.all / max(pace, _SLOWEST))
        count.spoken_for = min(busy + 1 / max(pace, _SLOWEST), now + LONGEST_REST_S)
        return max(_SHORTEST_REST_S, count.spoken_for - now)

    def line_room(self, key: Key, now: float) -> float:
        count = self._counts.get(key)
        if count is None or now - count.pace.began < GRACE_S:
            return math.inf
        return count.pace.per_second(now) * LONGEST_LINE_S

    def under_way(self, key: Key) -> int:
        count = self._counts.get(key)
        return count.all if count else 0

    def _allowed(self, count: _Count, now: float) -> int:
        if now < count.allowed_until:
            return count.allowed
        if count.pace.value == 0.0:
            return min(_UNKNOWN, self._cap)
        count.allowed = min(self._cap, max(_FEWEST, int(count.pace.per_second(now) * _HELD_S)))
        count.allowed_until = now + _SAME_S
        return count.allowed

    def __len__(self) -> int:
        return len(self._counts)


class Ticket:
    """An admitted event's place, until `leave`; also a context manager that leaves at its end."""

    __slots__ = ("_admission", "_place")

    def __init__(self, admission: "Admission", place: _Place) -> None:
        """Made by `Admission.try_enter`."""
        self._admission = admission
        self._place: _Place | None = place

    def leave(self) -> None:
        """Give the place back; a second time does nothing."""
        place, self._place = self._place, None
        if place is not None:
            self._admission.left(place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Admission:
    """The two caps of one process; every call is O(1), and memory is bounded by what is under way."""

    def __init__(self, per_tenant: int, per_provider: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; `clock` tells seconds. Raises ValueError for a cap below one, which would admit nothing."""
        if per_tenant < 1 or per_provider < 1:
            raise ValueError("a cap of events under way is one at least")
        self._tenants = _Bound(Cap.TENANT, per_tenant)
        self._providers = _Bound(Cap.PROVIDER, per_provider)
        self._clock = clock
        self.on_leave: Callable[[Scope, Provider], None] | None = None
        """Told of each place that is given back."""

    def refuse_early(self, scope: Scope, lane: Lane) -> Refusal | None:
        """Refuse an event whose tenant's line stands still, before anything is looked up; None: `try_enter` decides.

        What makes a flood cheap: of 20,000 events nearly all end here.
        """
        now = self._clock()
        if self._tenants.has_room(self._tenants.count_of(scope), now, bulk=lane is Lane.BULK):
            return None
        return Refusal(Cap.TENANT, scope) if self._tenants.line_room(scope, now) < 1 else None

    def turned_away(self, refusal: Refusal) -> Refusal:
        """Say how long an event is to rest: until those before it will have been served.

        So a backlog comes back as fast as its server takes it, each event about once, however long it is.
        """
        return refusal._replace(rest_s=self._bound(refusal.which).rest_s(refusal.key, self._clock()))

    def try_enter(self, scope: Scope, provider: Provider, lane: Lane) -> Ticket | Refusal:
        """Admit an event of `scope` to `provider`, or say which cap is reached; the tenant's is looked at first."""
        bulk, now = lane is _BULK, self._clock()
        tenant = self._tenants.count_of(scope)
        if not self._tenants.has_room(tenant, now, bulk=bulk):
            return Refusal(Cap.TENANT, scope)
        served = self._providers.count_of(provider)
        if not self._providers.has_room(served, now, bulk=bulk):
            return Refusal(Cap.PROVIDER, provider)
        tenant = self._tenants.enter(scope, tenant, now, bulk=bulk)
        served = self._providers.enter(provider, served, now, bulk=bulk)
        return Ticket(self, (scope, tenant, provider, served, bulk))

    def left(self, place: _Place) -> None:
        """Take an event's place back; called by its ticket, once."""
        scope, tenant, provider, served, bulk = place
        now = self._clock()
        self._tenants.leave(scope, tenant, now, bulk=bulk)
        self._providers.leave(provider, served, now, bulk=bulk)
        if self.on_leave is not None:
            self.on_leave(scope, provider)

    def line_room(self, refusal: Refusal) -> float:
        """How many may stand in line before the cap that refused: what will have found room within a second."""
        return self._bound(refusal.which).line_room(refusal.key, self._clock())

    def under_way(self, scope: Scope) -> int:
        """Return how many events of a tenant are admitted now."""
        return self._tenants.under_way(scope)

    def __len__(self) -> int:
        """How many tenants and providers are remembered."""
        return len(self._tenants) + len(self._providers)

    def _bound(self, which: Cap) -> _Bound:
        return self._tenants if which is Cap.TENANT else self._providers


def hop_tier(hops: int, draw: Callable[[], float] = random) -> tuple[Tier, float]:
    """Return where an event rests that has rested `hops` times in a row before, and for how many seconds.

    Ten seconds' tier at first (5 to 10 s), later the minute's (30 to 60 s). `draw` gives numbers of
    [0, 1): what was turned away together must not come back together.
    """
    tier = Tier.TEN_SECONDS if hops < SHORT_HOPS else Tier.ONE_MINUTE
    return tier, tier.seconds * (1 + draw()) / 2
