"""Events for tests, in the wire form."""

import itertools
import json
from datetime import UTC, datetime
from typing import Any

_NUMBERS = itertools.count(1)


def make_event(
    *to: str, id: str | None = None, type: str = "email.requested.v1", scope: dict[str, str] | None = None, **data: Any
) -> dict[str, Any]:
    """Build a structured CloudEvent of now; a mail in its own words unless `type` says otherwise."""
    words = (
        {"subject": "Hello", "text": "Hello there."} if type == "email.requested.v1" and "template" not in data else {}
    )
    return {
        "specversion": "1.0",
        "id": id or f"event-{next(_NUMBERS)}",
        "source": "/tests",
        "type": type,
        "time": datetime.now(UTC).isoformat(),
        "data": {"to": list(to), "scope": scope or {}, **words, **data},
    }


def mixed_events(count: int, prefix: str) -> list[dict[str, Any]]:
    """Build `count` valid events of several kinds, each to one recipient of its own."""
    url = "https://console.example.com/x"
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("email.requested.v1", {}),
        ("password.reset.v1", {"user_name": "Bob", "reset_url": url}),
        ("user.registered.v1", {"user_name": "Bob", "product": "Rail", "activation_url": url}),
        ("alert.raised.v1", {"alert_name": "CPU", "severity": "critical", "summary": "node 7 is hot"}),
        ("deployment.finished.v1", {"application": "shop", "environment": "prod", "status": "succeeded"}),
    ]
    chosen = itertools.islice(itertools.cycle(kinds), count)
    return [
        make_event(f"{prefix}-{n}@example.com", id=f"{prefix}-{n}", type=kind, **data)
        for n, (kind, data) in enumerate(chosen)
    ]


def body_of(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()
