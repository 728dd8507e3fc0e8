"""One message on its way through a transaction, and the events that tell the driver about it."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from worker.delivery.ports import Answer, Phase, SmtpReply
from worker.smtp import commands


class Finished(NamedTuple):
    """A message is over: one answer for each of its recipients, in the envelope's order."""

    token: Hashable
    answers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True)
class ConnectionClosing:
    """Nothing more can be sent or read: close the socket. `reply` is what the server said to that, if anything."""

    reason: str
    reply: SmtpReply | None = None


Event = Finished | ConnectionClosing


class Transaction:
    """The state of one message: its commands, and what has been said about its recipients."""

    __slots__ = ("accepted", "content", "decisive_octet", "mail", "rcpts", "recipients", "refusal", "refused", "token")

    def __init__(self, token: Hashable, recipients: tuple[str, ...], mail: bytes, content: bytes) -> None:
        """Build the RCPT lines behind `mail`. Raises LocalProtocolError for an address that cannot be sent."""
        self.token = token
        self.recipients = recipients
        self.content = content
        self.mail = mail
        self.rcpts = [commands.rcpt_command(each) for each in recipients]
        self.refusal: Answer | None = None
        self.refused: dict[str, Answer] = {}
        self.accepted = 0
        self.decisive_octet = 0

    @property
    def unanswered(self) -> bool:
        """True while a RCPT has no reply."""
        return self.accepted + len(self.refused) < len(self.recipients)

    @property
    def next_rcpt(self) -> bytes:
        """The command of the first recipient without a reply, where replies are waited for one by one."""
        return self.rcpts[self.accepted + len(self.refused)]

    def refuse_next(self, answer: Answer) -> None:
        """Keep the refusal of the first recipient without a reply: they are answered in order."""
        self.refused[self.recipients[self.accepted + len(self.refused)]] = answer

    def finished(self, answer: Answer) -> Finished:
        """Settle every recipient: by the refusal of MAIL, else by its own RCPT, else by `answer`."""
        if self.refusal or not self.refused:
            return Finished(self.token, dict.fromkeys(self.recipients, self.refusal or answer))
        return Finished(self.token, {each: self.refused.get(each, answer) for each in self.recipients})


class Awaited:
    """A command without a reply, and who reads that; `end` counts the connection's octets up to its last one.

    `on_reply` is called with `transaction` (None where the command belongs to no message) and the reply.
    """

    __slots__ = ("end", "on_reply", "phase", "transaction")

    def __init__(
        self,
        phase: Phase,
        on_reply: Callable[[Any, SmtpReply], None],
        transaction: Transaction | None,
        end: int,
    ) -> None:
        """Four for each mail, so not a named tuple, which takes half as long again to make."""
        self.phase = phase
        self.on_reply = on_reply
        self.transaction = transaction
        self.end = end
