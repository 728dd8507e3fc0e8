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


class Turns:
    """Turns by key: at most `at_once` under way, `of_one` of them of one key, each drawn from `throttle`.

    Nobody waits in line: a turn that cannot be had is Problem 429 with Retry-After.
    """

    def __init__(self, throttle: Throttle | None = None, *, at_once: int = 4, of_one: int = 2) -> None:
        """Take the throttle that counts them; ten a minute for each key where there is none."""
        self._throttle = Throttle(A_MINUTE) if throttle is None else throttle  # an empty one is false
        self._at_once = at_once
        self._of_one = of_one
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def taken(self, key: str) -> Iterator[None]:
        """Hold a turn while the block runs."""
        if self._under_way[key] >= self._of_one or self._under_way.total() >= self._at_once:
            raise _later(_RETRY_AFTER_S)
        draw(self._throttle, key)
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            self._under_way += Counter()  # forgets who has none


def draw(throttle: Throttle, key: str) -> None:
    """Try once of what `throttle` counts; Problem 429 with Retry-After where that was one too many."""
    wait = throttle.draw(key)
    if wait:
        raise _later(wait)


def _later(seconds: float) -> Problem:
    wait = math.ceil(seconds)
    return Problem(429, "Too many tries", f"try again in {wait} s", headers={"Retry-After": str(wait)})
