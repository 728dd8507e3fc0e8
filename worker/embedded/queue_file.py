"""The SQLite file behind the embedded queue: its tables, and every statement, each in one transaction.

Plain synchronous code for one thread. A message is a row that is waiting or taken; parking moves
it to a table of its own, which nothing here ever empties. A row that is taken while nobody
consumes the file was left behind by a process that died.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from worker.delivery.ports import Incoming, Lane, Park

# As the broker's x-delivery-limit: what came back this often will not end by itself.
DELIVERY_LIMIT = 100
_BUSY_TIMEOUT_S = 30.0
_MAX_DETAIL_CHARS = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL, body BLOB NOT NULL, content_type TEXT, headers TEXT NOT NULL, published_at TEXT NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0, deliveries INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS messages_waiting ON messages (taken, lane, id);
CREATE TABLE IF NOT EXISTS parked (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL, body BLOB NOT NULL, content_type TEXT, headers TEXT NOT NULL,
    first_seen TEXT NOT NULL, parked_at TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, pending TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that a consumer holds; `failures` counts how often its handler has raised so far."""

    id: int
    failures: int
    incoming: Incoming


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """A message that was set aside, whole, with the reason; times are UTC."""

    id: int
    lane: Lane
    reason: str
    detail: str
    pending: tuple[str, ...]
    first_seen: datetime
    parked_at: datetime
    body: bytes
    content_type: str | None
    headers: Mapping[str, Any]


Chooser = Callable[[Sequence[int], Sequence[int]], Iterable[int]]
"""Picks ids out of the waiting transactional and bulk ones, in the order of delivery."""


class QueueFile:
    """One connection to the file. Every method may raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        """Open the file, made where it is missing; raises OSError where that is not allowed."""
        # Mail is private. SQLite gives its -wal and -shm files the mode of the file itself.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        # FULL: in WAL mode, NORMAL loses the last commits with the power, and "published" means durable.
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def version(self) -> int:
        """A number that changes with every commit of any other connection, and with no own one."""
        found: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        return found

    def add(self, lane: Lane, body: bytes, content_type: str, headers: str) -> None:
        """Store a message; `headers` is a JSON object."""
        self._db.execute(
            "INSERT INTO messages (lane, body, content_type, headers, published_at) VALUES (?, ?, ?, ?, ?)",
            (lane.value, body, content_type, headers, _now()),
        )

    def take(self, limit: int, choose: Chooser) -> list[Taken]:
        """Take what `choose` picks among the oldest `limit` waiting messages of each lane."""
        with _transaction(self._db):
            chosen = list(choose(self._waiting(Lane.TRANSACTIONAL, limit), self._waiting(Lane.BULK, limit)))
            return [self._take(message_id) for message_id in chosen]

    def delete(self, message_id: int) -> None:
        """Forget a message."""
        self._db.execute("DELETE FROM messages WHERE id = ?", (message_id,))

    def release(self, message_id: int, *, failed: bool) -> None:
        """Let a taken message wait again, or park it where it came back too often."""
        with _transaction(self._db):
            self._db.execute(
                "UPDATE messages SET taken = 0, failures = failures + ? WHERE id = ?", (failed, message_id)
            )
            self._park_worn_out()

    def release_all(self) -> int:
        """Let every taken message wait again; return how many there were."""
        with _transaction(self._db):
            released = self._db.execute("UPDATE messages SET taken = 0 WHERE taken = 1").rowcount
            self._park_worn_out()
            return released

    def park(self, message_id: int, park: Park) -> None:
        """Move a message to the parked ones."""
        with _transaction(self._db):
            self._park(message_id, park)

    def counts(self) -> dict[str, int]:
        """How many wait in each lane, are taken, are parked; keyed by the lane, ``taken``, ``parked``."""
        found = {lane.value: 0 for lane in Lane} | {"taken": 0}
        rows = self._db.execute("SELECT taken, lane, count(*) AS n FROM messages GROUP BY taken, lane")
        for row in rows:
            found["taken" if row["taken"] else row["lane"]] += row["n"]
        return found | {"parked": self._db.execute("SELECT count(*) FROM parked").fetchone()[0]}

    def parked(self, limit: int) -> list[ParkedMessage]:
        """The newest parked messages, newest first."""
        return [_parked(row) for row in self._db.execute("SELECT * FROM parked ORDER BY id DESC LIMIT ?", (limit,))]

    def _waiting(self, lane: Lane, limit: int) -> list[int]:
        query = "SELECT id FROM messages WHERE taken = 0 AND lane = ? ORDER BY id LIMIT ?"
        return [row["id"] for row in self._db.execute(query, (lane.value, limit))]

    def _take(self, message_id: int) -> Taken:
        row = self._db.execute(
            "UPDATE messages SET taken = 1, deliveries = deliveries + 1 WHERE id = ? RETURNING *", (message_id,)
        ).fetchone()
        incoming = Incoming(
            body=row["body"],
            content_type=row["content_type"],
            headers=orjson.loads(row["headers"]),
            lane=Lane(row["lane"]),
            redelivered=row["deliveries"] > 1,
        )
        return Taken(row["id"], row["failures"], incoming)

    def _park(self, message_id: int, park: Park) -> None:
        self._db.execute(
            "INSERT INTO parked (lane, body, content_type, headers, first_seen, parked_at, reason, detail, pending)"
            " SELECT lane, body, content_type, headers, published_at, ?, ?, ?, ? FROM messages WHERE id = ?",
            (_now(), park.reason, park.detail[:_MAX_DETAIL_CHARS], orjson.dumps(park.pending).decode(), message_id),
        )
        self.delete(message_id)

    def _park_worn_out(self) -> None:
        query = "SELECT id FROM messages WHERE taken = 0 AND deliveries >= ?"
        for row in self._db.execute(query, (DELIVERY_LIMIT,)).fetchall():
            self._park(row["id"], Park("delivery_limit", f"was delivered {DELIVERY_LIMIT} times without an end"))


class _transaction:  # noqa: N801 - used as a function, like contextlib's own
    """BEGIN IMMEDIATE around a block: the write lock is waited for here, never refused half-way."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _parked(row: sqlite3.Row) -> ParkedMessage:
    return ParkedMessage(
        id=row["id"],
        lane=Lane(row["lane"]),
        reason=row["reason"],
        detail=row["detail"],
        pending=tuple(orjson.loads(row["pending"])),
        first_seen=datetime.fromisoformat(row["first_seen"]),
        parked_at=datetime.fromisoformat(row["parked_at"]),
        body=row["body"],
        content_type=row["content_type"],
        headers=orjson.loads(row["headers"]),
    )
