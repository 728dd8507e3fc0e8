"""Three things that must agree: what was published, what the server kept, what the audit says.

The unit is a pair of event and recipient. A pair has ended where the audit holds a final record of
it, or where its event lies in a queue that has a name. What has not ended is lost, unless the server
answered 250 to it: then the audit is what is missing, and that is a disagreement.

A second copy is excused where nobody could know better: the reply to every earlier copy was
withheld, or written so shortly before the reader (or the writer) was killed that it may never have
been read and noted. Those are counted apart, and so are second mails of events that the publisher had
to publish again: two copies in two queues can be in two workers' hands at the same moment. Each second
mail must be flagged `possible_duplicate`, whatever its excuse.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.audit import Outcome

Pair = tuple[str, str]
"""(event id, recipient)."""

# These say that something else is still to come.
UNDECIDED = frozenset({Outcome.DEFERRED, Outcome.THROTTLED, Outcome.IN_DOUBT})
WINDOW_S = 0.3
# What a dead client has sent is still read, and answered, until its end is noticed.
_AFTERLIFE_S = 0.1
SINK = "sink"


@dataclass(frozen=True, slots=True)
class Published:
    """An event that the broker confirmed; `hold`: it asks not to be sent again when in doubt.

    `copies`: how often it was published, until one was confirmed; each may be in a queue.
    """

    id: str
    org: str
    recipients: tuple[str, ...]
    message_id: str
    hold: bool = False
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """A mail that the server kept; `at` is CLOCK_MONOTONIC in seconds just before its reply."""

    message_id: str
    recipients: tuple[str, ...]
    at: float
    ehlo: str
    replied: bool
    content_hash: str = ""


@dataclass(frozen=True, slots=True)
class Kill:
    """What was killed (`SINK`, or the name that a worker gives in EHLO, or a server), and when it was alive last.

    `began` is just before the signal, `ended` when the process was seen to be gone.
    """

    what: str
    began: float
    ended: float


@dataclass(frozen=True)
class Evidence:
    """All that is known after a scenario; `queued` has the event ids that each queue still holds."""

    published: Mapping[str, Published]
    kept: Sequence[Kept]
    records: Sequence[Mapping[str, Any]]
    queued: Mapping[str, frozenset[str]] = field(default_factory=dict)
    kills: Sequence[Kill] = ()


@dataclass(frozen=True)
class Verdict:
    """What the count found, by pairs; `copies` counts mails too many, one by one."""

    lost: tuple[Pair, ...] = ()
    duplicated: tuple[Pair, ...] = ()
    lost_replies: tuple[Pair, ...] = ()
    published_again: tuple[Pair, ...] = ()
    unflagged: tuple[Pair, ...] = ()
    accepted_not_received: tuple[Pair, ...] = ()
    received_not_accepted: tuple[Pair, ...] = ()
    changed: tuple[Pair, ...] = ()
    strange: tuple[str, ...] = ()
    parked: int = 0
    queued: int = 0

    @property
    def disagreements(self) -> int:
        """Where the audit and the server tell different stories, and mails that nobody can have asked for."""
        found: Iterable[Sequence[object]] = (
            self.accepted_not_received,
            self.received_not_accepted,
            self.changed,
            self.strange,
        )
        return sum(map(len, found))

    @property
    def red(self) -> bool:
        """Whether anything happened that must never happen."""
        return bool(self.lost or self.unflagged or self.duplicated or self.disagreements)

    def offenders(self) -> tuple[Pair, ...]:
        """Every pair that is worth a story, the worst first."""
        groups = (self.lost, self.unflagged, self.duplicated, self.accepted_not_received, self.received_not_accepted)
        return tuple(dict.fromkeys(pair for group in (*groups, self.changed, self.published_again) for pair in group))


class _Books:
    """The evidence by pair."""

    def __init__(self, evidence: Evidence) -> None:
        by_message = {event.message_id: event for event in evidence.published.values()}
        self.pairs = [(event.id, r) for event in evidence.published.values() for r in event.recipients]
        known = set(self.pairs)
        self.copies: dict[Pair, list[Kept]] = defaultdict(list)
        self.strange: list[str] = []
        for mail in evidence.kept:
            event = by_message.get(mail.message_id)
            for recipient in mail.recipients:
                pair = (event.id if event else "", recipient)
                if pair in known:
                    self.copies[pair].append(mail)
                else:
                    self.strange.append(f"{mail.message_id} to {recipient}")
        self.outcomes: dict[Pair, set[str]] = defaultdict(set)
        self.flagged: set[Pair] = set()
        for record in evidence.records:
            pair = (str(record["event_id"]), str(record.get("recipient")))
            self.outcomes[pair].add(str(record["outcome"]))
            if record.get("possible_duplicate"):
                self.flagged.add(pair)
        self.queued = frozenset[str]().union(*evidence.queued.values())

    def ended(self, pair: Pair) -> bool:
        return bool(self.outcomes[pair] - UNDECIDED) or pair[0] in self.queued

    def told(self, pair: Pair) -> bool:
        """Whether the server said 250 to a copy of it."""
        return any(copy.replied for copy in self.copies[pair])


def judge(evidence: Evidence, *, window_s: float = WINDOW_S) -> Verdict:
    """Count; `window_s` is how long before a kill a reply may have been written without being noted."""
    books = _Books(evidence)
    twice = [pair for pair in books.pairs if len(books.copies[pair]) > 1]
    excused = {pair for pair in twice if _excused(books.copies[pair], evidence.kills, window_s)}
    again = [p for p in twice if p not in excused and evidence.published[p[0]].copies > 1]
    unended = [pair for pair in books.pairs if not books.ended(pair)]
    accepted = [pair for pair in books.pairs if Outcome.ACCEPTED in books.outcomes[pair]]
    return Verdict(
        lost=tuple(pair for pair in unended if not books.told(pair)),
        duplicated=tuple(pair for pair in twice if pair not in excused and pair not in again),
        published_again=tuple(again),
        lost_replies=tuple(pair for pair in twice if pair in excused),
        unflagged=tuple(pair for pair in twice if pair not in books.flagged),
        accepted_not_received=tuple(pair for pair in accepted if not books.copies[pair]),
        received_not_accepted=tuple(_received_not_accepted(books)),
        changed=tuple(p for p in twice if len({copy.content_hash for copy in books.copies[p]}) > 1),
        strange=tuple(books.strange),
        parked=sum(Outcome.PARKED in books.outcomes[pair] for pair in books.pairs),
        queued=len(books.queued),
    )


def _received_not_accepted(books: _Books) -> Iterable[Pair]:
    for pair in books.pairs:
        outcomes = books.outcomes[pair]
        open_still = pair[0] in books.queued or Outcome.IN_DOUBT in outcomes
        if books.told(pair) and Outcome.ACCEPTED not in outcomes and not open_still:
            yield pair


def _excused(copies: Sequence[Kept], kills: Sequence[Kill], window_s: float) -> bool:
    ordered = sorted(copies, key=lambda copy: copy.at)
    return all(not copy.replied or may_be_unread(copy, kills, window_s) for copy in ordered[:-1])


def may_be_unread(copy: Kept, kills: Sequence[Kill], window_s: float) -> bool:
    """Whether its reply was written within the window before the reader or the writer was killed."""
    return any(
        kill.what in (SINK, copy.ehlo) and kill.began - window_s <= copy.at <= kill.ended + _AFTERLIFE_S
        for kill in kills
    )
