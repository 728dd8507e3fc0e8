"""Trying a record before it is trusted: what is asked, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.audit import Outcome
from schemas.smtp_config import Scope, SmtpConfig


@dataclass(frozen=True, slots=True)
class TestMail:
    """The mail of a verification, as the asker wrote it."""

    __test__ = False  # no test, whatever its name begins with

    sender_email: str
    recipient_email: str
    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of a test mail: `accepted` is the server's 250 to the final dot and nothing less.

    `reply` is the server's (code, enhanced code, cleaned text, phase); `hint` what to do about it.
    `audit_id` names the record in the audit, `event_id` is the event that it is about.
    """

    outcome: Outcome
    reason: str | None
    reply: Mapping[str, Any] | None
    hint: str | None
    message_id: str | None
    took_ms: float
    audit_id: str | None = None
    event_id: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the server took the mail."""
        return self.outcome is Outcome.ACCEPTED


class Verifier(Protocol):
    """Sends test mails through the same engine as any mail."""

    async def verify(self, config: SmtpConfig, scope: Scope, mail: TestMail) -> Verification:
        """Send `mail` once by `config` for `scope`, and record what came of it; never raises for what it meets."""
        ...


class Prober(Protocol):
    """Checks a record stage by stage, without a mail; as a tenant is told of it unless it is the controller."""

    async def probe(self, config: SmtpConfig, asker: Scope, *, recipient: str | None) -> Mapping[str, Any]:
        """The report as one JSON object; `asker` decides how much is said. Never raises for what it meets."""
        ...


class Explainer(Protocol):
    """Tells which record sends a scope's mail, and why no other one does."""

    async def explain(self, scope: Scope, asker: Scope) -> Mapping[str, Any]:
        """One JSON object; of records that `asker` does not own, only that they apply. Raises StoreUnavailable."""
        ...


class Broadcast(Protocol):
    """Ships what changes have left to be told; called after each change so that nobody waits for the next round."""

    def nudge(self) -> None:
        """Ship soon; never waits and never fails."""
        ...
