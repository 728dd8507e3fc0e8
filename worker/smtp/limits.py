"""What a destination lets us do: how many connections, how fast, how many messages on each.

All of it is learned or configured numbers and a clock that the caller reads; nothing here waits.
Times are seconds of one monotonic clock.
"""

from collections import Counter

# A server that asked for less is tried with one more connection this much later.
RAISE_S = 60.0
# Replies that were on their way when the first of them slowed us down say nothing new.
HOLD_S = 1.0
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
# A server that restarts closes each connection at a count of its own; one that counts, at the same.
_SEEN_TWICE = 2


class TokenBucket:
    """A rate per minute without a burst to speak of: at most one second's worth saved up."""

    def __init__(self, per_minute: int, now: float) -> None:
        """Start full."""
        self._per_second = per_minute / 60
        self._room = max(1.0, self._per_second)
        self._tokens = self._room
        self._at = now

    def take(self, now: float) -> float:
        """Take a token and return 0.0, or return the seconds until there is one."""
        self._tokens = min(self._room, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_second


class ConnectionLimit:
    """How many connections a server takes: the record's number, lowered by what it says, raised slowly.

    Additive increase, multiplicative decrease: a reply that asks for less halves the number; at
    one connection it begins a pause, each longer than the last until a message is accepted.
    """

    def __init__(self, ceiling: int) -> None:
        """Start at the record's `max_connections`."""
        self._ceiling = ceiling
        self._allowed = ceiling
        self._changed_at = 0.0
        self.pauses = 0
        """Pauses since a message was last accepted."""
        self.paused_until = 0.0

    def allowed(self, now: float) -> int:
        """Return how many connections there may be now, one at least."""
        if self._allowed < self._ceiling and now - self._changed_at >= RAISE_S:
            self._allowed += 1
            self._changed_at = now
        return self._allowed

    def refused(self, up: int, now: float) -> None:
        """Learn that the server would not have one more than `up`."""
        self._allowed = max(1, min(self._allowed, up))
        self._changed_at = now

    def throttled(self, now: float) -> None:
        """Learn that the server asks for less."""
        if now - self._changed_at < HOLD_S and self._allowed < self._ceiling:
            return
        if now < self.paused_until:
            return
        if self._allowed == 1:
            self.paused_until = now + min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**self.pauses)
            self.pauses += 1
        self._allowed = max(1, self._allowed // 2)
        self._changed_at = now

    def accepted(self) -> None:
        """Learn that a message went through: the next pause is a short one again."""
        self.pauses = 0


class MessageLimit:
    """How many messages a server takes on one connection before it says 421."""

    def __init__(self) -> None:
        """Know of no limit."""
        self._closed_after: Counter[int] = Counter()
        self.value: int | None = None

    def closed_after(self, messages: int) -> None:
        """Learn that a connection was ended right after this many messages, one at least."""
        self._closed_after[messages] += 1
        if self._closed_after[messages] >= _SEEN_TWICE:
            self.value = messages if self.value is None else min(self.value, messages)
            self._closed_after.clear()
