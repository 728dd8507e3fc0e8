"""The SQLite file behind the embedded queue: its tables, and every statement, each in one transaction.

Plain synchronous code for one thread. A message is a row that is waiting, taken, or resting until
it is due; parking moves it to a table of its own, where it stays until an operator replays or drops
it. A row that is taken while nobody consumes the file was left behind by a process that died.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from worker.delivery.parked import ParkedMessage
from worker.delivery.ports import Incoming, Lane, Park
from worker.delivery.progress import PENDING, carried, read_progress

# As the broker's x-delivery-limit: what came back this often will not end by itself.
DELIVERY_LIMIT = 100
_BUSY_TIMEOUT_S = 30.0
_MAX_DETAIL_CHARS = 1000
_TABLES = (
    """CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        lane TEXT NOT NULL, body BLOB NOT NULL, content_type TEXT, headers TEXT NOT NULL, published_at TEXT NOT NULL,
        taken INTEGER NOT NULL DEFAULT 0,
        deliveries INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX IF NOT EXISTS messages_waiting ON messages (taken, lane, id)",
    """CREATE TABLE IF NOT EXISTS parked (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        lane TEXT NOT NULL, body BLOB NOT NULL, content_type TEXT, headers TEXT NOT NULL, first_seen TEXT NOT NULL,
        parked_at TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, pending TEXT NOT NULL)""",
)
# Each brings a file from the version of its place to the next one; PRAGMA user_version counts them.
_MIGRATIONS = (
    (
        *_TABLES,
        "ALTER TABLE messages ADD COLUMN due_at REAL",  # seconds since the epoch, of resting messages
        "CREATE INDEX messages_resting ON messages (due_at) WHERE taken = 2",
    ),
)
_WAITING, _TAKEN, _RESTING = 0, 1, 2  # the column `taken`
_COPIED = "lane, body, content_type"


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that a consumer holds; `failures` counts how often its handler has raised so far."""

    id: int
    failures: int
    incoming: Incoming


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A parked message, its number in the file, and when it was parked (UTC)."""

    id: int
    parked_at: datetime
    message: ParkedMessage


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
        self._migrate()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def version(self) -> int:
        """A number that changes with every commit of any other connection, and with no own one."""
        found: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        return found

    def add(self, lane: Lane, body: bytes, content_type: str | None, headers: str) -> None:
        """Store a message; `headers` is a JSON object."""
        self._db.execute(
            "INSERT INTO messages (lane, body, content_type, headers, published_at) VALUES (?, ?, ?, ?, ?)",
            (lane.value, body, content_type, headers, _now()),
        )

    def take(self, limit: int, choose: Chooser) -> list[Taken]:
        """Take what `choose` picks among the oldest `limit` waiting messages of each lane.

        Resting messages that are due by now wait first.
        """
        with _transaction(self._db):
            self._db.execute(
                "UPDATE messages SET taken = ?, due_at = NULL WHERE taken = ? AND due_at <= ?",
                (_WAITING, _RESTING, time.time()),
            )
            chosen = list(choose(self._waiting(Lane.TRANSACTIONAL, limit), self._waiting(Lane.BULK, limit)))
            return [self._take(message_id) for message_id in chosen]

    def delete(self, message_id: int) -> None:
        """Forget a message."""
        self._db.execute("DELETE FROM messages WHERE id = ?", (message_id,))

    def next_due(self) -> float | None:
        """When the next resting message is due, in seconds since the epoch; None where none rests."""
        found: float | None = self._db.execute(
            "SELECT min(due_at) FROM messages WHERE taken = ?", (_RESTING,)
        ).fetchone()[0]
        return found

    def again(self, message_id: int, headers: Mapping[str, Any], wait_s: float | None = None) -> None:
        """Publish a taken message anew with this progress, to rest for `wait_s` seconds first, if given.

        Like the broker's own round through a tier it is a new message: behind the others, and not redelivered.
        """
        state, due_at = (_WAITING, None) if wait_s is None else (_RESTING, time.time() + wait_s)
        with _transaction(self._db):
            self._db.execute(
                f"INSERT INTO messages ({_COPIED}, published_at, headers, taken, due_at)"  # noqa: S608 # names of columns
                f" SELECT {_COPIED}, published_at, ?, ?, ? FROM messages WHERE id = ?",
                (self._carried(message_id, headers), state, due_at, message_id),
            )
            self.delete(message_id)

    def release(self, message_id: int) -> None:
        """Let a message whose handler failed wait again, or park it where it came back too often."""
        with _transaction(self._db):
            self._db.execute("UPDATE messages SET taken = 0, failures = failures + 1 WHERE id = ?", (message_id,))
            self._park_worn_out()

    def release_all(self) -> int:
        """Let every taken message wait again; return how many there were."""
        with _transaction(self._db):
            released = self._db.execute("UPDATE messages SET taken = 0 WHERE taken = 1").rowcount
            self._park_worn_out()
            return released

    def park(self, message_id: int, park: Park) -> None:
        """Move a message to the parked ones; without progress of its own, the park keeps what the message has."""
        with _transaction(self._db):
            self._park(message_id, park)

    def counts(self) -> dict[str, int]:
        """How many wait in each lane, are taken, rest, are parked: by lane, ``taken``, ``resting``, ``parked``."""
        found = {lane.value: 0 for lane in Lane} | {"taken": 0, "resting": 0}
        rows = self._db.execute("SELECT taken, lane, count(*) AS n FROM messages GROUP BY taken, lane")
        for row in rows:
            found[{_TAKEN: "taken", _RESTING: "resting"}.get(row["taken"], row["lane"])] += row["n"]
        return found | {"parked": self._db.execute("SELECT count(*) FROM parked").fetchone()[0]}

    def parked(self, limit: int) -> list[ParkedRow]:
        """The newest parked messages, newest first."""
        return [_parked(row) for row in self._db.execute("SELECT * FROM parked ORDER BY id DESC LIMIT ?", (limit,))]

    def parked_after(self, parked_id: int) -> ParkedRow | None:
        """The oldest parked message beyond that number."""
        row = self._db.execute("SELECT * FROM parked WHERE id > ? ORDER BY id LIMIT 1", (parked_id,)).fetchone()
        return None if row is None else _parked(row)

    def replay(self, parked_id: int, lane: Lane, headers: str) -> bool:
        """Move a parked message to a lane, with these headers (a JSON object); False where it is gone."""
        with _transaction(self._db):
            moved = self._db.execute(
                f"INSERT INTO messages ({_COPIED}, published_at, headers)"  # noqa: S608 # names of columns
                " SELECT ?, body, content_type, ?, ? FROM parked WHERE id = ?",
                (lane.value, _now(), headers, parked_id),
            ).rowcount
            self.drop(parked_id)
            return bool(moved)

    def drop(self, parked_id: int) -> bool:
        """Forget a parked message; False where it is gone."""
        return bool(self._db.execute("DELETE FROM parked WHERE id = ?", (parked_id,)).rowcount)

    def _migrate(self) -> None:
        """Bring the file's tables up to date, also one that a version before the counting made."""
        if self._schema_version() == len(_MIGRATIONS):
            return
        with _transaction(self._db):
            for statement in (s for step in _MIGRATIONS[self._schema_version() :] for s in step):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _schema_version(self) -> int:
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise sqlite3.DatabaseError("a newer version of Postbote wrote it")
        return version

    def _carried(self, message_id: int, progress: Mapping[str, Any]) -> str:
        row = self._db.execute("SELECT headers FROM messages WHERE id = ?", (message_id,)).fetchone()
        return orjson.dumps(carried(orjson.loads(row["headers"]), progress)).decode()

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
        headers = self._carried(message_id, park.headers) if park.headers else None
        pending = orjson.dumps(park.pending).decode()
        self._db.execute(
            f"INSERT INTO parked ({_COPIED}, first_seen, headers, parked_at, reason, detail, pending)"  # noqa: S608 # names
            f" SELECT {_COPIED}, published_at, coalesce(?, headers), ?, ?, ?, ? FROM messages WHERE id = ?",
            (headers, _now(), park.reason, park.detail[:_MAX_DETAIL_CHARS], pending, message_id),
        )
        self.delete(message_id)

    def _park_worn_out(self) -> None:
        query = "SELECT id, headers FROM messages WHERE taken = 0 AND deliveries >= ?"
        for row in self._db.execute(query, (DELIVERY_LIMIT,)).fetchall():
            detail = f"was delivered {DELIVERY_LIMIT} times without an end"
            self._park(row["id"], parked_by_the_queue("delivery_limit", detail, orjson.loads(row["headers"])))


def parked_by_the_queue(reason: str, detail: str, headers: Mapping[str, Any]) -> Park:
    """Park an event that no handler decided about: its progress stays what it was."""
    pending = headers.get(PENDING)
    return Park(reason, detail, tuple(map(str, pending)) if isinstance(pending, list) else ())


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


def _parked(row: sqlite3.Row) -> ParkedRow:
    headers = orjson.loads(row["headers"])
    message = ParkedMessage(
        body=row["body"],
        content_type=row["content_type"],
        headers=headers,
        reason=row["reason"],
        detail=row["detail"],
        pending=tuple(orjson.loads(row["pending"])),
        lane=Lane(row["lane"]),
        first_seen=read_progress(headers, ()).first_seen or datetime.fromisoformat(row["first_seen"]),
    )
    return ParkedRow(row["id"], datetime.fromisoformat(row["parked_at"]), message)
