"""Turns: how often a scope may try something that costs connections, and how many do at once."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from worker.api.problem import Problem
from worker.control.throttle import Rate, Throttle

A_MINUTE = Rate(10, 6.0)
"""Ten at once, and ten a minute in the long run."""

_RETRY_AFTER_S = 5.0


class Places:
    """Places by key: at most `at_once` are taken, `of_one` of them by one key; what takes none is not counted.

    Nobody waits in line: a place that cannot be had is Problem 429 with Retry-After, in seconds `again_s`.
    """

    def __init__(self, *, at_once: int, of_one: int, again_s: float = _RETRY_AFTER_S) -> None:
        """Take the bounds."""
        self._at_once = at_once
        self._of_one = of_one
        self._again_s = again_s
        self._taken: Counter[str] = Counter()

    def require(self, key: str) -> None:
        """Raise Problem 429 where the key cannot have a place now."""
        if self._taken[key] >= self._of_one or self._taken.total() >= self._at_once:
            raise _later(self._again_s)

    @contextmanager
    def taken(self, key: str) -> Iterator[None]:
        """Hold a place while the block runs."""
        self.require(key)
        self._taken[key] += 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            self._taken += Counter()  # forgets who has none


class Turns:
    """Turns by key: at most `at_once` under way, `of_one` of them of one key, each drawn from `throttle`.

    Nobody waits in line: a turn that cannot be had is Problem 429 with Retry-After, and costs nothing.
    """

    def __init__(self, throttle: Throttle | None = None, *, at_once: int = 4, of_one: int = 2) -> None:
        """Take the throttle that counts them; ten a minute for each key where there is none."""
        self._throttle = Throttle(A_MINUTE) if throttle is None else throttle  # an empty one is false
        self._places = Places(at_once=at_once, of_one=of_one)

    @contextmanager
    def taken(self, key: str) -> Iterator[None]:
        """Hold a turn while the block runs."""
        self._places.require(key)
        draw(self._throttle, key)
        with self._places.taken(key):
            yield


def draw(throttle: Throttle, key: str) -> None:
    """Try once of what `throttle` counts; Problem 429 with Retry-After where that was one too many."""
    wait = throttle.draw(key)
    if wait:
        raise _later(wait)


def _later(seconds: float) -> Problem:
    wait = math.ceil(seconds)
    return Problem(429, "Too many tries", f"try again in {wait} s", headers={"Retry-After": str(wait)})
