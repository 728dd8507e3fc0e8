"""When an event is tried again by the broker: the retry schedule, and how long a rest lasts.

Waits of up to a minute are this process's (see `retry`); longer ones are the tiers'. A quorum queue
looks at its head alone: a message rests at least as long as it asks, and at most as long as the
tier's own limit, since something before it may ask for more. Everything here is told the time.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.delivery.admission import hop_tier
from worker.delivery.ports import Lane, Tier

# After the retries in process: a minute, five, thirty, then every two hours until the lane's limit.
_STEPS = (Tier.ONE_MINUTE, Tier.FIVE_MINUTES, Tier.THIRTY_MINUTES, Tier.TWO_HOURS)
_SHORTEST = 0.8  # of a tier: rests differ by a fifth, so that what failed together doesn't come back together
_BULK_LIMIT_S = 72 * 3600.0
_TRANSACTIONAL_LIMIT_S = 24 * 3600.0
DAY = timedelta(days=1)
# What comes due sooner than any tier could say is waited for in process.
NEAR_S = float(Tier.TEN_SECONDS.seconds)


@dataclass(frozen=True, slots=True)
class Limits:
    """For how many seconds each lane's mail is tried, from the first time that it was taken."""

    transactional_s: float = _TRANSACTIONAL_LIMIT_S
    bulk_s: float = _BULK_LIMIT_S

    def of(self, lane: Lane) -> timedelta:
        """The limit of a lane."""
        return timedelta(seconds=self.bulk_s if lane is Lane.BULK else self.transactional_s)


@dataclass(frozen=True, slots=True)
class Rest:
    """A stay in a tier, of at least `wait_s` seconds."""

    tier: Tier
    wait_s: float

    def until(self, now: datetime) -> datetime:
        """When it ends at the earliest."""
        return now + timedelta(seconds=self.wait_s)


class TooLate:
    """No further try: the lane's limit, or the event's `expires_at`, would have passed."""


@dataclass(frozen=True, slots=True)
class Exhausted(TooLate):
    """The schedule has ended."""


@dataclass(frozen=True, slots=True)
class Expired(TooLate):
    """Nobody wants the mail any more at the time of the next try."""


def charged_rest(charged: int, jitter: float) -> Rest:
    """The rest after the `charged`-th round of tries (0: the first); `jitter` is from 0 to 1."""
    tier = _STEPS[min(charged, len(_STEPS) - 1)]
    return Rest(tier, tier.seconds * (_SHORTEST + (1 - _SHORTEST) * jitter))


def hop_rest(hops: int, jitter: float) -> Rest:
    """The rest of a mail that did nothing wrong; see `admission.hop_tier`."""
    return Rest(*hop_tier(hops, lambda: jitter))


def crowd_rest(seconds: float, jitter: float) -> Rest:
    """The rest of a mail that was turned away for so many seconds: a little less, so that no server waits for it."""
    return rest_of(seconds * (_SHORTEST + (1 - _SHORTEST) * jitter))


def rest_of(seconds: float) -> Rest:
    """A rest of at least so many seconds, in the tier that is just long enough."""
    tier = next((each for each in Tier if each.seconds >= seconds), Tier.TWO_HOURS)
    return Rest(tier, min(seconds, tier.seconds))


def rest_towards(seconds: float) -> Rest:
    """The longest rest that ends before `seconds` have passed, at the shortest tier if there is none."""
    tier = next((each for each in reversed(Tier) if each.seconds <= seconds), Tier.TEN_SECONDS)
    return Rest(tier, float(tier.seconds))


def too_late(at: datetime, *, since: datetime, limit: timedelta, expires_at: datetime | None) -> TooLate | None:
    """Say whether a try at `at` would come too late, or None."""
    if expires_at is not None and at >= expires_at:
        return Expired()
    return Exhausted() if at > since + limit else None
