"""One connection: the sans-IO engine on a socket, fed from its owner's queue.

A turn is: read, settle, take messages while the engine does, write. A message is fetched from the
owner at the moment the engine could send it, so that two overlap exactly when a second is in hand.

How it ends is settled in `connection_lost` alone, whatever began it (timeout, EOF, 421, garbage):
until then a transport may still write what it holds, even an aborted one, and how much never left
is the difference between a retry and a doubt.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import cast

from schemas.audit import TlsUsed
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.smtp.commands import LocalProtocolError
from worker.smtp.dial import Dialled
from worker.smtp.job import Job, Owner
from worker.smtp.last_words import last_words
from worker.smtp.outbox import Outbox
from worker.smtp.transaction import Engine
from worker.smtp.under_way import Event, Finished

# RFC 5321 section 4.5.3.2: what the server may take, at most, for DATA and for a block of content.
DATA_S = 120.0
BLOCK_S = 180.0
# Section 4.5.3.2.6: it may need long to store what it has taken over.
FINAL_S = 600.0
CLOSING = 421
IDLE_S = 30.0
QUIT_S = 2.0
_LOOK_AGAIN_S = 0.01


class SmtpConnection(asyncio.Protocol):
    """A connection that takes messages until it ends; its owner learns of everything by callbacks."""

    def __init__(
        self,
        dialled: Dialled,
        timeout_s: float,
        owner: Owner,
        *,
        final_s: float = FINAL_S,
        chunking: bool = False,
        require_tls: bool = False,
    ) -> None:
        """Take over what `dial` made, in the same turn of the loop; `start` begins.

        `timeout_s` bounds the wait for each reply but the one to the final dot, which has `final_s`.
        `chunking` and `require_tls` are the engine's.
        """
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._engine = Engine(dialled.capabilities, chunking=chunking, require_tls=require_tls)
        self._transport = dialled.transport
        self._surplus = dialled.surplus
        self._timeout_s, self._final_s = timeout_s, final_s
        self._shortest_s = min(timeout_s, DATA_S, IDLE_S, final_s)
        self._timer: asyncio.TimerHandle | None = None
        self._moved_at = 0.0
        self._looked_again = False
        self._timed_out = False
        self._quitting = False
        self._farewell: SmtpReply | None = None
        self.tls: TlsUsed | None = dialled.tls
        self.connect_ms = dialled.connect_ms
        self.mail_max = dialled.capabilities.mail_max
        self.taken = 0
        """Messages that went to this connection."""
        self.finished = 0
        """Those of them that the server answered without closing the connection."""
        self.finished_at = self._loop.time()
        self.retiring = False
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport.set_protocol(self)
        self._outbox = Outbox(self._transport)

    @property
    def idle(self) -> bool:
        """True where no message is under way."""
        return self._engine.idle

    @property
    def usable(self) -> bool:
        """False once it is closing or will close after what is under way."""
        return not (self.retiring or self._engine.closed or self._transport.is_closing())

    def start(self) -> None:
        """Take the first message."""
        if self._surplus:
            self.data_received(self._surplus)
        else:
            self.pull()

    def pull(self) -> None:
        """Take what messages there are and write what is to be written: the second half of a turn."""
        engine = self._engine
        took = True
        while took and engine.can_submit and self.usable:
            took = (job := self._owner.next_job(self)) is not None and self._take(job)
        buffers = engine.data_to_send()
        if buffers:
            self._outbox.write(buffers)
        if not took and self.usable:
            self._owner.available(self)
        self._restart_wait()
        if self.retiring:
            self._say_goodbye()

    def retire(self) -> None:
        """Take no more messages, and say QUIT when those under way are over."""
        if not self.retiring:
            self.retiring = True
            self._say_goodbye()

    def abort(self) -> None:
        """Close at once; what is under way is settled as lost."""
        self.retiring = True
        self._transport.abort()

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """Settle what the server answered, and go on."""
        closed_before = self._engine.closed
        # Of what the transport holds, some may yet leave: only what it was not given counts as unsent.
        self._settle(self._engine.receive(data, self._outbox.octets))
        if self._engine.closed:
            if not closed_before:
                self._close()
        elif b"\n" in data:  # less than a line is no progress: a trickle must not outlast the time limits
            self.pull()

    def eof_received(self) -> bool:
        """Close: SMTP knows no half-open connection."""
        return False

    def pause_writing(self) -> None:
        """The socket is full."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """The socket has taken a block."""
        self._outbox.resume()
        self._restart_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle everything that is still under way."""
        unsent = self._outbox.never_left()
        engine = self._engine
        if exc is not None and not engine.idle:  # after an EOF, or an end of our own, all has been read
            self._settle(engine.receive(last_words(self._transport), unsent))
        self._settle(engine.timeout(unsent) if self._timed_out else engine.connection_lost(unsent))
        if self._timer:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._owner.ended(self, self._farewell)

    # The steps of a turn

    def _take(self, job: Job) -> bool:
        job.began = time.perf_counter()
        job.reused = self.taken > 0
        self.taken += 1
        try:
            refused = self._engine.submit(job, job.envelope, job.message)
        except LocalProtocolError as error:
            # Nothing of it was sent. The engine is the last to check, so this is a fault of ours.
            job.answer_all(Answer(Phase.MAIL, fault=Fault.PROTOCOL, detail=str(error)))
        else:
            self._settle(refused)
        return True

    def _settle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Finished):
                self._finish(cast("Job", event.token), event.answers)
            else:
                self._farewell = event.reply

    def _finish(self, job: Job, answers: Mapping[str, Answer]) -> None:
        reply = next(iter(answers.values())).reply
        if reply and reply.code != CLOSING:
            self.finished += 1
            self.finished_at = self._loop.time()
        self._owner.settled(self, job, answers)

    def _say_goodbye(self) -> None:
        if self._engine.closed or self._transport.is_closing():
            self._close()
        elif self._engine.idle and not self._quitting:
            self._quitting = True
            self._engine.quit()
            self._outbox.write(self._engine.data_to_send())
            self._arm(self._loop.time() + QUIT_S)

    def _close(self) -> None:
        """Close; politely after QUIT, else at once, for what is still held back must never leave."""
        if self._quitting:
            self._transport.close()
        else:
            self._transport.abort()

    # The one timer

    def _restart_wait(self) -> None:
        """Begin the wait for what is due now; how long that may take is asked when the timer goes off."""
        self._moved_at = self._loop.time()
        self._looked_again = False
        if self._timer is None and not self._quitting:
            self._arm(self._moved_at + self._shortest_s)

    def _limit(self) -> float:
        match self._engine.awaiting:
            case None:
                return IDLE_S
            case _ if self._outbox.octets:
                return min(self._timeout_s, BLOCK_S)
            case Phase.FINAL:
                return self._final_s
            case Phase.DATA:
                return min(self._timeout_s, DATA_S)
            case _:
                return self._timeout_s

    def _arm(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        """Look whether the wait is over. It begins anew with every turn; the timer follows only here."""
        self._timer = None
        now, deadline = self._loop.time(), self._moved_at + self._limit()
        if self._quitting:
            self._transport.abort()
        elif now < deadline:
            # No limit is shorter than the shortest, so nothing that begins before then ends before it.
            self._arm(min(deadline, now + self._shortest_s))
        elif self._engine.idle:
            self.retire()
        elif not self._looked_again:
            # A process that stood still has timers that are due and replies that nobody has read yet, and the timers
            # may come first. Between two of them the loop looks at its sockets.
            self._looked_again = True
            self._arm(now + _LOOK_AGAIN_S)
        else:
            self._timed_out = True
            self._transport.abort()
