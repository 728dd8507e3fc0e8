"""What the modules of people share: the database, the clock, and how a change is told.

A writer locks in one order, so that none waits for another in a circle: the scope, then the user, then
the user's sessions and links. SQLite has one writer at a time anyhow.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Table, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action, ChangedBy, ChangeRecord, ChangeType
from schemas.smtp_config import Scope
from worker.control.errors import Taken
from worker.control.people import Credentials
from worker.control.principals import Actor
from worker.store.database import Store
from worker.store.models_people import users
from worker.store.outgoing import post_record
from worker.store.people_rows import credentials_of, utc_now

_SWEPT_AT_ONCE = 100


class DirectoryPart:
    """One part of the directory: `now` is its clock, for what expires."""

    def __init__(self, database: Store, *, now: Callable[[], datetime] = utc_now) -> None:
        """Take the database, and another clock for tests."""
        self.database = database
        self._now = now

    def __repr__(self) -> str:
        """Name the database, without its password."""
        return f"{type(self).__name__}({self.database!r})"


@dataclass(frozen=True, slots=True)
class Deed:
    """What was done to whom, as the audit has it; `subject` is an address or a name."""

    type: ChangeType
    action: Action
    scope: Scope
    subject: str
    changed: tuple[str, ...] = ()


async def tell(connection: AsyncConnection, deed: Deed, actor: Actor, at: datetime) -> None:
    """Let the audit know of it once the transaction is committed."""
    record = ChangeRecord(
        timestamp=at,
        id=str(uuid.uuid4()),  # kept with the record: shipped twice, it is still one
        type=deed.type,
        action=deed.action,
        partner=deed.scope.partner,
        org=deed.scope.org,
        subject=deed.subject,
        changed=deed.changed,
        actor=ChangedBy(kind=actor.kind.value, name=actor.name, scope=str(actor.scope), origin=actor.origin),
    )
    await post_record(connection, record)


async def locked_user(connection: AsyncConnection, user_id: str) -> Credentials | None:
    """The user, held for this transaction."""
    query = select(users).where(users.c.id == user_id).with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else credentials_of(row)


async def sweep(connection: AsyncConnection, table: Table, key: Column[str], moment: datetime) -> None:
    """Remove some of what ended before `moment`: a bounded number, so that nobody waits for it."""
    # What another sweep holds is left to it; two that wait for each other's rows would end in an error.
    ended = select(key).where(table.c.expires_at <= moment).limit(_SWEPT_AT_ONCE).with_for_update(skip_locked=True)
    await connection.execute(delete(table).where(key.in_(ended)))


@contextmanager
def unique(path: str, message: str) -> Iterator[None]:
    """Raise Taken where the database finds the same one there already, also at this very moment."""
    try:
        yield
    except IntegrityError:
        raise Taken(path, message) from None
