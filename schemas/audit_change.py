"""The audit record of a change to the control plane: who changed what, from where, never a secret's value.

It lies in the same indices as the records of deliveries, under the same category, and is told apart by
its `type`: ``smtp_config.changed``, ``secret.changed``, ``organization.changed``, ``user.changed``,
``token.changed``, ``session.changed``.
"""

import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.audit import CATEGORY


class ChangeType(StrEnum):
    """What kind of thing was changed."""

    SMTP_CONFIG = "smtp_config.changed"
    SECRET = "secret.changed"  # noqa: S105 # the word, not a secret
    ORGANIZATION = "organization.changed"
    USER = "user.changed"
    TOKEN = "token.changed"  # noqa: S105
    SESSION = "session.changed"
    AUDIT = "audit.changed"


class Action(StrEnum):
    """What was done to it."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    ROLLED_BACK = "rolled_back"
    ROTATED = "rotated"
    ORDERED = "ordered"
    SWITCHED_ON = "switched_on"
    SWITCHED_OFF = "switched_off"
    OPENED = "opened"
    CLOSED = "closed"
    REFUSED = "refused"
    PRUNED = "pruned"
    FORGOTTEN = "forgotten"
    MIGRATED = "migrated"


class ChangedBy(BaseModel):
    """Who, and from where: `kind` is user, token or command; `scope` as `Scope` spells it."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    scope: str
    origin: str | None = None


class ChangeRecord(BaseModel):
    """One SYSTEMAUDIT document about a change.

    `partner` and `org` are the scope of what was changed. `subject` is its name, `version` the one
    that it has now, `changed` the names of the fields whose value is another one.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    timestamp: Annotated[datetime, Field(alias="@timestamp")]
    id: Annotated[str, Field(exclude=True)]
    category: str = CATEGORY
    type: ChangeType
    action: Action
    partner: str | None = None
    org: str | None = None
    subject: str
    version: int | None = None
    changed: tuple[str, ...] = ()
    actor: ChangedBy

    @property
    def document_id(self) -> str:
        """The deterministic `_id`: 40 hex digits over `id`, so that it is written once however often it is sent."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:40]

    @property
    def index_month(self) -> str:
        """``YYYY.MM`` of its time in UTC."""
        moment = self.timestamp.astimezone(UTC)
        return f"{moment.year:04}.{moment.month:02}"

    def to_json(self) -> bytes:
        """The document as OpenSearch and the embedded store keep it; absent fields are left out."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()
