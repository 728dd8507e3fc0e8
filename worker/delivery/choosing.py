"""Which record of the winning scope takes a mail: its default, or a fallback while that one does not work.

A mail goes on to the next record only where nothing of it can have reached a server: the record
before rested, or its host name, TLS or login turned out to be wrong, which shows before MAIL. Whoever
may have the mail already is sent it again by the same record or by none: another server would not
know the second copy for one, and might give it another Message-ID.
"""

from dataclasses import dataclass

from schemas.event import EmailEvent
from schemas.smtp_config import SmtpConfig
from worker.delivery.attempts import Attempts, Finished
from worker.delivery.breakers import BreakerKey, Breakers
from worker.delivery.progress import Progress
from worker.delivery.resolution import Resolved
from worker.message import ConfigFaultReason, choose_sender


@dataclass(frozen=True, slots=True)
class Resting:
    """The record's breaker let nothing through; `reason` is the rule that opened it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The record turned out not to work; whoever is left was named to no server, and is not recorded yet."""

    attempts: Attempts
    finished: Finished

    @property
    def reason(self) -> str:
        """The rule that says what is wrong with it."""
        return self.finished.broken[0].verdict.rule


Stuck = Resting | Broken
"""Why a record did not take a mail that another one may take."""


def in_turn(found: Resolved, progress: Progress) -> tuple[SmtpConfig, tuple[SmtpConfig, ...]]:
    """The record to begin with, and those that may follow it."""
    if not found.fallbacks:
        return found.config, ()
    if progress.pending is not None and not set(progress.pending).isdisjoint(progress.doubtful):
        named = (each for each in found.fallbacks if each.display_name == progress.doubtful_by)
        return next(named, found.config), ()
    return found.config, found.fallbacks


def stands_in(fallback: SmtpConfig, event: EmailEvent, breakers: Breakers, now: float) -> bool:
    """Whether a fallback may take the event now (`now`: seconds since the epoch): it works, and has a From for it."""
    if breakers.rests(BreakerKey.of(fallback), now) is not None:
        return False
    return not isinstance(choose_sender(event, fallback), ConfigFaultReason)


def untouched(finished: Finished) -> bool:
    """Whether everybody who is left waits for the record alone, and was in doubt at no time."""
    if not finished.broken or finished.waiting or finished.doubtful or finished.held or finished.interrupted:
        return False
    return finished.in_doubt_before.isdisjoint(one.recipient for one in finished.broken)
