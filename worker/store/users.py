"""Users: made, changed, and their passwords' hashes."""

import uuid
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.audit_change import Action, ChangeType
from schemas.smtp_config import CONTROLLER, Scope
from worker.control.errors import NotFound, Refused
from worker.control.people import Credentials, NewUser, Purpose, User, UserState
from worker.control.ports import MakeMail
from worker.control.principals import Actor, Role
from worker.store.directory import Deed, DirectoryPart, locked_user, tell, unique
from worker.store.links import end_links, make_link
from worker.store.models_people import users
from worker.store.outgoing import post_event
from worker.store.people_rows import credentials_of, known_email, shown_name, stored_email, user_of
from worker.store.rows import ScopeKey
from worker.store.sessions import end_sessions
from worker.store.statements import in_scope, lock_scope


class Users(DirectoryPart):
    """The part of `worker.control.ports.Directory` that is about users."""

    async def credentials(self, email: str) -> Credentials | None:
        """The user of this address, in any case of its letters."""
        address = known_email(email)
        if address is None:
            return None
        async with self.database.reading() as connection:
            found = await connection.execute(select(users).where(users.c.email == address))
        row = found.mappings().one_or_none()
        return None if row is None else credentials_of(row)

    async def users(self, scope: Scope | None = None) -> Sequence[User]:
        """The scope's own users by address, or everybody."""
        query = select(users).order_by(users.c.email)
        if scope is not None:
            query = query.where(in_scope(users, ScopeKey.of(scope)))
        async with self.database.reading() as connection:
            return [user_of(row) for row in (await connection.execute(query)).mappings()]

    async def user(self, scope: Scope, user_id: str) -> User | None:
        """One of them."""
        query = select(users).where(in_scope(users, ScopeKey.of(scope)), users.c.id == user_id)
        async with self.database.reading() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else user_of(row)

    async def any_user(self) -> bool:
        """Whether there is one at all."""
        async with self.database.reading() as connection:
            return (await connection.execute(select(users.c.id).limit(1))).first() is not None

    async def add_user(self, new: NewUser, actor: Actor, *, mail: MakeMail | None = None) -> User:
        """Make a user; with `mail`, a link to set the password goes out with it. Raises Taken, Refused."""
        async with self.database.writing() as connection:
            return await insert_user(connection, new, actor, self._now(), mail)

    async def add_first_admin(self, new: NewUser, actor: Actor) -> User | None:
        """Make the controller's first admin; None where it has one, also if made at this very moment."""
        first = replace(new, scope=CONTROLLER, role=Role.ADMIN)
        async with self.database.writing() as connection:
            await lock_scope(connection, ScopeKey.of(CONTROLLER))
            if await _count_admins(connection, CONTROLLER):
                return None
            return await insert_user(connection, first, actor, self._now(), None)

    async def change_user(
        self, scope: Scope, user_id: str, actor: Actor, *, role: Role | None = None, state: UserState | None = None
    ) -> User:
        """Change one; a disabled one's sessions end. Raises NotFound, and Refused for a scope's last active admin."""
        now = self._now()
        async with self.database.writing() as connection:
            await lock_scope(connection, ScopeKey.of(scope))  # two that disable each other stand in a line here
            before = await locked_user(connection, user_id)
            if before is None or before.user.scope != scope:
                raise NotFound("user", f"{scope} has no user of that id")
            after = _changed(before, role, state)
            if after == before.user:
                return after
            await _keep_an_admin(connection, before.user, after)
            values = {"role": after.role.value, "state": after.state.value, "updated_at": now}
            await connection.execute(update(users).where(users.c.id == user_id).values(**values))
            if after.state is UserState.DISABLED:
                await end_sessions(connection, user_id)
                await end_links(connection, user_id)
            await tell(connection, _deed(Action.UPDATED, after, _differing(before.user, after)), actor, now)
        return after

    async def set_password(
        self, user_id: str, password_hash: str, actor: Actor, *, but: str | None = None, proven: str | None = None
    ) -> None:
        """Set it; an invited user becomes active, a disabled one stays disabled.

        Links end, and every session but the one of the value `but`. Raises NotFound, and Refused where the
        stored hash is no longer `proven`, of those who had to prove the old password.
        """
        now = self._now()
        async with self.database.writing() as connection:
            found = await locked_user(connection, user_id)
            if found is None:
                raise NotFound("user", "there is no user of that id")
            if proven is not None and found.password_hash != proven:
                raise Refused("current", "was changed in the meantime: try again with the password as it is now")
            after = found.user
            if after.state is UserState.INVITED:
                after = replace(after, state=UserState.ACTIVE)
            values = {"password_hash": password_hash, "state": after.state.value, "updated_at": now}
            await connection.execute(update(users).where(users.c.id == user_id).values(**values))
            await end_sessions(connection, user_id, but)
            await end_links(connection, user_id)
            changed = ("password", *_differing(found.user, after))
            await tell(connection, _deed(Action.UPDATED, after, changed), actor, now)

    async def rehash_password(self, user_id: str, old_hash: str, new_hash: str) -> None:
        """Keep the same password under `new_hash`, unless it is no longer `old_hash`; nothing else changes."""
        same = update(users).where(users.c.id == user_id, users.c.password_hash == old_hash)
        async with self.database.writing() as connection:
            await connection.execute(same.values(password_hash=new_hash))


async def insert_user(
    connection: AsyncConnection, new: NewUser, actor: Actor, now: datetime, mail: MakeMail | None, path: str = "email"
) -> User:
    """Make a user, and its link where there is a mail to carry it; `path` names the address in errors."""
    state = UserState.INVITED if new.password_hash is None else UserState.ACTIVE
    name = None if new.name is None else shown_name(new.name)
    user = User(str(uuid.uuid4()), stored_email(new.email, path), name, new.scope, new.role, state, now)
    values = {"id": user.id, "email": user.email, "name": user.name, "role": user.role.value, "state": state.value}
    made = users.insert().values(
        **values,
        **ScopeKey.of(user.scope)._asdict(),
        password_hash=new.password_hash,
        created_at=now,
        updated_at=now,
    )
    with unique(path, "another user has this address"):
        await connection.execute(made)
    if mail is not None:
        await post_event(connection, mail(await make_link(connection, user.id, Purpose.SET_PASSWORD, now)))
    await tell(connection, _deed(Action.CREATED, user), actor, now)
    return user


def _changed(before: Credentials, role: Role | None, state: UserState | None) -> User:
    if state is UserState.INVITED and before.user.state is not UserState.INVITED:
        raise Refused("state", "expected active or disabled: invited is who never had a password")
    if state is UserState.ACTIVE and before.password_hash is None:
        state = UserState.INVITED  # still has to set the first password
    return replace(before.user, role=role or before.user.role, state=state or before.user.state)


async def _keep_an_admin(connection: AsyncConnection, before: User, after: User) -> None:
    """Raise Refused where the scope's last active admin would be none any more; the caller holds the scope."""
    if not _is_active_admin(before) or _is_active_admin(after) or await _count_admins(connection, before.scope) > 1:
        return
    path = "role" if after.role is not before.role else "state"
    raise Refused(path, f"this is the last active admin of {before.scope}: make another one first")


def _is_active_admin(user: User) -> bool:
    return user.role is Role.ADMIN and user.state is UserState.ACTIVE


async def _count_admins(connection: AsyncConnection, scope: Scope) -> int:
    query = (
        select(func.count())
        .select_from(users)
        .where(
            in_scope(users, ScopeKey.of(scope)),
            users.c.role == Role.ADMIN.value,
            users.c.state == UserState.ACTIVE.value,
        )
    )
    return int((await connection.execute(query)).scalar_one())


def _differing(before: User, after: User) -> tuple[str, ...]:
    names = (field.name for field in fields(User))
    return tuple(name for name in names if getattr(before, name) != getattr(after, name))


def _deed(action: Action, user: User, changed: tuple[str, ...] = ()) -> Deed:
    return Deed(ChangeType.USER, action, user.scope, user.email, changed)
