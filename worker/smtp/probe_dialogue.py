"""The end of a staged check's dialogue: one command, one reply, on the connection that `dial` made.

The transaction engine sends DATA in one go with what stands before it, which is what a check must
never do; so this sends single commands, with the engine's own parser for the replies.
"""

import asyncio

from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.smtp.dial import Dialled
from worker.smtp.reach import DialFailed
from worker.smtp.replies import RemoteProtocolError, ReplyParser, is_refusal

_CLOSING = 421


class Dialogue(asyncio.Protocol):
    """Commands in lockstep; must be made in the same turn of the loop in which `dial` returned."""

    def __init__(self, dialled: Dialled, timeout_s: float) -> None:
        """Take the socket over; `timeout_s` bounds the wait for each reply."""
        self._transport = dialled.transport
        self._timeout_s = timeout_s
        self._parser = ReplyParser()
        self._arrived = asyncio.Event()
        self._lost = False
        self._spent = False
        self._transport.set_protocol(self)
        self._parser.feed(dialled.surplus)

    @property
    def usable(self) -> bool:
        """False once the connection is closed, or its replies cannot be told apart any more."""
        return not (self._lost or self._spent or self._transport.is_closing())

    async def ask(self, line: bytes, phase: Phase) -> SmtpReply:
        """Send a command and return its reply, 2yz, 4yz or 5yz.

        Raises DialFailed where none comes, or none that could answer it; nothing more can be asked then.
        """
        try:
            reply = self._early() or await self._ask(line, phase)
            is_refusal(reply)
        except RemoteProtocolError as error:
            self._spent = True
            raise DialFailed(Answer(phase, fault=Fault.PROTOCOL, detail=str(error))) from None
        self._spent = reply.code == _CLOSING
        return reply

    def close(self) -> None:
        """Close the connection; what waits to be written is dropped."""
        self._transport.abort()

    def _early(self) -> SmtpReply | None:
        """The goodbye that came before it was asked for, if any; any other reply is the end of trust."""
        reply = self._parser.next_reply()
        if reply is not None and reply.code != _CLOSING:
            raise RemoteProtocolError(f"reply {reply.code} where none was due")
        return reply

    async def _ask(self, line: bytes, phase: Phase) -> SmtpReply:
        self._transport.write(line)
        return await self._reply(phase)

    async def _reply(self, phase: Phase) -> SmtpReply:
        try:
            async with asyncio.timeout(self._timeout_s):
                while (reply := self._parser.next_reply()) is None:
                    if self._lost:
                        raise DialFailed(Answer(phase, fault=Fault.LOST))
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            self._spent = True
            raise DialFailed(Answer(phase, fault=Fault.TIMEOUT)) from None
        return reply

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """Keep it for whoever asks."""
        self._parser.feed(data)
        self._arrived.set()

    def eof_received(self) -> bool:
        """Close: SMTP knows no half-open connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Let whoever waits know."""
        del exc  # the phase says what it means
        self._lost = True
        self._arrived.set()
