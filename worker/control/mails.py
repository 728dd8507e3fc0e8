"""The mails of the control plane, as CloudEvents that Postbote itself mails.

What people typed stands in them (names, addresses), so it is made into one printable line first: a name
with a line end would make the event invalid, and the mail would never leave.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.event import AdminEmailChanged, TenantInvited, UserRegistered
from schemas.smtp_config import Scope
from worker.control.people import NewUser, Purpose, User
from worker.control.ports import MakeMail

SOURCE = "urn:postbote:control"
PRODUCT = "Postbote"
LINK_PATH = "/auth/links/"
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Mails:
    """Makes the mails; `public_url` is where the reader of a mail reaches the API.

    Each is sent by the SMTP record of its user's scope, and expires with the link in it.
    """

    public_url: str
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def registered(self, admin: NewUser) -> MakeMail:
        """To an organization's first admin: set a password (`user.registered.v1`)."""

        def make(value: str) -> bytes:
            data = {
                "to": [_mailbox(admin.email, admin.name)],
                "user_name": _line(admin.name) or admin.email,
                "product": PRODUCT,
                "activation_url": self._link(value),
                "valid_for_hours": _hours(Purpose.SET_PASSWORD),
            }
            return self._event(UserRegistered.TYPE, admin.scope, Purpose.SET_PASSWORD, data)

        return make

    def invited(self, new: NewUser, inviter: str) -> MakeMail:
        """To a further user of a scope: set a password (`tenant.invited.v1`)."""

        def make(value: str) -> bytes:
            data = {
                "to": [_mailbox(new.email, new.name)],
                "inviter_name": _line(inviter) or PRODUCT,
                "tenant_name": new.scope.org or new.scope.partner or PRODUCT,
                "accept_url": self._link(value),
                "valid_for_hours": _hours(Purpose.SET_PASSWORD),
            }
            return self._event(TenantInvited.TYPE, new.scope, Purpose.SET_PASSWORD, data)

        return make

    def email_changed(self, user: User, email: str, changed_by: str) -> Callable[[str], Sequence[bytes]]:
        """To the old and to the new address of a user (`admin.email_changed.v1`); only the new one can confirm."""

        def make(value: str) -> Sequence[bytes]:
            shared = {
                "user_name": _line(user.name) or user.email,
                "old_email": _mailbox(user.email),
                "new_email": _mailbox(email),
                "changed_by": _line(changed_by) or PRODUCT,
            }
            told = {**shared, "to": [_mailbox(user.email, user.name)]}
            asked = {**shared, "to": [_mailbox(email, user.name)], "confirm_url": self._link(value)}
            purpose = Purpose.CONFIRM_EMAIL
            return [self._event(AdminEmailChanged.TYPE, user.scope, purpose, data) for data in (told, asked)]

        return make

    def _link(self, value: str) -> str:
        return self.public_url.rstrip("/") + LINK_PATH + value

    def _event(self, kind: str, scope: Scope, purpose: Purpose, data: Mapping[str, Any]) -> bytes:
        now = self.now()
        tenant = {"partner": scope.partner, "org": scope.org}
        return orjson.dumps(
            {
                "specversion": "1.0",
                "id": str(uuid.uuid4()),
                "source": SOURCE,
                "type": kind,
                "time": now,
                "data": {
                    "scope": {level: name for level, name in tenant.items() if name is not None},
                    "expires_at": now + purpose.lifetime,
                    **data,
                },
            }
        )


def _hours(purpose: Purpose) -> int:
    return int(purpose.lifetime.total_seconds() // 3600)


def _mailbox(email: str, name: str | None = None) -> dict[str, str]:
    shown = _line(name)
    return {"email": email, "name": shown} if shown else {"email": email}


def _line(text: str | None) -> str:
    """The text in one line of printable characters, cut to a length that a header can bear."""
    printable = "".join(character if character.isprintable() else " " for character in text or "")
    return " ".join(printable.split())[:_LONGEST_NAME]
