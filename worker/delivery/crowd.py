"""Turning a flood away before it costs anything.

While some tenant has more mail waiting than its server keeps up with, its events go back to rest by a
look at their scope alone: nothing is parsed, looked up or recorded. That is what another tenant's
mail waits behind in the lane, so it is the one path where microseconds are somebody else's.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from schemas.audit import Outcome
from schemas.smtp_config import Scope
from worker.delivery.admission import CROWDED_HOPS
from worker.delivery.lines import Lines
from worker.delivery.ports import Incoming, Later
from worker.delivery.progress import FIRST_SEEN, HOPS, PREFIX, RESTING, SUSPECT
from worker.delivery.schedule import crowd_rest

# Beyond this a look costs as much as it saves.
_LARGE_BYTES = 64 * 1024
# So often an event goes the whole way although its tenant is crowded: to be recorded, to expire, to be given up.
_WHOLE_WAY_EVERY = 20


def turn_away(incoming: Incoming, lines: Lines, jitter: Callable[[], float]) -> Later | None:
    """Return the rest of an event whose tenant's line stands still, or None: it goes the whole way."""
    hops = incoming.headers.get(HOPS, 0)
    if not isinstance(hops, int) or not _cheap(incoming, hops):
        return None
    scope = _scope_of(incoming.body)
    refusal = None if scope is None else lines.refuse_early(scope, incoming.lane)
    if refusal is None:
        return None
    rest = crowd_rest(refusal.rest_s, jitter())
    own = {name: value for name, value in incoming.headers.items() if name.startswith(PREFIX)}
    seen = {FIRST_SEEN: own.get(FIRST_SEEN) or datetime.now(UTC).isoformat(), HOPS: hops + 1}
    suspect = {SUSPECT: 1} if incoming.redelivered else {}
    return Later(rest.tier, rest.wait_s, {**own, **seen, **suspect})


def _cheap(incoming: Incoming, hops: int) -> bool:
    """The first rests are short and need no record; later ones are cheap once it was recorded that it rests."""
    if len(incoming.body) > _LARGE_BYTES:
        return False
    recorded = incoming.headers.get(RESTING) == Outcome.THROTTLED.value
    return hops < CROWDED_HOPS or (recorded and hops % _WHOLE_WAY_EVERY != 0)


def _scope_of(body: bytes) -> Scope | None:
    """The scope as the body has it, structured or binary; None where only the parser can say what is wrong with it."""
    try:
        event = orjson.loads(body)
        data = event["data"] if "specversion" in event else event
        given = data.get("scope") or {}
        scope = Scope(given.get("partner"), given.get("org"))
    except (orjson.JSONDecodeError, TypeError, AttributeError, KeyError, ValueError):
        return None
    return scope if all(isinstance(each, str | None) for each in (scope.partner, scope.org)) else None
