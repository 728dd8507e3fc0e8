"""Sessions: opened at login, read with each request, ended by logout, by a change of password, or by time.

A session holds nothing but its user: role, scope and state are read with it, so a change counts at once.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action, ChangeType
from schemas.smtp_config import CONTROLLER
from worker.control.errors import NotFound
from worker.control.people import User, UserState
from worker.control.principals import Actor, Kind, Principal
from worker.store.directory import Deed, DirectoryPart, locked_user, sweep, tell
from worker.store.models_people import sessions, users
from worker.store.people_rows import digest_of, known_email, new_value, user_of
from worker.store.rows import scope_of

UNKNOWN = "unknown"
"""How the audit calls an address that nobody has, and whoever was not let in."""


class Sessions(DirectoryPart):
    """The part of `worker.control.ports.Directory` that is about sessions."""

    async def open_session(
        self, user_id: str, *, proven: str | None, expires_at: datetime, replaces: str | None, actor: Actor
    ) -> str:
        """Begin a session and return its value; see `worker.control.ports.Directory`."""
        value, now = new_value(), self._now()
        async with self.database.writing() as connection:
            # Held: whoever disables the user or changes the password now waits, and then finds this session to end.
            found = await locked_user(connection, user_id)
            if found is None or found.user.state is not UserState.ACTIVE:
                raise NotFound("user", "there is no active user of that id")
            if found.password_hash != proven:  # changed since it was read: what was proven is an old password
                raise NotFound("password", "is another one now")
            if replaces is not None:
                await connection.execute(delete(sessions).where(sessions.c.digest == digest_of(replaces)))
            await connection.execute(
                sessions.insert().values(
                    digest=digest_of(value), user_id=user_id, created_at=now, expires_at=expires_at
                )
            )
            await tell(connection, _deed(Action.OPENED, found.user), actor, now)
            await sweep(connection, sessions, sessions.c.digest, now)
        return value

    async def note_refused_login(self, email: str, origin: str | None) -> None:
        """Let the audit know that somebody was not let in, by the same statements whether there is such a user.

        An address that nobody has is not kept: it may be a password that was typed into the wrong field.
        """
        whose = select(users).where(users.c.email == (known_email(email) or ""))
        async with self.database.writing() as connection:
            row = (await connection.execute(whose)).mappings().one_or_none()
            scope, subject = (CONTROLLER, UNKNOWN) if row is None else (scope_of(row), row["email"])
            # Of the user's own scope, so that its admins see where from; whoever it was, it was not proven.
            actor = Actor(Kind.USER, UNKNOWN, scope, origin)
            await tell(connection, Deed(ChangeType.SESSION, Action.REFUSED, scope, subject), actor, self._now())

    async def principal_of_session(self, value: str) -> Principal | None:
        """Who it is, while the session has not expired and the user is active."""
        digest, now = digest_of(value), self._now()
        query = select(users, sessions.c.expires_at).join(sessions, sessions.c.user_id == users.c.id)
        async with self.database.reading() as connection:
            row = (await connection.execute(query.where(sessions.c.digest == digest))).mappings().one_or_none()
        if row is None:
            return None
        if row["expires_at"] <= now:
            await self._remove(digest)
            return None
        user = user_of(row)
        if user.state is not UserState.ACTIVE:
            return None
        return Principal(Kind.USER, user.id, user.email, user.scope, user.role)

    async def close_session(self, value: str, actor: Actor) -> None:
        """End it; nothing happens where there is none."""
        chosen = sessions.c.digest == digest_of(value)
        owner = select(users).join(sessions, sessions.c.user_id == users.c.id).where(chosen)
        async with self.database.writing() as connection:
            row = (await connection.execute(owner)).mappings().one_or_none()
            ended = (await connection.execute(delete(sessions).where(chosen))).rowcount
            if row is not None and ended:
                await tell(connection, _deed(Action.CLOSED, user_of(row)), actor, self._now())

    async def close_sessions_of(self, user_id: str, *, but: str | None = None) -> int:
        """End every session of the user but the one of that value; returns how many.

        The audit has it as the user's own deed: an admin's goes with a change of the user.
        """
        async with self.database.writing() as connection:
            found = await locked_user(connection, user_id)
            ended = await end_sessions(connection, user_id, but)
            if found is not None and ended:
                own = Actor(Kind.USER, found.user.email, found.user.scope)
                await tell(connection, _deed(Action.CLOSED, found.user), own, self._now())
        return ended

    async def _remove(self, digest: str) -> None:
        async with self.database.writing() as connection:
            await connection.execute(delete(sessions).where(sessions.c.digest == digest))


async def end_sessions(connection: AsyncConnection, user_id: str, but: str | None = None) -> int:
    """End the user's sessions but the one of that value, in the transaction of whatever is the reason."""
    chosen: ColumnElement[bool] = sessions.c.user_id == user_id
    if but is not None:
        chosen = and_(chosen, sessions.c.digest != digest_of(but))
    return (await connection.execute(delete(sessions).where(chosen))).rowcount


def _deed(action: Action, user: User) -> Deed:
    return Deed(ChangeType.SESSION, action, user.scope, user.email)
