"""What a parked event carries: why, since when, and what it was, as message headers."""

from datetime import UTC, datetime
from typing import Any

from worker.delivery.ports import Incoming, Park

REASON = "x-postbote-reason"
DETAIL = "x-postbote-detail"
PENDING = "x-postbote-pending"
FIRST_SEEN = "x-postbote-first-seen"
LANE = "x-postbote-lane"
_MAX_DETAIL_CHARS = 1000


def parked_headers(incoming: Incoming, park: Park) -> dict[str, Any]:
    """Return the headers under which `incoming` is parked: its own, and the five above."""
    return {
        **incoming.headers,
        REASON: park.reason,
        DETAIL: park.detail[:_MAX_DETAIL_CHARS],
        PENDING: list(park.pending),
        FIRST_SEEN: incoming.headers.get(FIRST_SEEN) or datetime.now(UTC).isoformat(),
        LANE: incoming.lane.value,
    }
