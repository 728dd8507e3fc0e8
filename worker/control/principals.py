"""Who asks, and how far that reaches.

A principal stands at one scope, with one role. It reaches its own scope and what lies below:
a partner its orgs, the controller everything. What it does not reach does not exist for it.
"""

from dataclasses import dataclass
from enum import StrEnum

from schemas.smtp_config import Scope


class Role(StrEnum):
    """admin: reads and changes; viewer: reads."""

    ADMIN = "admin"
    VIEWER = "viewer"


class Kind(StrEnum):
    """How somebody proved who they are."""

    USER = "user"
    TOKEN = "token"  # noqa: S105 # the word, not a secret
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who made a change and from where, as history and audit keep it.

    `name`: a user's address, a token's name, or for a command the user of the host. `origin`: the
    client's IP address; None for a command.
    """

    kind: Kind
    name: str
    scope: Scope
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was recognised by a session's cookie or a token. `id` is the user's or token's."""

    kind: Kind
    id: str
    name: str
    scope: Scope
    role: Role

    @property
    def may_change(self) -> bool:
        """Whether its role allows changes."""
        return self.role is Role.ADMIN

    def reaches(self, scope: Scope) -> bool:
        """Whether `scope` is its own or lies below it."""
        return self.scope in scope.lineage()

    def acting_from(self, origin: str | None) -> Actor:
        """The same as the one who makes a change."""
        return Actor(self.kind, self.name, self.scope, origin)
