"""One-time links: sent by mail, used once, and ended by time, by a newer one, or by a change of password."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action, ChangeType
from schemas.smtp_config import Scope
from worker.control.errors import NotFound, Refused, Taken
from worker.control.people import Link, Purpose, User, UserState
from worker.control.principals import Actor, Kind
from worker.store.directory import Deed, DirectoryPart, locked_user, sweep, tell, unique
from worker.store.models_people import links, users
from worker.store.outgoing import post_event
from worker.store.people_rows import digest_of, new_value, stored_email, user_of
from worker.store.sessions import end_sessions

_GONE = "this link was used, has expired, or never was: ask for a new one"
_EMAIL_TAKEN = "another user has this address"


class Links(DirectoryPart):
    """The part of `worker.control.ports.Directory` that is about one-time links."""

    async def ask_for_email(
        self, scope: Scope, user_id: str, email: str, actor: Actor, mails: Callable[[str], Sequence[bytes]]
    ) -> None:
        """Send the mails of a change of address, which only the link in them makes effective."""
        address, now = stored_email(email), self._now()
        async with self.database.writing() as connection:
            found = await locked_user(connection, user_id)
            if found is None or found.user.scope != scope:
                raise NotFound("user", f"{scope} has no user of that id")
            if found.user.state is UserState.DISABLED:
                raise Refused("state", "the user is disabled: enable the user first")
            if (await connection.execute(select(users.c.id).where(users.c.email == address))).first():
                raise Taken("email", _EMAIL_TAKEN)
            value = await make_link(connection, user_id, Purpose.CONFIRM_EMAIL, now, email=address)
            for event in mails(value):
                await post_event(connection, event)
            deed = Deed(ChangeType.USER, Action.UPDATED, scope, found.user.email, ("requested_email",))
            await tell(connection, deed, actor, now)

    async def link(self, value: str) -> Link | None:
        """What the link leads to, while it can be used."""
        query = select(users, *_COLUMNS).join(links, links.c.user_id == users.c.id).where(_usable(value, self._now()))
        async with self.database.reading() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        return Link(Purpose(row["purpose"]), user_of(row), row["new_email"], row["expires_at"])

    async def use_link(self, value: str, purpose: Purpose, *, password_hash: str | None, origin: str | None) -> User:
        """Use it up: set the password or the address; raises NotFound where it was used, expired or never was."""
        now = self._now()
        async with self.database.writing() as connection:
            user, email = await _take(connection, value, purpose, now)
            match purpose:
                case Purpose.SET_PASSWORD if password_hash is None:
                    raise Refused("password", "is missing")
                case Purpose.SET_PASSWORD:
                    changed, after = ("password",), replace(user, state=UserState.ACTIVE)
                    await end_sessions(connection, user.id)
                case Purpose.CONFIRM_EMAIL:
                    changed, after, password_hash = ("email",), replace(user, email=email or user.email), None
            await _write(connection, after, password_hash, now)
            # Whoever reads the old mailbox must not have a way in left; nor who asked before the password changed.
            await end_links(connection, user.id)
            actor = Actor(Kind.USER, user.email, user.scope, origin)
            await tell(connection, Deed(ChangeType.USER, Action.UPDATED, user.scope, after.email, changed), actor, now)
        return after


_COLUMNS = (links.c.purpose, links.c.email.label("new_email"), links.c.expires_at)


async def make_link(
    connection: AsyncConnection, user_id: str, purpose: Purpose, now: datetime, *, email: str | None = None
) -> str:
    """Make the user's link of this purpose and return its value; an older one ends. The caller holds the user."""
    value = new_value()
    await connection.execute(delete(links).where(links.c.user_id == user_id, links.c.purpose == purpose.value))
    await connection.execute(
        links.insert().values(
            digest=digest_of(value),
            user_id=user_id,
            purpose=purpose.value,
            email=email,
            expires_at=now + purpose.lifetime,
        )
    )
    await sweep(connection, links, links.c.digest, now)
    return value


async def end_links(connection: AsyncConnection, user_id: str) -> None:
    """End every link of the user."""
    await connection.execute(delete(links).where(links.c.user_id == user_id))


def _usable(value: str, now: datetime) -> ColumnElement[bool]:
    # No state of its own for a disabled user: disabling ends the links. Looked at all the same, since it is the door.
    open_to = users.c.state != UserState.DISABLED.value
    return and_(links.c.digest == digest_of(value), links.c.expires_at > now, open_to)


async def _take(connection: AsyncConnection, value: str, purpose: Purpose, now: datetime) -> tuple[User, str | None]:
    """The link's user and address, the link deleted; of two that take it at once, one gets it."""
    owner = select(users.c.id).join(links, links.c.user_id == users.c.id).where(_usable(value, now))
    user_id = (await connection.execute(owner)).scalar_one_or_none()
    held = None if user_id is None else await locked_user(connection, user_id)
    taken = delete(links).where(links.c.digest == digest_of(value), links.c.purpose == purpose.value)
    row = (await connection.execute(taken.returning(links.c.email))).first()
    if held is None or row is None or held.user.state is UserState.DISABLED:
        raise NotFound("link", _GONE)
    return held.user, row[0]


async def _write(connection: AsyncConnection, after: User, password_hash: str | None, now: datetime) -> None:
    values = {"email": after.email, "state": after.state.value, "updated_at": now}
    if password_hash is not None:
        values["password_hash"] = password_hash
    with unique("email", _EMAIL_TAKEN):
        await connection.execute(update(users).where(users.c.id == after.id).values(**values))
