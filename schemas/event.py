"""Events: a CloudEvents 1.0 envelope around one of the shipped notification kinds.

Unknown fields inside ``data`` are errors, since a misspelt ``expires_at`` must not silently
mean "never expires". Unknown attributes of the envelope are CloudEvents extensions and allowed.
"""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.address import Mailbox
from schemas.smtp_config import Scope, shared_scope
from schemas.text import BodyText, HeaderText, Identifier, RequiredText, TenantName, Url

MAX_RECIPIENTS = 1000
MAX_ATTACHMENT_BYTES = 25 * 1024 * 1024

# Headers that the worker itself writes, or that steer transport: an event may not set them.
RESERVED_HEADERS = frozenset(
    {"from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version", "received"}
    | {"auto-submitted", "return-path", "dkim-signature", "list-unsubscribe", "list-unsubscribe-post"}
)


class OnDoubt(StrEnum):
    """What to do when the connection died after the final dot: risk a second mail, or ask."""

    RESEND = "resend"
    HOLD = "hold"


class EventScope(BaseModel):
    """The tenant that an event belongs to; empty means the controller itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partner: TenantName | None = None
    org: TenantName | None = None

    @model_validator(mode="after")
    def _org_has_partner(self) -> Self:
        shared_scope(self.partner, self.org)
        return self


def _base64(value: str) -> str:
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        msg = "not valid base64"
        raise ValueError(msg) from None
    if len(raw) > MAX_ATTACHMENT_BYTES:
        msg = f"larger than {MAX_ATTACHMENT_BYTES} bytes"
        raise ValueError(msg)
    return value


def _header_name(value: str) -> str:
    name = value.lower()
    if name in RESERVED_HEADERS or name.startswith(("content-", "resent-")):
        msg = "is written by the worker and cannot be set by an event"
        raise ValueError(msg)
    return name  # in lower case, so that two spellings of one name are one header


class Attachment(BaseModel):
    """A file to send along; `content` is base64, `content_id` lets HTML refer to it as ``cid:``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filename: RequiredText
    content_type: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+$")] = (
        "application/octet-stream"
    )
    content: Annotated[str, AfterValidator(_base64)]
    disposition: Literal["attachment", "inline"] = "attachment"
    content_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@+-]{1,200}$")] | None = None


class Template(BaseModel):
    """A shipped template by name, with the values it prints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
    data: dict[str, Any] = Field(default_factory=dict)


HeaderName = Annotated[str, StringConstraints(pattern=r"^[!-9;-~]{1,76}$"), AfterValidator(_header_name)]


class EmailData(BaseModel):
    """What every kind of event says about its delivery."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    scope: EventScope = EventScope()
    to: Annotated[tuple[Mailbox, ...], Field(min_length=1, max_length=MAX_RECIPIENTS)]
    cc: Annotated[tuple[Mailbox, ...], Field(max_length=MAX_RECIPIENTS)] = ()
    bcc: Annotated[tuple[Mailbox, ...], Field(max_length=MAX_RECIPIENTS)] = ()
    from_: Annotated[Mailbox | None, Field(alias="from")] = None
    reply_to: Mailbox | None = None
    headers: dict[HeaderName, HeaderText] = Field(default_factory=dict)
    category: RequiredText | None = None
    expires_at: AwareDatetime | None = None
    not_before: AwareDatetime | None = None
    unsubscribe_url: Url | None = None
    on_doubt: OnDoubt = OnDoubt.RESEND

    def recipients(self) -> tuple[str, ...]:
        """Every envelope recipient once, in the order To, Cc, Bcc."""
        if len(self.to) == 1 and not self.cc and not self.bcc:  # nearly every event, and asked for several times
            return (self.to[0].email,)
        return tuple(dict.fromkeys([m.email for m in (*self.to, *self.cc, *self.bcc)]))


class EmailRequested(EmailData):
    """A mail in its own words, or by the name of a template."""

    TYPE: ClassVar[str] = "email.requested.v1"

    subject: RequiredText | None = None
    text: BodyText | None = None
    html: BodyText | None = None
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=50)] = ()
    template: Template | None = None

    @model_validator(mode="after")
    def _one_source_of_words(self) -> Self:
        if self.template is not None:
            own = [name for name in ("subject", "text", "html") if getattr(self, name) is not None]
            if own:
                msg = f"template is given, so {own[0]} may not be"
                raise ValueError(msg)
        elif self.subject is None:
            msg = "subject is missing (or give a template)"
            raise ValueError(msg)
        elif self.text is None and self.html is None:
            msg = "text or html is missing: give at least one (or a template)"
            raise ValueError(msg)
        return self


class UserRegistered(EmailData):
    """A new account exists; `activation_url` lets its owner set a password."""

    TYPE: ClassVar[str] = "user.registered.v1"
    user_name: RequiredText
    product: RequiredText
    activation_url: Url | None = None
    valid_for_hours: Annotated[int, Field(ge=1)] | None = None


class PasswordReset(EmailData):
    """Somebody asked for a new password."""

    TYPE: ClassVar[str] = "password.reset.v1"
    user_name: RequiredText
    reset_url: Url
    valid_for_minutes: Annotated[int, Field(ge=1)] = 30
    requested_from: HeaderText | None = None


class AlertRaised(EmailData):
    """A monitored thing needs attention."""

    TYPE: ClassVar[str] = "alert.raised.v1"
    alert_name: RequiredText
    severity: Literal["critical", "warning", "info"]
    summary: RequiredText
    resource: HeaderText | None = None
    started_at: AwareDatetime | None = None
    dashboard_url: Url | None = None


class TenantInvited(EmailData):
    """Somebody is invited to join an organization."""

    TYPE: ClassVar[str] = "tenant.invited.v1"
    inviter_name: RequiredText
    tenant_name: RequiredText
    accept_url: Url
    valid_for_hours: Annotated[int, Field(ge=1)] | None = None


class AdminEmailChanged(EmailData):
    """An administrator's address is to change; it takes effect only once confirmed."""

    TYPE: ClassVar[str] = "admin.email_changed.v1"
    user_name: RequiredText
    old_email: Mailbox
    new_email: Mailbox
    changed_by: HeaderText | None = None
    confirm_url: Url | None = None


class DeploymentFinished(EmailData):
    """A deployment ended, well or badly."""

    TYPE: ClassVar[str] = "deployment.finished.v1"
    application: RequiredText
    environment: RequiredText
    status: Literal["succeeded", "failed", "cancelled"]
    version: HeaderText | None = None
    triggered_by: HeaderText | None = None
    duration_s: Annotated[float, Field(ge=0)] | None = None
    details_url: Url | None = None


class ApprovalRequested(EmailData):
    """Somebody's decision is waited for."""

    TYPE: ClassVar[str] = "approval.requested.v1"
    item: RequiredText
    requester_name: RequiredText
    review_url: Url
    reason: HeaderText | None = None
    due_at: AwareDatetime | None = None


class ApprovalDecided(EmailData):
    """The decision has been taken."""

    TYPE: ClassVar[str] = "approval.decided.v1"
    item: RequiredText
    decision: Literal["approved", "rejected"]
    decided_by: RequiredText
    comment: HeaderText | None = None
    details_url: Url | None = None


KINDS: dict[str, type[EmailData]] = {
    kind.TYPE: kind
    for kind in (
        EmailRequested,
        UserRegistered,
        PasswordReset,
        AlertRaised,
        TenantInvited,
        AdminEmailChanged,
        DeploymentFinished,
        ApprovalRequested,
        ApprovalDecided,
    )
}
"""Every event type that Postbote mails, by its CloudEvents ``type``."""


_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def _sane_time(value: datetime) -> datetime:
    # The month names an index: a year of 9999 would create one for every typing error.
    if not _EARLIEST.year < value.year < _LATEST.year - 1 and not _EARLIEST <= value < _LATEST:
        msg = "is outside the years 2000 to 2099"
        raise ValueError(msg)
    # Each mail reckons with its time five times, which takes Python three times as long with pydantic's zone.
    return value if value.utcoffset() else value.astimezone(UTC)


class Envelope(BaseModel):
    """The CloudEvents 1.0 context attributes; extension attributes are allowed and ignored.

    `id` and `source` together identify the event: the same pair is the same event, however
    often it is published. `time` names the audit index and freezes the mail's Date.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    specversion: Literal["1.0"]
    id: Identifier
    source: Identifier
    type: Identifier
    time: Annotated[AwareDatetime, AfterValidator(_sane_time)]
    subject: HeaderText | None = None
    datacontenttype: HeaderText | None = None
    dataschema: HeaderText | None = None
    traceparent: (
        Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None
    ) = None


@dataclass(frozen=True, slots=True)
class EmailEvent:
    """One parsed event: its envelope and its kind's payload."""

    envelope: Envelope
    data: EmailData

    @property
    def key(self) -> tuple[str, str]:
        """(source, id): the event's identity."""
        return (self.envelope.source, self.envelope.id)

    @property
    def scope(self) -> Scope:
        """The tenant whose SMTP record sends this event."""
        return shared_scope(self.data.scope.partner, self.data.scope.org)
