"""Breakers: a record whose login, TLS or host name is wrong rests, instead of trying its server with every mail.

One breaker for each version of a record (scope, display name, version); a new version starts
closed. What opens it is a config fault before MAIL; whatever is answered at MAIL or later proves
that host, TLS and login work.

    closed ── config fault ──► open ── backoff over ──► probing ── reply at MAIL or later ──► closed
                                ▲                          │
                                └── config fault (longer), no verdict (as long), lost (after a limit)

Replicas tell each other of every `Change`. Each draws its own time for the next probe, and who
begins one says so: usually one of them finds out for all. Changes form a total order (version,
time, state, ...) of which the last wins, so that they may come late, twice and in any order. A
change made here is later than what it answers, whatever the clock says (a hybrid logical clock).
Times are seconds since the epoch, for they are compared across machines; since clocks jump, no
wait is ever believed that is longer than the longest that exists.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from random import random
from typing import NamedTuple

from schemas.audit import Outcome
from schemas.smtp_config import Scope, SmtpConfig
from worker.delivery.outcome import Verdict, decide
from worker.delivery.ports import Answer, Phase

FIRST_BACKOFF_S = 10.0
MAX_BACKOFF_S = 300.0
# Each wait is lengthened by up to this share, so that replicas don't probe at the same moment.
JITTER = 0.5
# A probe of which nothing is heard for so long is lost: its event was cancelled, or its worker died.
PROBE_LIMIT_S = 60.0
# Waiting for another's probe is short: it ends within a connection's time, either way.
PROBE_LOOK_S = 10.0
# A change from further in the future than any clock is wrong by accident was made up.
MAX_SKEW_S = 7200.0
MAX_KEYS = 10_000
_LONGEST_S = MAX_BACKOFF_S * (1 + JITTER)
_TICK_S = 0.001
_DOUBLINGS = 5

_OPENING = frozenset({Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.EHLO, Phase.TLS, Phase.AUTH})


class BreakerKey(NamedTuple):  # each mail makes one, and a frozen dataclass takes three times as long
    """One version of one record."""

    scope: Scope
    name: str
    version: int

    @classmethod
    def of(cls, config: SmtpConfig) -> "BreakerKey":
        """The key of the record that an event resolved to."""
        return cls(config.scope, config.display_name, config.version)


class State(IntEnum):
    """What a change leads to; of two at the same moment the higher one wins."""

    CLOSED = 0
    PROBING = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Change:
    """One step of one breaker, as replicas tell it each other.

    `at`: seconds since the epoch. `failures`: probes and logins in a row that failed, which give
    the backoff; kept in a closing, for one that opens again at once. `reason`: the outcome rule's
    name, never a server's text.
    """

    key: BreakerKey
    state: State
    at: float
    failures: int
    reason: str = ""

    @property
    def order(self) -> tuple[int, float, int, int, str]:
        """Its place among the changes of one record: the last one holds."""
        return (self.key.version, self.at, self.state, self.failures, self.reason)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Send."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Send, as the one that finds out; tell the replicas of `change`, and `learned` of how it ended."""

    change: Change


@dataclass(frozen=True, slots=True)
class Waits:
    """Don't send before `until` (seconds since the epoch); `reason` is the rule that opened the breaker."""

    until: float
    reason: str


Permission = Allowed | Probe | Waits
_ALLOWED = Allowed()


@dataclass(slots=True)
class _Breaker:
    """The last change of one record, and until when this replica lets nothing through."""

    last: Change
    until: float
    ours: bool
    """True where the probe under way is one of this replica."""


class Breakers:
    """The breakers of one replica; `now` is always the time in seconds since the epoch."""

    def __init__(self, *, draw: Callable[[], float] = random, max_keys: int = MAX_KEYS) -> None:
        """Start with all of them closed; `draw` gives numbers of [0, 1) for the jitter."""
        self._draw = draw
        self._max_keys = max_keys
        self._breakers: OrderedDict[tuple[Scope, str], _Breaker] = OrderedDict()

    def check(self, key: BreakerKey, now: float) -> Permission:
        """Say whether mail may go out by this record; a Probe has to be followed by `learned` or `undecided`."""
        found = self._find(key)
        if found is None or found.last.state is State.CLOSED:
            return _ALLOWED
        self._breakers.move_to_end((key.scope, key.name))
        waits = self._waits(found, now)
        return waits or Probe(self._become(key, State.PROBING, found.last.failures, found.last.reason, now))

    def rests(self, key: BreakerKey, now: float) -> Waits | None:
        """What `check` would say where that is to wait; asking begins no probe."""
        found = self._find(key)
        return None if found is None or found.last.state is State.CLOSED else self._waits(found, now)

    def learned(self, key: BreakerKey, answers: Iterable[Answer], now: float) -> Change | None:
        """Learn from what a transaction said about its recipients; return what the replicas are to be told."""
        told = tuple(answers)
        for each in told:
            if closes(each):
                return self.succeeded(key, now)
        for each in told:
            verdict = decide(each)
            if opens(each, verdict):
                return self.failed(key, verdict.rule, now)
        return self.undecided(key, now)

    def failed(self, key: BreakerKey, reason: str, now: float) -> Change | None:
        """Learn of a config fault before MAIL; None where it says nothing new."""
        found = self._find(key)
        if found is None:
            return None if self._outdated(key) else self._become(key, State.OPEN, 1, reason, now)
        last = found.last
        if last.state is State.CLOSED:
            again = now - last.at < backoff_s(last.failures)
            return self._become(key, State.OPEN, last.failures + 1 if again else 1, reason, now)
        if last.state is State.PROBING and found.ours:
            return self._become(key, State.OPEN, last.failures + 1, reason, now)
        return None  # under way since before it opened

    def succeeded(self, key: BreakerKey, now: float) -> Change | None:
        """Learn of a reply at MAIL or later; None where it says nothing new.

        Only a probe closes: what was under way by then used a login from before it opened.
        """
        found = self._find(key)
        if found is None or not (found.last.state is State.PROBING and found.ours):
            return None
        return self._become(key, State.CLOSED, found.last.failures, found.last.reason, now)

    def undecided(self, key: BreakerKey, now: float) -> Change | None:
        """Learn that a transaction ended without telling (a timeout, a cancelled event): a probe is due again later."""
        found = self._find(key)
        if found is None or not (found.last.state is State.PROBING and found.ours):
            return None
        return self._become(key, State.OPEN, found.last.failures, found.last.reason, now)

    def apply(self, change: Change, now: float) -> bool:
        """Take over another replica's change; False where it is older than what is known, or made up."""
        if change.at > now + MAX_SKEW_S:
            return False
        found = self._breakers.get((change.key.scope, change.key.name))
        if found is not None and change.order <= found.last.order:
            return False
        self._keep(change, ours=False)
        return True

    def hasten(self, key: BreakerKey, now: float) -> None:
        """Let an open one be tried soon, as its record may have changed without a new version.

        Not before the shortest backoff is over, nor all replicas at once that start together: of those one finds out.
        """
        found = self._find(key)
        if found is not None and found.last.state is State.OPEN:
            soonest = max(now, found.last.at + FIRST_BACKOFF_S)
            found.until = min(found.until, soonest + FIRST_BACKOFF_S * JITTER * self._draw())

    def last(self, key: BreakerKey) -> Change | None:
        """Return the last change of this very version, None where nothing is known of any; asking changes nothing."""
        found = self._breakers.get((key.scope, key.name))
        return found.last if found is not None and found.last.key.version == key.version else None

    def open_now(self) -> list[Change]:
        """Return the last change of each breaker that is not closed, for whoever asks what rests and why."""
        return [each.last for each in self._breakers.values() if each.last.state is not State.CLOSED]

    def __len__(self) -> int:
        """How many records are remembered."""
        return len(self._breakers)

    def _waits(self, found: _Breaker, now: float) -> Waits | None:
        """Until when a breaker that is not closed lets nothing through; None: it is due for a probe."""
        if found.until - now > _LONGEST_S:
            found.until = now + self._wait(found.last)  # the clock was set back
        if now >= found.until:
            return None
        until = found.until if found.last.state is State.OPEN else min(found.until, now + PROBE_LOOK_S)
        return Waits(until, found.last.reason)

    def _find(self, key: BreakerKey) -> _Breaker | None:
        """The breaker of this very version; an older version's is forgotten."""
        if not self._breakers:  # nearly always: no record has failed since the start
            return None
        found = self._breakers.get((key.scope, key.name))
        if found is None or found.last.key.version == key.version:
            return found
        if found.last.key.version < key.version:
            del self._breakers[key.scope, key.name]
        return None

    def _outdated(self, key: BreakerKey) -> bool:
        """Return whether a newer version is known; mail that was resolved before it says nothing about that."""
        return (key.scope, key.name) in self._breakers

    def _become(self, key: BreakerKey, state: State, failures: int, reason: str, now: float) -> Change:
        found = self._breakers.get((key.scope, key.name))
        at = now if found is None else max(now, found.last.at + _TICK_S)
        change = Change(key, state, at, failures, reason)
        self._keep(change, ours=True)
        return change

    def _keep(self, change: Change, *, ours: bool) -> None:
        name = (change.key.scope, change.key.name)
        self._breakers[name] = _Breaker(change, change.at + self._wait(change), ours)
        self._breakers.move_to_end(name)
        if len(self._breakers) > self._max_keys:
            self._breakers.popitem(last=False)

    def _wait(self, change: Change) -> float:
        wait_s = PROBE_LIMIT_S if change.state is State.PROBING else backoff_s(change.failures)
        return wait_s * (1 + JITTER * self._draw())


def backoff_s(failures: int) -> float:
    """Return the shortest wait after so many failures in a row: 10 s, doubled each time, 5 minutes at most."""
    return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(max(0, failures - 1), _DOUBLINGS))


def opens(answer: Answer, verdict: Verdict) -> bool:
    """Return whether an answer opens the breaker: the record cannot work, and that shows before any mail is named.

    A config fault at MAIL or RCPT may be one sender's, and must not stop a tenant's others.
    """
    return verdict.outcome is Outcome.CONFIG_FAULT and answer.phase in _OPENING


def closes(answer: Answer) -> bool:
    """Return whether an answer proves the record's host, TLS and login."""
    return answer.reply is not None and answer.phase not in _OPENING
