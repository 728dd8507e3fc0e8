"""What a parked event carries: why, since when, how far it came, and what it was, as message headers."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from worker.delivery.ports import Incoming, Park
from worker.delivery.progress import ATTEMPT, FIRST_SEEN, PENDING, PREFIX, carried

REASON = "x-postbote-reason"
DETAIL = "x-postbote-detail"
LANE = "x-postbote-lane"
_MAX_DETAIL_CHARS = 1000


def parked_headers(incoming: Incoming, park: Park) -> dict[str, Any]:
    """Return the headers under which `incoming` is parked: the publisher's own, its progress, and why.

    A park without progress keeps that with which the event came.
    """
    progress = park.headers or progress_of(incoming.headers)
    attempt = progress.get(ATTEMPT)
    return {
        **carried(incoming.headers, progress),
        REASON: park.reason,
        DETAIL: park.detail[:_MAX_DETAIL_CHARS],
        PENDING: list(park.pending),
        FIRST_SEEN: progress.get(FIRST_SEEN) or datetime.now(UTC).isoformat(),
        LANE: incoming.lane.value,
        ATTEMPT: attempt if isinstance(attempt, int) else 0,
    }


def progress_of(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that carry progress, as they came."""
    return {name: value for name, value in headers.items() if name.startswith(PREFIX)}
