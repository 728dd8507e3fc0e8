"""Three things that must agree: what was published, what the server kept, what the audit says.

The unit is a pair of event and recipient. A pair has ended where the audit holds a final record of
it, or where its event lies in a queue that has a name. What has not ended is lost, unless the server
answered 250 to it: then the audit is what is missing, and that is a disagreement.

A second copy is excused where nobody could know better: the reply to every earlier copy was withheld,
or stood unread in the worker's socket when the worker was killed, or was written so shortly before the
server was killed that it may never have been sent. Those are final replies that were lost, as the kernel
counts them. Apart from them are counted replies that had been read, by a worker that had a core for so few
milliseconds until it was killed that it cannot have noted them, and second mails of events that the
publisher had to publish again: two copies in two queues can be in two workers' hands at the same moment. Each
second mail must be flagged `possible_duplicate`, whatever its excuse.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from schemas.audit import Outcome
from tests.chaos.running import Run, ran_s

Pair = tuple[str, str]
"""(event id, recipient)."""

# These say that something else is still to come.
UNDECIDED = frozenset({Outcome.DEFERRED, Outcome.THROTTLED, Outcome.IN_DOUBT})
# A server that is killed has a mail in its log, and its reply on the way to its socket, for so long at most.
_SENDING_S = 0.3
# How long a worker may have run since a reply was sent that it has read and not noted, which is one callback: the
# clock of CPU time ticks in hundredths of a second.
WINDOW_S = 0.03
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
    """A mail that the server kept; `at` is CLOCK_MONOTONIC in seconds just before its reply.

    `link` names the connection, and its reply ends with octet `end` of what the server sent there.
    """

    message_id: str
    recipients: tuple[str, ...]
    at: float
    ehlo: str
    replied: bool
    content_hash: str = ""
    link: str = ""
    end: int = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """What was killed (`SINK`, or the name that a worker gives in EHLO, or a server), and when it was alive last.

    `began` is when it ran last, `ended` when the process was seen to be gone. `read`: how many octets a
    worker had read of each connection that it had open. `run`: its CPU time over time, see `pulse`.
    """

    what: str
    began: float
    ended: float
    read: Mapping[str, int] = field(default_factory=dict)
    run: Run = ()

    def ran_since(self, moment: float) -> float:
        """Seconds for which it had a core since then; where that was not sampled, all of them."""
        return min(ran_s(self.run, moment), max(0.0, self.began - moment))


class Excuse(IntEnum):
    """Why a mail that was answered with 250 may be sent again, the best excuse first."""

    WITHHELD = 1  # the server kept the mail and was ordered to say nothing
    UNREAD = 2
    UNSENT = 3
    NOT_NOTED = 4
    NONE = 5


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
    not_noted: tuple[Pair, ...] = ()
    published_again: tuple[Pair, ...] = ()
    unflagged: tuple[Pair, ...] = ()
    accepted_not_received: tuple[Pair, ...] = ()
    received_not_accepted: tuple[Pair, ...] = ()
    changed: tuple[Pair, ...] = ()
    strange: tuple[str, ...] = ()
    parked: int = 0
    queued: int = 0
    oldest_unread_s: float = 0.0
    oldest_not_noted_s: float = 0.0

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

    def offenders(self, most: int) -> tuple[Pair, ...]:
        """Pairs that are worth a story, the worst first, so many of each kind at most."""
        groups = (self.lost, self.unflagged, self.duplicated, self.accepted_not_received, self.received_not_accepted)
        every = (*groups, self.changed, self.published_again)
        return tuple(dict.fromkeys(pair for group in every for pair in group[:most]))


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
    """Count; `window_s` is how long a killed worker may have run since a reply was sent that it has not noted."""
    books = _Books(evidence)
    twice = [pair for pair in books.pairs if len(books.copies[pair]) > 1]
    excuses = {pair: _worst(books.copies[pair], evidence.kills, window_s) for pair in twice}
    bare = [pair for pair in twice if excuses[pair] is Excuse.NONE]
    unended = [pair for pair in books.pairs if not books.ended(pair)]
    accepted = [pair for pair in books.pairs if Outcome.ACCEPTED in books.outcomes[pair]]
    return Verdict(
        lost=tuple(pair for pair in unended if not books.told(pair)),
        duplicated=tuple(pair for pair in bare if evidence.published[pair[0]].copies == 1),
        published_again=tuple(pair for pair in bare if evidence.published[pair[0]].copies > 1),
        lost_replies=tuple(pair for pair in twice if excuses[pair] < Excuse.NOT_NOTED),
        not_noted=tuple(pair for pair in twice if excuses[pair] is Excuse.NOT_NOTED),
        unflagged=tuple(pair for pair in twice if pair not in books.flagged),
        accepted_not_received=tuple(pair for pair in accepted if not books.copies[pair]),
        received_not_accepted=tuple(_received_not_accepted(books)),
        changed=tuple(p for p in twice if len({copy.content_hash for copy in books.copies[p]}) > 1),
        strange=tuple(books.strange),
        parked=sum(Outcome.PARKED in books.outcomes[pair] for pair in books.pairs),
        queued=len(books.queued),
        oldest_unread_s=_oldest(books, evidence.kills, window_s, Excuse.UNREAD),
        oldest_not_noted_s=_oldest(books, evidence.kills, window_s, Excuse.NOT_NOTED),
    )


def _received_not_accepted(books: _Books) -> Iterable[Pair]:
    for pair in books.pairs:
        outcomes = books.outcomes[pair]
        open_still = pair[0] in books.queued or Outcome.IN_DOUBT in outcomes
        if books.told(pair) and Outcome.ACCEPTED not in outcomes and not open_still:
            yield pair


def _worst(copies: Sequence[Kept], kills: Sequence[Kill], window_s: float) -> Excuse:
    """The excuse of the earlier copy that has the worst; each of them needs one."""
    ordered = sorted(copies, key=lambda copy: copy.at)
    return max(excuse(copy, kills, window_s)[0] for copy in ordered[:-1])


def _oldest(books: _Books, kills: Sequence[Kill], window_s: float, wanted: Excuse) -> float:
    """The greatest age, at the kill, of a reply with that excuse that led to another mail, in seconds."""
    earlier = (sorted(copies, key=lambda copy: copy.at)[:-1] for copies in books.copies.values())
    found = (excuse(copy, kills, window_s) for copies in earlier for copy in copies)
    return max((max(0.0, age) for reason, age in found if reason is wanted), default=0.0)


def excuse(copy: Kept, kills: Sequence[Kill], window_s: float) -> tuple[Excuse, float]:
    """The best excuse for sending it once more, and how old its reply was at the kill, in seconds."""
    if not copy.replied:
        return Excuse.WITHHELD, 0.0
    return min(((_by_kill(copy, kill, window_s), kill.began - copy.at) for kill in kills), default=(Excuse.NONE, 0.0))


def _by_kill(copy: Kept, kill: Kill, window_s: float) -> Excuse:
    before_its_end = copy.at <= kill.ended + _AFTERLIFE_S
    if kill.what == SINK:
        return Excuse.UNSENT if before_its_end and copy.at >= kill.began - _SENDING_S else Excuse.NONE
    if kill.what != copy.ehlo or not before_its_end:
        return Excuse.NONE
    if copy.at >= kill.began or copy.end > kill.read.get(copy.link, copy.end):
        return Excuse.UNREAD
    return Excuse.NOT_NOTED if kill.ran_since(copy.at) <= window_s else Excuse.NONE
