"""When to try again, within one process: tenacity's loop around what is still pending.

It is entered after a first failure only (a loop set up for every mail would cost more than
parsing it), lasts up to the budget, and hands over to the caller what is pending then.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from worker.delivery.schedule import Limits

MAX_WAIT_S = 20.0
MAX_SPLITS = 200


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`budget_s`: how long one event is retried in process; `first_wait_s` doubles each time.

    `doubt_wait_s`: how long a mail that may have arrived is left alone before it is sent again.
    `limits`: how long the broker's schedule goes on after that.
    """

    budget_s: float = 60.0
    first_wait_s: float = 1.0
    doubt_wait_s: float = 60.0
    limits: Limits = field(default_factory=Limits)


class StillPending(Exception):
    """Some recipients want another attempt; an exception because that is tenacity's language.

    `at_once`: nothing is gained by waiting. `charged`: it counts against the record's retries.
    """

    def __init__(self, *, at_once: bool, charged: bool) -> None:
        """Keep both facts for the wait and the stop rule."""
        super().__init__("recipients are still pending")
        self.at_once = at_once
        self.charged = charged


class Interrupted(Exception):
    """The worker is stopping, so the wait was given up: the event goes back to its queue."""


async def retry_pending(
    first: StillPending,
    step: Callable[[], Awaitable[None]],
    *,
    policy: RetryPolicy,
    retries: int,
    before_wait: Callable[[float], Awaitable[None]],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Run `step` until it stops raising StillPending.

    `first` is what the first attempt, made outside, raised. `before_wait` learns the seconds
    until each next attempt. Raises the last StillPending once `retries` are spent or the next
    attempt would lie beyond the budget.
    """
    remembered: StillPending | None = first

    async def attempt() -> None:
        nonlocal remembered
        if remembered is not None:
            failure, remembered = remembered, None
            raise failure
        await step()

    async def announce(state: RetryCallState) -> None:
        await before_wait(state.upcoming_sleep)

    loop = AsyncRetrying(
        retry=retry_if_exception_type(StillPending),
        wait=_Wait(policy),
        stop=_Stop(policy, retries),
        before_sleep=announce,
        sleep=sleep,
        reraise=True,
    )
    await loop(attempt)


class _Wait:
    def __init__(self, policy: RetryPolicy) -> None:
        self._growing = wait_exponential_jitter(
            multiplier=policy.first_wait_s, max=MAX_WAIT_S, jitter=policy.first_wait_s / 4
        )

    def __call__(self, state: RetryCallState) -> float:
        return 0.0 if _failure(state).at_once else self._growing(state)


class _Stop:
    """Counts only what is charged: a server that takes 100 recipients at a time fails nobody."""

    def __init__(self, policy: RetryPolicy, retries: int) -> None:
        self._policy = policy
        self._retries = retries
        self._charged = 0

    def __call__(self, state: RetryCallState) -> bool:
        self._charged += _failure(state).charged
        late = (state.seconds_since_start or 0.0) + state.upcoming_sleep > self._policy.budget_s
        return self._charged > self._retries or state.attempt_number > MAX_SPLITS or late


def _failure(state: RetryCallState) -> StillPending:
    outcome = state.outcome
    failure = outcome.exception() if outcome is not None else None
    if not isinstance(failure, StillPending):  # the retry rule lets nothing else come this far
        msg = "asked for a wait without a failure"
        raise TypeError(msg)
    return failure
