"""Bearer tokens: made once, read with each request, revoked or expired.

One that ended stays for a month, so that whoever asks why a client is refused still finds it.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, and_, or_, select, update

from schemas.audit_change import Action, ChangeType
from schemas.smtp_config import Scope
from worker.control.errors import Refused
from worker.control.people import Token
from worker.control.principals import Actor, Kind, Principal, Role
from worker.store.directory import Deed, DirectoryPart, sweep, tell
from worker.store.models_people import tokens
from worker.store.people_rows import TOKEN_PREFIX, digest_of, new_value, shown_name, token_of
from worker.store.rows import ScopeKey
from worker.store.statements import in_scope

_KEPT = timedelta(days=30)
_USED_EVERY = timedelta(minutes=1)  # how exactly the last use is known: a write for each request would cost more


class Tokens(DirectoryPart):
    """The part of `worker.control.ports.Directory` that is about tokens."""

    async def create_token(
        self, name: str, scope: Scope, role: Role, actor: Actor, *, expires_at: datetime | None
    ) -> tuple[Token, str]:
        """Make a token and return it with its value; raises Refused for its name or an end that is past."""
        value, now = TOKEN_PREFIX + new_value(), self._now()
        if expires_at is not None and expires_at <= now:
            raise Refused("expires_at", "lies in the past: expected a time to come")
        token = Token(str(uuid.uuid4()), shown_name(name), scope, role, now, actor.name, expires_at, None)
        made = tokens.insert().values(
            id=token.id,
            digest=digest_of(value),
            name=token.name,
            **ScopeKey.of(scope)._asdict(),
            role=role.value,
            created_at=now,
            created_by=token.created_by,
            expires_at=expires_at,
        )
        async with self.database.writing() as connection:
            await connection.execute(made)
            await tell(connection, _deed(Action.CREATED, token), actor, now)
            await sweep(connection, tokens, tokens.c.id, now - _KEPT)
        return token, value

    async def principal_of_token(self, value: str) -> Principal | None:
        """Who it is, while it has neither expired nor been revoked."""
        now = self._now()
        living = and_(tokens.c.revoked_at.is_(None), or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now))
        query = select(tokens).where(tokens.c.digest == digest_of(value), living)
        async with self.database.reading() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            return None
        await self._note_use(row, now)
        token = token_of(row)
        return Principal(Kind.TOKEN, token.id, token.name, token.scope, token.role)

    async def tokens(self, scope: Scope | None = None) -> Sequence[Token]:
        """The scope's own tokens that are not revoked, or everybody's; the oldest first."""
        query = select(tokens).where(tokens.c.revoked_at.is_(None))
        if scope is not None:
            query = query.where(in_scope(tokens, ScopeKey.of(scope)))
        async with self.database.reading() as connection:
            rows = (await connection.execute(query.order_by(tokens.c.created_at, tokens.c.id))).mappings().all()
        return [token_of(row) for row in rows]

    async def revoke_token(self, scope: Scope, token_id: str, actor: Actor) -> bool:
        """Revoke it; False where the scope has none of that id, or none that is not revoked already."""
        now = self._now()
        own = and_(in_scope(tokens, ScopeKey.of(scope)), tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
        # An end brings it to those that are swept some day.
        revoked = update(tokens).where(own).values(revoked_at=now, expires_at=now).returning(tokens)
        async with self.database.writing() as connection:
            row = (await connection.execute(revoked)).mappings().one_or_none()
            if row is not None:
                await tell(connection, _deed(Action.DELETED, token_of(row)), actor, now)
        return row is not None

    async def _note_use(self, row: RowMapping, now: datetime) -> None:
        due = now - _USED_EVERY
        if row["used_at"] is not None and row["used_at"] > due:
            return
        # Asked again in the statement: of many requests at once, one writes.
        unnoted = or_(tokens.c.used_at.is_(None), tokens.c.used_at <= due)
        async with self.database.writing() as connection:
            await connection.execute(update(tokens).where(tokens.c.id == row["id"], unnoted).values(used_at=now))


def _deed(action: Action, token: Token) -> Deed:
    return Deed(ChangeType.TOKEN, action, token.scope, token.name)
