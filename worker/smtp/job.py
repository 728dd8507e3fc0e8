"""One message on its way through the pool, and what a connection asks of whoever owns it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from worker.delivery.ports import Answer, Heard, MailEnvelope, RenderedMessage, SmtpReply, TransactionResult

if TYPE_CHECKING:
    from worker.smtp.connection import SmtpConnection


@dataclass(slots=True, eq=False)
class Job:
    """A message and where its sender waits for the result; cancelled senders leave a done future behind.

    `began` is when its transaction did (perf_counter); `reused` whether others had gone before it
    on the connection; `put_back` whether it has been tried on a connection that was gone already.
    """

    envelope: MailEnvelope
    message: RenderedMessage
    answered: asyncio.Future[TransactionResult]
    began: float = 0.0
    reused: bool = False
    put_back: bool = False
    heard: Heard | None = None

    def answer(self, result: TransactionResult) -> None:
        """Give the sender its result, unless nobody waits any more; `heard` has it first, and at once."""
        if self.answered.done():
            return
        try:
            if self.heard is not None:
                self.heard(result)
        except Exception as error:  # noqa: BLE001 - raised at the sender, as a connection has no use for it
            self.answered.set_exception(error)
        else:
            self.answered.set_result(result)

    def answer_all(self, answer: Answer) -> None:
        """Give every recipient the same answer, unless nobody waits any more."""
        self.answer(TransactionResult(dict.fromkeys(self.envelope.recipients, answer)))


class Owner(Protocol):
    """Gives a connection its work and learns what became of it. Nothing here may block or raise."""

    def next_job(self, connection: "SmtpConnection") -> Job | None:
        """Return a message that the connection takes now, or None."""
        ...

    def settled(self, connection: "SmtpConnection", job: Job, answers: Mapping[str, Answer]) -> None:
        """Take the answers of a message, one for each recipient."""
        ...

    def available(self, connection: "SmtpConnection") -> None:
        """Learn that the connection could take a message and found none; `pull` it when there is one."""
        ...

    def ended(self, connection: "SmtpConnection", farewell: SmtpReply | None) -> None:
        """Learn that the socket is closed; `farewell` is the reply that closed it, where there was one."""
        ...
