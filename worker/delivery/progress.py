"""What an event carries from attempt to attempt, as message headers.

The body never changes, so its identity and its bytes don't; everything that was learned on the way
travels beside it. Anybody who may publish can write headers: what cannot be read is as if it were
not there, and a recipient that the event doesn't name is never believed.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

PREFIX = "x-postbote-"
ATTEMPT = "x-postbote-attempt"
CHARGED = "x-postbote-charged"
HOPS = "x-postbote-hops"
RESTING = "x-postbote-resting"
PENDING = "x-postbote-pending"
DOUBTFUL = "x-postbote-doubtful"
DOUBTFUL_BY = "x-postbote-doubtful-by"
HELD = "x-postbote-held"
HELD_REASON = "x-postbote-held-reason"
HELD_DETAIL = "x-postbote-held-detail"
FIRST_SEEN = "x-postbote-first-seen"
DUE = "x-postbote-due"
SUSPECT = "x-postbote-suspect"

# What brokers write on a message that they moved; it would grow with every round through a tier.
_BROKERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-opt-")
_MAX_COUNT = 1_000_000
_MAX_DETAIL_CHARS = 1000


class Progress(NamedTuple):  # each mail makes some, and a frozen dataclass takes three times as long
    """How far an event has come.

    attempt      tries made so far; every record of a try has its number
    charged      how many of them count: the place on the retry schedule
    hops         rests in a row that were no fault of the mail's (a cap, an open breaker)
    resting      the outcome recorded for the last such rest, so that it is said once
    pending      whom nothing final was said about; None: everybody
    doubtful     of these, who may have the mail already
    doubtful_by  the display name of the record whose server that is
    held         who waits for an operator, with the first one's reason and detail
    first_seen   when the event was first taken
    due          not to be tried before
    suspect      it was delivered before and nobody knows what came of that
    """

    attempt: int = 0
    charged: int = 0
    hops: int = 0
    resting: str = ""
    pending: tuple[str, ...] | None = None
    doubtful: tuple[str, ...] = ()
    doubtful_by: str = ""
    held: tuple[str, ...] = ()
    held_reason: str = ""
    held_detail: str = ""
    first_seen: datetime | None = None
    due: datetime | None = None
    suspect: bool = False

    def headers(self) -> dict[str, Any]:
        """The headers that `read_progress` reads; what is empty is left out."""
        written: dict[str, Any] = {
            ATTEMPT: self.attempt,
            CHARGED: self.charged,
            HOPS: self.hops,
            RESTING: self.resting,
            DOUBTFUL: list(self.doubtful),
            DOUBTFUL_BY: self.doubtful_by if self.doubtful else "",
            HELD: list(self.held),
            HELD_REASON: self.held_reason,
            HELD_DETAIL: self.held_detail[:_MAX_DETAIL_CHARS],
            FIRST_SEEN: self.first_seen.isoformat() if self.first_seen else "",
            DUE: self.due.isoformat() if self.due else "",
            SUSPECT: int(self.suspect),
        }
        kept = {name: value for name, value in written.items() if value}
        return kept if self.pending is None else {**kept, PENDING: list(self.pending)}


FRESH = Progress()


def read_progress(headers: Mapping[str, Any], recipients: Iterable[str]) -> Progress:
    """Read what the headers say of the event with these recipients; never raises."""
    if not any(name.startswith(PREFIX) for name in headers):
        return FRESH
    named = tuple(recipients)
    return Progress(
        attempt=_count(headers.get(ATTEMPT)),
        charged=_count(headers.get(CHARGED)),
        hops=_count(headers.get(HOPS)),
        resting=_text(headers.get(RESTING)),
        pending=_among(headers.get(PENDING), named) or None,  # nobody at all would be a mail lost in silence
        doubtful=_among(headers.get(DOUBTFUL), named),
        doubtful_by=_text(headers.get(DOUBTFUL_BY)),
        held=_among(headers.get(HELD), named),
        held_reason=_text(headers.get(HELD_REASON)),
        held_detail=_text(headers.get(HELD_DETAIL)),
        first_seen=_time(headers.get(FIRST_SEEN)),
        due=_time(headers.get(DUE)),
        suspect=bool(_count(headers.get(SUSPECT))),
    )


def carried(headers: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of the next message: the publisher's own and `progress`; the broker's are left out."""
    own = {name: value for name, value in headers.items() if not name.startswith((PREFIX, *_BROKERS))}
    return {**own, **progress}


def _count(value: object) -> int:
    return min(value, _MAX_COUNT) if isinstance(value, int) and value > 0 else 0


def _text(value: object) -> str:
    return value[:_MAX_DETAIL_CHARS] if isinstance(value, str) else ""


def _among(value: object, named: tuple[str, ...]) -> tuple[str, ...]:
    given = set(filter(lambda each: isinstance(each, str), value)) if isinstance(value, list) else set()
    return tuple(each for each in named if each in given)


def _time(value: object) -> datetime | None:
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return read if read is None or read.tzinfo is not None else None
