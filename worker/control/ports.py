"""What the control plane needs of its store; `worker.store` fulfils both protocols.

Every method may raise StoreUnavailable, every change one of `worker.control.errors`. A change, its
audit record, what the workers have to hear and the mail it sends are stored in one transaction
(see `worker.store.outgoing`): whichever is there, all are.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from schemas.smtp_config import Scope, SmtpConfig
from worker.control.people import Credentials, Link, NewUser, Organization, Partner, Purpose, Token, User, UserState
from worker.control.principals import Actor, Principal, Role
from worker.control.records import Draft, HistoryEntry, StoredRecord, StoredSecret
from worker.delivery.ports import ScopedConfigs

MakeMail = Callable[[str], bytes]
"""Makes the CloudEvent (structured JSON) of a mail that carries a one-time link, given the link's token."""


class Records(Protocol):
    """SMTP records, their history, and secrets. `expected`: the version that the asker read (0: none); None: any."""

    async def records(self, scope: Scope) -> Sequence[StoredRecord]:
        """The scope's records: the default first, then the fallbacks in their order, then by age."""
        ...

    async def record(self, scope: Scope, name: str) -> StoredRecord | None:
        """One of them."""
        ...

    async def opened(self, scope: Scope, name: str) -> SmtpConfig | None:
        """One of them with its secrets; raises SecretUnreadable."""
        ...

    async def configs_for(self, scope: Scope) -> ScopedConfigs:
        """What the workers read; see `worker.delivery.ports.ConfigSource`."""
        ...

    async def drafted(self, draft: Draft) -> SmtpConfig:
        """What `save` would store, with its secrets, and nothing stored: for a test before. Same errors."""
        ...

    async def save(
        self, draft: Draft, actor: Actor, *, expected: int | None = None, create: bool = False
    ) -> StoredRecord:
        """Store the whole record under its next version.

        `create`: raises Taken where the name is there. Raises Stale, PasswordNeeded, NotFound (a secret that
        is not there or not shared), and pydantic's ValidationError where the fields break a rule.
        """
        ...

    async def remove(self, scope: Scope, name: str, actor: Actor, *, expected: int | None = None) -> bool:
        """Delete the record, its own password with it; False where there is none. Raises Stale."""
        ...

    async def history(self, scope: Scope, name: str) -> Sequence[HistoryEntry]:
        """Every version, newest first; also of a record that was deleted."""
        ...

    async def roll_back(
        self, scope: Scope, name: str, version: int, actor: Actor, *, expected: int | None = None
    ) -> StoredRecord:
        """Store what `version` was as the next version; raises NotFound, Stale, PasswordNeeded."""
        ...

    async def order(self, scope: Scope, names: Sequence[str], actor: Actor) -> Sequence[StoredRecord]:
        """Make the first name the default and the others its fallbacks, in this order; the rest is not used.

        Raises NotFound for a name that is not there, Refused for one that stands twice.
        """
        ...

    async def org_feature(self, scope: Scope) -> bool:
        """Whether the org's own records count."""
        ...

    async def secrets(self, scope: Scope) -> Sequence[StoredSecret]:
        """The scope's own secrets by name, without those that were given with a record."""
        ...

    async def create_secret(self, scope: Scope, name: str, value: str, actor: Actor, *, shared: bool) -> StoredSecret:
        """Store it sealed; raises Taken, and Refused for a name that begins with ``config:``."""
        ...

    async def rotate_secret(self, scope: Scope, name: str, value: str, actor: Actor) -> StoredSecret:
        """Replace its value; each record that uses it gets its next version. Raises NotFound."""
        ...

    async def delete_secret(self, scope: Scope, name: str, actor: Actor) -> None:
        """Delete it; raises NotFound, or InUse naming the records of its own scope and the count of others."""
        ...


class Directory(Protocol):
    """Who there is: partners, organizations, users, sessions, tokens, one-time links.

    Values of sessions, tokens and links are returned once, when they are made, and stored as a digest.
    """

    async def credentials(self, email: str) -> Credentials | None:
        """The user of this address, in any case of its letters."""
        ...

    async def open_session(
        self, user_id: str, *, proven: str | None, expires_at: datetime, replaces: str | None, actor: Actor
    ) -> str:
        """Begin a session and return its value; the session whose value is `replaces` ends.

        `proven`: the hash that the password was found to fit. Raises NotFound where it is the user's no longer, or
        the user is not active.
        """
        ...

    async def note_refused_login(self, email: str, origin: str | None) -> None:
        """Let the audit know that somebody was not let in; an address that nobody has is not kept."""
        ...

    async def principal_of_session(self, value: str) -> Principal | None:
        """Who it is, while the session has not expired and the user is active."""
        ...

    async def close_session(self, value: str, actor: Actor) -> None:
        """End it; nothing happens where there is none."""
        ...

    async def close_sessions_of(self, user_id: str, *, but: str | None = None) -> int:
        """End every session of the user but the one of that value; returns how many."""
        ...

    async def create_token(
        self, name: str, scope: Scope, role: Role, actor: Actor, *, expires_at: datetime | None
    ) -> tuple[Token, str]:
        """Make a token and return it with its value."""
        ...

    async def principal_of_token(self, value: str) -> Principal | None:
        """Who it is, while it has neither expired nor been revoked."""
        ...

    async def tokens(self, scope: Scope) -> Sequence[Token]:
        """The scope's own tokens that are not revoked."""
        ...

    async def revoke_token(self, scope: Scope, token_id: str, actor: Actor) -> bool:
        """Revoke it; False where the scope has none of that id."""
        ...

    async def users(self, scope: Scope) -> Sequence[User]:
        """The scope's own users by address."""
        ...

    async def user(self, scope: Scope, user_id: str) -> User | None:
        """One of them."""
        ...

    async def add_user(self, new: NewUser, actor: Actor, *, mail: MakeMail | None = None) -> User:
        """Make a user; with `mail`, a link to set the password goes out with it. Raises Taken."""
        ...

    async def change_user(
        self, scope: Scope, user_id: str, actor: Actor, *, role: Role | None = None, state: UserState | None = None
    ) -> User:
        """Change one; a disabled one's sessions end. Raises NotFound, and Refused for a scope's last active admin."""
        ...

    async def set_password(
        self, user_id: str, password_hash: str, actor: Actor, *, but: str | None = None, proven: str | None = None
    ) -> None:
        """Set it; an invited user becomes active. Links end, and every session but the one of the value `but`.

        Raises NotFound, and Refused where the stored hash is no longer `proven`, of those who proved one.
        """
        ...

    async def rehash_password(self, user_id: str, old_hash: str, new_hash: str) -> None:
        """Keep the same password under `new_hash`, unless it is no longer `old_hash`; nothing else changes."""
        ...

    async def ask_for_email(
        self, scope: Scope, user_id: str, email: str, actor: Actor, mails: Callable[[str], Sequence[bytes]]
    ) -> None:
        """Send the mails of a change of address, which only the link in them makes effective.

        `mails` makes them, given the link's token. Raises NotFound, Taken.
        """
        ...

    async def link(self, value: str) -> Link | None:
        """What the link leads to, while it can be used."""
        ...

    async def use_link(self, value: str, purpose: Purpose, *, password_hash: str | None, origin: str | None) -> User:
        """Use it up: set the password or the address; raises NotFound where it was used, expired or never was."""
        ...

    async def create_partner(self, name: str, actor: Actor) -> Partner:
        """Make a partner; raises Taken."""
        ...

    async def partners(self) -> Sequence[Partner]:
        """All of them by name."""
        ...

    async def create_organization(
        self, partner: str, name: str, admin: NewUser, actor: Actor, *, smtp_enabled: bool, mail: MakeMail | None
    ) -> Organization:
        """Make an organization with its first admin; raises Taken, and NotFound for the partner."""
        ...

    async def organizations(self, partner: str) -> Sequence[Organization]:
        """The partner's by name."""
        ...

    async def organization(self, partner: str, name: str) -> Organization | None:
        """One of them."""
        ...

    async def switch_org_smtp(self, partner: str, name: str, actor: Actor, *, on: bool) -> Organization:
        """Let the org's own records count, or not; raises NotFound."""
        ...

    async def any_user(self) -> bool:
        """Whether there is one at all: `postbote init` makes the first."""
        ...
