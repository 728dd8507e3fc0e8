r"""The SMTP client's side of mail transactions, without IO: bytes in, bytes and events out.

It takes over a connection that is greeted, EHLO'd, encrypted and authenticated. The driver does
three things: gives `receive` what the socket gave, writes what `data_to_send` returns, and, when
the connection ends, says how many of those bytes certainly never left.

Theory
======

**Replies have no names.** SMTP answers commands in order, so a queue of the commands on the wire
is all there is to know whose reply comes next. It is kept strictly: a reply where no command has
left is a fault of the server, and whatever could shift the count by one ends the connection.

**A group ends at DATA.** With PIPELINING (RFC 2920), MAIL, every RCPT and DATA go out together;
nothing follows DATA before its reply, for only 354 says whether the next bytes are content.

**Overlap.** The content is the first thing of the next group: content and final dot of message N
travel with MAIL, RCPT and DATA of N+1, one round trip a message. N's dot is then the oldest
command without a reply, so at most one message of a connection can be in doubt. Only a message
already in hand is put behind a dot; none is waited for, since after 354 there is no way back:

    C: [content N] . MAIL(N+1) RCPT(N+1) DATA(N+1)      S: 250(N) 250 250 354
    C: [content N+1] . MAIL(N+2) RCPT(N+2) DATA(N+2)    S: 250(N+1) 250 250 354

**A clean start.** A transaction that ends without its content leaves sender and recipients behind
at the server (Postfix and Exim would take the next message's RCPT into it), so RSET follows it at
once. One that reached its final dot is over, whatever the reply (RFC 5321 section 4.1.1.4).
Where DATA got 354 though no recipient was accepted, a lone dot ends it (RFC 2920 section 3.1):
with no recipient it can reach nobody. With one, it would be an empty mail, so it is never sent.

**BDAT** (RFC 3030, opt-in) takes the place of DATA: no 354, but the content waits for the RCPT
replies all the same, and RSET stands before a MAIL behind an unanswered chunk, for what a refused
chunk leaves behind is not well defined.

States of one message, by what is awaited
=========================================

    state       2yz                  354             4yz, 5yz              421            lost, timeout, garbage
    submitted   -                    -               -                     LOST at MAIL   fault at MAIL
    MAIL        next                 garbage         refuses all           answers all    fault at MAIL
    RCPT        accepts one          garbage         refuses one           answers open   fault at RCPT
    DATA        garbage              any accepted:   refuses open; RSET    answers open   fault at DATA
                                     ready, else "."
    ready       garbage              garbage         garbage               at BODY        fault at BODY
    dot         ACCEPTED: open ones  garbage         refuses open          answers open   dot unsent: BODY,
                                                                                          else FINAL: in doubt

"Open" are the recipients without an answer of their own. Any other 3yz is garbage. A 421 ends the
connection; it answers the oldest command that has left, and messages behind that one are LOST. A
fault at Phase.FINAL, and nothing else, means in doubt. Without PIPELINING the same rows hold, one
command at a time, and DATA is not even asked for when no recipient was accepted.
"""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final

from worker.delivery.ports import Answer, Fault, MailEnvelope, Phase, RenderedMessage, SmtpReply
from worker.smtp import commands
from worker.smtp.commands import LocalProtocolError
from worker.smtp.ehlo import Capabilities
from worker.smtp.replies import RemoteProtocolError, ReplyParser, is_refusal
from worker.smtp.under_way import Awaited, ConnectionClosing, Event, Finished, Transaction

__all__ = ["Capabilities", "ConnectionClosing", "Engine", "Event", "Finished", "LocalProtocolError"]

# Members that every mail needs, by a name of their own: an enum's attribute is looked up by Python code.
_MAIL, _RCPT, _DATA, _FINAL = Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.FINAL
_CLOSING: Final = 421
_GO_AHEAD: Final = 354
_JOIN_UP_TO: Final = 64 * 1024  # one write for a usual mail; a large content is not copied again


class Engine:
    """The transactions of one connection.

    Order of a driver's turn: `receive`, then `submit` while `can_submit`, then `data_to_send`.
    A message submitted before `data_to_send` travels with the content of the one before it.

    Args:
        capabilities: what EHLO offered, read after TLS and AUTH.
        overlap: whether a message may follow an unanswered dot; needs PIPELINING.
        chunking: whether to use BDAT where CHUNKING is offered.
        require_tls: whether to ask for REQUIRETLS (RFC 8689); refused locally where not offered.
    """

    def __init__(
        self, capabilities: Capabilities, *, overlap: bool = True, chunking: bool = False, require_tls: bool = False
    ) -> None:
        """Start on a connection with nothing under way."""
        self._capabilities = capabilities
        self._pipelining = capabilities.pipelining
        self._overlap = overlap and capabilities.pipelining
        self._chunking = chunking and capabilities.chunking
        self._stepwise = self._chunking or not self._pipelining  # what follows RCPT waits for its reply
        self._require_tls = require_tls
        self._parser = ReplyParser()
        self._events: list[Event] = []
        self._awaited: deque[Awaited] = deque()
        self._out: list[bytes] = []
        self._queued = 0  # octets of this connection up to the end of `_out`
        self._handed = 0  # octets of this connection given to the driver
        self._submitted: Transaction | None = None  # not on the wire yet
        self._opening: Transaction | None = None  # MAIL, RCPT, DATA
        self._ready: Transaction | None = None  # 354 is here, its content goes out next
        self._delivering: Transaction | None = None  # dot without a reply
        self._quitting = False
        self.closed = False
        """True after ConnectionClosing, loss or timeout: the engine is spent."""

    @property
    def can_submit(self) -> bool:
        """True where a message submitted now would go out with the next `data_to_send`."""
        if self.closed or self._quitting or self._submitted or self._opening:
            return False
        if self._overlap:
            return True
        return not (self._ready or self._delivering) and (self._pipelining or not self._awaited)

    @property
    def idle(self) -> bool:
        """True where no message is under way and no reply is due."""
        return not (self._awaited or self._submitted or self._ready)

    @property
    def awaiting(self) -> Phase | None:
        """The phase of the reply that is due next, for the driver's time limit; None where none is."""
        return self._awaited[0].phase if self._awaited else None  # RSET and QUIT count as MAIL

    def submit(self, token: Hashable, envelope: MailEnvelope, message: RenderedMessage) -> list[Event]:
        """Take a message; Finished comes back at once where the server's EHLO already rules it out.

        Raises LocalProtocolError, and takes nothing, when `can_submit` is False or when an address
        or the content cannot be sent.
        """
        if not self.can_submit:
            msg = "no message can be taken now"
            raise LocalProtocolError(msg)
        recipients = envelope.recipients
        if len(recipients) > 1:
            recipients = tuple(dict.fromkeys(recipients))
        if not recipients:
            msg = "a message needs a recipient"
            raise LocalProtocolError(msg)
        commands.check_content(message.content)
        offered, require_tls = self._capabilities, self._require_tls
        utf8 = commands.needs_smtputf8(envelope, message)
        mail = commands.mail_command(offered, envelope.mail_from, message, utf8=utf8, require_tls=require_tls)
        transaction = Transaction(token, recipients, mail, message.content)
        refusal = commands.refused_locally(offered, message, utf8=utf8, require_tls=require_tls)
        if refusal:
            return [transaction.finished(refusal)]
        self._submitted = transaction
        return []

    def reset(self) -> None:
        """Send RSET on an idle connection. Raises LocalProtocolError on any other."""
        self._check_idle()
        self._queue_reset()

    def quit(self) -> None:
        """Send QUIT on an idle connection. Raises LocalProtocolError on any other."""
        self._check_idle()
        self._quitting = True
        self._command(Phase.MAIL, commands.QUIT, self._on_quit)

    def data_to_send(self) -> list[bytes]:
        """Return the buffers to write now, in order; empty where there is nothing to say.

        From here on they count as sent, except what `connection_lost` takes back.
        """
        if self.closed:
            return []
        if self._ready:
            self._send_content(self._ready)
        if self._submitted:
            self._send_opening(self._submitted)
        buffers, self._out = self._out, []
        small = self._queued - self._handed <= _JOIN_UP_TO
        self._handed = self._queued
        return [b"".join(buffers)] if small and buffers else buffers

    def receive(self, data: bytes, unsent_bytes: int = 0) -> list[Event]:
        """Take bytes of the server and return what they decided; faults are events, never exceptions.

        Args:
            data: as read from the socket, in any segmentation.
            unsent_bytes: how many of the bytes handed out still wait in this host, as in
                `connection_lost`; a reply cannot answer a command among them.
        """
        if self.closed:
            return []  # what follows a 421 or garbage answers nobody
        written = self._handed - unsent_bytes
        self._parser.feed(data)
        try:
            while not self.closed and (reply := self._parser.next_reply()):
                due = self._awaited[0] if self._awaited else None
                if due is None or due.end > written:
                    self._take_undue(due, reply, written)
                elif reply.code == _CLOSING:
                    self._close(due.transaction, Answer(due.phase, reply), written)
                else:
                    # Removed only afterwards: where the reply is garbage, the command is still without one.
                    due.on_reply(due.transaction, reply)
                    self._awaited.popleft()
        except RemoteProtocolError as error:
            self._abandon(Fault.PROTOCOL, str(error), written)
            self._events.append(ConnectionClosing(str(error)))
        return self._drain()

    def connection_lost(self, unsent_bytes: int = 0) -> list[Event]:
        """Settle everything under way after the connection ended; again: nothing.

        Args:
            unsent_bytes: how many of the bytes handed out certainly never left and never will.
                Too few is safe (a plain retry becomes a doubt), too many is not.
        """
        return self._end(Fault.LOST, "the connection was lost", unsent_bytes)

    def timeout(self, unsent_bytes: int = 0) -> list[Event]:
        """Settle everything under way as timed out; the driver has aborted the socket before it counted."""
        return self._end(Fault.TIMEOUT, "no reply in time", unsent_bytes)

    def _check_idle(self) -> None:
        if self.closed or self._quitting or not self.idle:
            msg = "only an idle connection can be reset or quit"
            raise LocalProtocolError(msg)

    # What goes out

    def _command(
        self,
        phase: Phase,
        line: bytes,
        on_reply: Callable[[Any, SmtpReply], None],
        transaction: Transaction | None = None,
    ) -> None:
        self._out.append(line)
        self._queued += len(line)
        self._awaited.append(Awaited(phase, on_reply, transaction, self._queued))

    def _queue_reset(self) -> None:
        self._command(Phase.MAIL, commands.RSET, self._on_reset)

    def _send_opening(self, transaction: Transaction) -> None:
        if self._chunking and self._delivering:
            self._queue_reset()
        self._submitted, self._opening = None, transaction
        self._command(_MAIL, transaction.mail, self._on_mail, transaction)
        if not self._pipelining:
            return
        for line in transaction.rcpts:
            self._command(_RCPT, line, self._on_rcpt, transaction)
        if not self._chunking:
            self._send_data(transaction)

    def _send_data(self, transaction: Transaction) -> None:
        self._command(_DATA, commands.DATA, self._on_data, transaction)

    def _send_content(self, transaction: Transaction) -> None:
        content = transaction.content
        buffers = commands.last_chunk(content) if self._chunking else commands.dot_stuffed(content)
        self._ready = None
        for buffer in buffers[:-1]:
            self._out.append(buffer)
            self._queued += len(buffer)
        self._send_end(transaction, buffers[-1])

    def _send_end(self, transaction: Transaction, last: bytes) -> None:
        """Send the octets after which the server owes its word on the message."""
        self._delivering = transaction
        self._command(_FINAL, last, self._on_final, transaction)
        # The server cannot accept before it has the dot itself, or the last octet of the chunk.
        transaction.decisive_octet = self._queued - (1 if self._chunking else commands.DOT_TAIL)

    # What comes in

    def _take_undue(self, due: Awaited | None, reply: SmtpReply, written: int) -> None:
        """Read a reply that no command asked for: a goodbye, or the end of trust."""
        if reply.code == _CLOSING:
            self._close(self._ready, Answer(Phase.BODY, reply), written)
        elif due and due.phase is Phase.FINAL and is_refusal(reply):
            # Refused before all of it left. Another reply may follow the dot, so no other message may.
            self._close(due.transaction, Answer(Phase.FINAL, reply), written)
        else:
            msg = f"reply {reply.code} where none was due"
            raise RemoteProtocolError(msg)

    def _on_mail(self, transaction: Transaction, reply: SmtpReply) -> None:
        if is_refusal(reply):
            transaction.refusal = Answer(Phase.MAIL, reply)
        if self._stepwise:
            self._go_on(transaction, reply)

    def _on_rcpt(self, transaction: Transaction, reply: SmtpReply) -> None:
        if is_refusal(reply):
            transaction.refuse_next(Answer(Phase.RCPT, reply))
        else:
            transaction.accepted += 1
        if self._stepwise:
            self._go_on(transaction, reply)

    def _go_on(self, transaction: Transaction, reply: SmtpReply) -> None:
        """Take the next step after MAIL or RCPT, where it is not on the wire already."""
        if self._pipelining and transaction.unanswered:
            return
        if transaction.refusal or not (transaction.unanswered or transaction.accepted):
            self._give_up(transaction, Answer(Phase.RCPT, reply))
        elif transaction.unanswered:
            self._command(_RCPT, transaction.next_rcpt, self._on_rcpt, transaction)
        elif self._chunking:
            self._opening, self._ready = None, transaction
        else:
            self._send_data(transaction)

    def _on_data(self, transaction: Transaction, reply: SmtpReply) -> None:
        if reply.code != _GO_AHEAD:
            if not is_refusal(reply):
                msg = f"DATA was answered {reply.code}, which neither lets the content in nor keeps it out"
                raise RemoteProtocolError(msg)
            self._give_up(transaction, Answer(Phase.DATA, reply))
        elif not transaction.accepted:
            self._opening = None
            self._send_end(transaction, commands.LONE_DOT)
            self._queue_reset()
        elif transaction.refusal:
            msg = "354 after a refused MAIL and an accepted RCPT: whose transaction that is, nobody knows"
            raise RemoteProtocolError(msg)
        else:
            self._opening, self._ready = None, transaction

    def _on_final(self, transaction: Transaction, reply: SmtpReply) -> None:
        refused = is_refusal(reply)
        self._delivering = None
        self._events.append(transaction.finished(Answer(_FINAL, reply)))
        if self._chunking and refused and not self._opening:
            self._queue_reset()

    def _give_up(self, transaction: Transaction, answer: Answer) -> None:
        """End a transaction that never came to its content; nothing else is on the wire."""
        self._opening = None
        self._events.append(transaction.finished(answer))
        self._queue_reset()

    def _on_reset(self, _: Transaction | None, reply: SmtpReply) -> None:
        if is_refusal(reply):
            msg = f"RSET was answered {reply.code}: the old transaction may still stand"
            raise RemoteProtocolError(msg)

    def _on_quit(self, _: Transaction | None, reply: SmtpReply) -> None:
        self.closed = True
        self._events.append(ConnectionClosing("QUIT was answered", reply))

    # How it ends

    def _close(self, transaction: Transaction | None, answer: Answer, written: int) -> None:
        """End the connection with a reply that still answers `transaction`, and nothing behind it."""
        if transaction:
            self._events.append(transaction.finished(answer))
            self._opening, self._ready, self._delivering = (
                None if each is transaction else each for each in (self._opening, self._ready, self._delivering)
            )
        reason = f"the server ended the connection with {answer.reply.code if answer.reply else answer.fault}"
        self._abandon(Fault.LOST, reason, written)
        self._events.append(ConnectionClosing(reason, answer.reply))

    def _end(self, fault: Fault, detail: str, unsent_bytes: int) -> list[Event]:
        self._abandon(fault, detail, self._handed - unsent_bytes)
        return self._drain()

    def _abandon(self, fault: Fault, detail: str, written: int) -> None:
        """Settle whatever is under way by how far it came, the oldest message first."""
        for transaction in (self._delivering, self._ready, self._opening, self._submitted):
            if transaction:
                answer = Answer(self._reached(transaction, written), fault=fault, detail=detail)
                self._events.append(transaction.finished(answer))
        self._delivering = self._ready = self._opening = self._submitted = None
        self._awaited.clear()
        self._out.clear()
        self.closed = True

    def _reached(self, transaction: Transaction, written: int) -> Phase:
        if transaction is self._delivering:
            return Phase.FINAL if transaction.decisive_octet < written else Phase.BODY
        if transaction is self._ready:
            return Phase.BODY
        return next((due.phase for due in self._awaited if due.transaction is transaction), Phase.MAIL)

    def _drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events
