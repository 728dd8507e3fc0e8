"""How often something may be tried: token buckets by key, in bounded memory.

A bucket holds `burst` tokens and gets one more every `every_s` seconds; a try takes one. Nothing here
reads a clock of its own: the tests bring theirs. Each process counts for itself.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

Clock = Callable[[], float]
"""Seconds that only go up."""

_CAPACITY = 10_000
_IPV6_SITE = 64  # one customer's network has at least 2^64 addresses: they count as one client


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` tries at once, then one every `every_s` seconds."""

    burst: int
    every_s: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many tokens there were at a time."""

    tokens: float
    at: float


def drawn(bucket: Bucket | None, rate: Rate, now: float) -> tuple[Bucket, float]:
    """Take one token at `now`: the bucket after it, and the seconds until the next try (0: this one may go on)."""
    held = rate.burst if bucket is None else min(rate.burst, bucket.tokens + (now - bucket.at) / rate.every_s)
    if held >= 1:
        return Bucket(held - 1, now), 0.0
    return Bucket(held, now), (1 - held) * rate.every_s


class Throttle:
    """Buckets by key; of more than `capacity` keys the one that was tried longest ago is forgotten."""

    def __init__(self, rate: Rate, *, clock: Clock = time.monotonic, capacity: int = _CAPACITY) -> None:
        """Take the rate that holds for each key."""
        self._rate = rate
        self._clock = clock
        self._capacity = capacity
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._buckets)

    def __contains__(self, key: str) -> bool:
        """Whether the key is remembered."""
        return key in self._buckets

    def draw(self, key: str) -> float:
        """Try once: 0 if it may go on, else the seconds to wait; a refused try costs nothing."""
        self._buckets[key], wait = drawn(self._buckets.get(key), self._rate, self._clock())
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return wait

    def fill(self, key: str) -> None:
        """Give the key a full bucket, and remember it."""
        self._buckets[key] = Bucket(self._rate.burst, self._clock())
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)


PER_ADDRESS = Rate(10, 30.0)
PER_CLIENT = Rate(30, 2.0)
PER_DASHBOARD = Rate(120, 0.5)
"""Of a scope: a page of charts at once for several people, and two charts a second in the long run."""


class LoginThrottle:
    """How often a password may be tried: by mail address, and by client.

    Whoever tries passwords for somebody's address from many clients uses up that address's tries. Its owner
    is not locked out by that: the client by which they came in before has tries of its own for it.
    """

    def __init__(self, *, clock: Clock = time.monotonic, capacity: int = _CAPACITY) -> None:
        """Take the clock; `capacity` bounds each of the three tables."""
        self._clients = Throttle(PER_CLIENT, clock=clock, capacity=capacity)
        self._addresses = Throttle(PER_ADDRESS, clock=clock, capacity=capacity)
        self._known = Throttle(PER_ADDRESS, clock=clock, capacity=capacity)

    def draw(self, address: str, client: str | None) -> float:
        """Try once: 0 if it may go on, else the seconds to wait."""
        wait = self._clients.draw(client_key(client))
        if wait:
            return wait  # a client that is stopped anyway uses up nobody's tries
        pair = _pair(address, client)
        if pair in self._known:
            return self._known.draw(pair)
        return self._addresses.draw(address.casefold())

    def came_in(self, address: str, client: str | None) -> None:
        """The password was right: the address has all of its tries again, and the client is known."""
        self._addresses.fill(address.casefold())
        self._known.fill(_pair(address, client))


def client_key(address: str | None) -> str:
    """What counts as one client: an IPv4 address, or the network of an IPv6 one."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or IPv6Network((ip, _IPV6_SITE), strict=False))
    return str(ip)


def _pair(address: str, client: str | None) -> str:
    return f"{address.casefold()} {client_key(client)}"
