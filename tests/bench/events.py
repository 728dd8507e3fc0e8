"""The events that every contender is given: 2 KB of JSON each, one recipient each.

The recipient's address is unique to the event, so that a sink counts mails, lost ones and second
copies by the envelope alone, whatever a contender does to the message.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIZE = 2048
_WORD = "Your deployment of the shop to production has finished and all its checks are green. "
_ROW = "<tr><td>check</td><td>green</td></tr>"


@dataclass(frozen=True)
class Batch:
    """Events of one run, as a file of one JSON document a line, and their recipients."""

    file: Path
    recipients: frozenset[str]

    def bodies(self) -> list[bytes]:
        """The events in the wire form."""
        return self.file.read_bytes().splitlines()


def write_batch(folder: Path, run: str, count: int) -> Batch:
    """Write `count` events of run `run` (a DNS label)."""
    file = folder / f"{run}.ndjson"
    events = [_event(run, number) for number in range(count)]
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    return Batch(file, frozenset(event["data"]["to"][0] for event in events))


def _event(run: str, number: int) -> dict[str, Any]:
    data = {
        "to": [f"r{number:06}@{run}.example.com"],
        "subject": f"Deployment {number} has finished",
        "text": "",
        "html": f"<html><body><p>{_WORD}</p><table>{_ROW * 8}</table></body></html>",
        "category": "bench",
    }
    event = {
        "specversion": "1.0",
        "id": f"{run}-{number:06}",
        "source": "/bench",
        "type": "email.requested.v1",
        "time": datetime.now(UTC).isoformat(),
        "data": data,
    }
    room = SIZE - len(json.dumps(event))
    data["text"] = _lines(room)
    return event


def _lines(room: int) -> str:
    # A line end takes two bytes of JSON.
    line = _WORD.strip()[:76]
    whole, rest = divmod(room, len(line) + 2)
    return f"{line}\n" * whole + "x" * rest
