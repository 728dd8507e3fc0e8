"""A clock, scopes, users, and readers of what a change leaves to be told, shared by the tests of people."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.smtp_config import CONTROLLER, Scope
from worker.control.people import NewUser, User
from worker.control.principals import Actor, Kind, Role
from worker.store.outgoing import OutgoingKind, OutgoingShelf
from worker.store.people import PeopleStore

ACME = Scope("acme")
DEV = Scope("acme", "dev")
OTHER = Scope("umbrella")
TESTS = Actor(Kind.COMMAND, "tests", CONTROLLER)
HASH = "$argon2id$stands-for-a-hash"
OTHER_HASH = "$argon2id$stands-for-another-hash"


class Clock:
    """A time that stands until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def move(self, **by: float) -> None:
        self.time += timedelta(**by)


def new_user(email: str = "amara@acme.example", scope: Scope = ACME, role: Role = Role.ADMIN, **fields: Any) -> NewUser:
    return NewUser(**{"email": email, "name": "Amara", "scope": scope, "role": role, "password_hash": HASH, **fields})


async def add(people: PeopleStore, email: str = "amara@acme.example", *args: Any, **fields: Any) -> User:
    return await people.add_user(new_user(email, *args, **fields), TESTS)


async def session_of(people: PeopleStore, user: User, clock: Clock, hours: float = 12, **fields: Any) -> str:
    actor = Actor(Kind.USER, user.email, user.scope, "192.0.2.7")
    found = await people.credentials(user.email)
    proven = found.password_hash if found else None
    given = {
        "proven": proven,
        "expires_at": clock() + timedelta(hours=hours),
        "replaces": None,
        "actor": actor,
        **fields,
    }
    return await people.open_session(user.id, **given)


class Mailed:
    """A `MakeMail` that keeps the values of the links it was asked to mail."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def __call__(self, value: str) -> bytes:
        self.values.append(value)
        return b'{"mail":%d}' % len(self.values)

    def both(self, value: str) -> list[bytes]:
        return [self(value), self(value)]


async def told(people: PeopleStore, kind: OutgoingKind = OutgoingKind.AUDIT) -> list[dict[str, Any]]:
    """What waits to be told, as JSON; an audit record follows its id."""
    waiting = await OutgoingShelf(people.database).oldest(1000)
    bodies = [each.body for each in waiting if each.kind is kind]
    return [json.loads(body.partition(b" ")[2] if kind is OutgoingKind.AUDIT else body) for body in bodies]


async def deeds(people: PeopleStore) -> list[tuple[str, ...]]:
    """What the audit will have: type, action, subject, and the fields that changed."""
    return [(r["type"], r["action"], r["subject"], *r.get("changed", ())) for r in await told(people)]
