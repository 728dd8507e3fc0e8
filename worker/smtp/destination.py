"""The mail of one SMTP record: its queue, its connections, and what its server has taught us.

Decides at once and without IO: connections pull from the queue by themselves, and `dials_wanted`
and `surplus` say what the pool is to open and to close. One destination belongs to one version of
one record, so no connection ever carries mail of two tenants.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from schemas.audit import Outcome
from schemas.smtp_config import SmtpConfig
from worker.delivery.outcome import Retry, decide
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply, TransactionResult
from worker.smtp.connection import CLOSING, SmtpConnection
from worker.smtp.job import Job
from worker.smtp.limits import ConnectionLimit, MessageLimit, TokenBucket
from worker.smtp.room import Guest
from worker.smtp.turns import Turns

# After a failed dial beside connections that work, so that a full server is not asked at every message.
DIAL_AGAIN_S = 5.0
# Beside connections that work, a refused login is tried again after this, doubled each time: accounts get locked.
LOGIN_AGAIN_S = 10.0
MAX_LOGIN_AGAIN_S = 300.0
# With no connection up, mail gets the last refusal for so long: less than a breaker's first backoff (10 s), whose
# probe has to reach the server, and longer than mail takes that was past the breaker when it opened.
REFUSED_S = 5.0
# A record that was dialled this lately may be dialled several times at once; else one goes ahead and finds out.
PROVEN_S = 10.0
# A 421 this soon after a message is about messages; a later one is about idling.
RIGHT_AFTER_S = 1.0
_OPENING = frozenset({Phase.CONNECT, Phase.GREETING, Phase.EHLO, Phase.AUTH})
_NO_SERVICE = 554
_OK = 250


class Host(Protocol):
    """What a destination needs of the pool."""

    @property
    def crowded(self) -> bool:
        """True while a destination waits for a connection that the bound on all of them does not allow."""
        ...

    def tend(self, destination: "Destination") -> None:
        """Look what the destination wants opened and closed."""
        ...

    def forget(self, connection: SmtpConnection) -> None:
        """Count a connection out."""
        ...


class Destination:
    """Fulfils `worker.smtp.job.Owner` for its connections."""

    def __init__(self, config: SmtpConfig, host: Host) -> None:
        """Start with nothing: no message, no connection, nothing learned."""
        self.loop = asyncio.get_running_loop()  # kept, for each look-up asks the kernel for the process's id
        self._host = host
        self.config = config
        self.waiting = Turns()
        self.connections: dict[SmtpConnection, None] = {}
        self.dialling = 0
        self.outdated = False
        """True once a newer version of the record is in use: connections end with the queue."""
        self.guest = Guest()
        self.senders = 0
        """Calls of the pool's `send` that have not returned."""
        self._available: dict[SmtpConnection, None] = {}
        self._dials_at_once = 1
        self._dialled_at = -PROVEN_S
        self._no_dial_before = 0.0
        self._refusal: Answer | None = None
        self._refused_at = 0.0
        self._refused_logins = 0
        self._limit = ConnectionLimit(config.max_connections)
        self._messages = MessageLimit()
        now = self.loop.time()
        self._bucket = TokenBucket(config.rate_per_minute, now) if config.rate_per_minute else None
        self._blocked_until = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0

    @property
    def size(self) -> int:
        """Connections, those being made included."""
        return len(self.connections) + self.dialling

    @property
    def unused(self) -> bool:
        """True where nothing of it would be missed."""
        return not (self.connections or self.dialling or self.senders)

    # What the pool asks

    def offer(self) -> None:
        """Let connections that can take a message have what waits; an idle one goes before a busy one.

        What could only repeat a login that was refused a moment ago has that refusal for its answer.
        """
        while self._available and self.waiting and not self._blocked():
            last = next(reversed(self._available))  # used last, so that the others grow old and end
            chosen = last if last.idle else next((each for each in reversed(self._available) if each.idle), last)
            del self._available[chosen]
            chosen.pull()
        if self._refusal and self.waiting and self._only_repeats(self.loop.time()):
            self.fail(self._refusal)

    def dials_wanted(self) -> int:
        """Return how many connections to begin making now."""
        if len(self.waiting) <= self.dialling:
            return 0
        now = self.loop.time()
        room = self._limit.allowed(now) - self.size
        if room <= 0 or self._blocked() or (now < self._no_dial_before and self._up):
            return 0
        at_once = self._dials_at_once if self._proven(now) else 1
        return max(0, min(len(self.waiting), at_once, room + self.dialling) - self.dialling)

    def surplus(self) -> list[SmtpConnection]:
        """Return the connections that are to end: beyond the limit, or idle where nothing more will come."""
        usable = [each for each in self.connections if each.usable]
        if self.outdated and not self.waiting:
            return usable
        too_many = len(usable) - self._limit.allowed(self.loop.time())
        return sorted(usable, key=lambda each: not each.idle)[:too_many] if too_many > 0 else []

    def idle_connection(self) -> SmtpConnection | None:
        """Return the connection that has been idle longest, or None."""
        idle = [each for each in self.connections if each.usable and each.idle]
        return min(idle, key=lambda each: each.finished_at, default=None)

    def give_up_one(self) -> None:
        """Let one connection end after what it has under way, for another destination to have its place."""
        found = next((each for each in self.connections if each.usable), None)
        if found:
            found.retire()

    def discard(self, job: Job) -> None:
        """Take back a message whose sender is gone, where no connection has it yet."""
        self.waiting.remove(job)

    def fail(self, answer: Answer) -> None:
        """Answer everything that waits."""
        waiting, self.waiting = self.waiting, Turns()
        for job in waiting:
            job.answer_all(answer)

    def fail_with(self, error: BaseException) -> None:
        """Raise `error` at every sender that waits: it is a fault of ours, not an answer."""
        waiting, self.waiting = self.waiting, Turns()
        for job in waiting:
            if not job.answered.done():
                job.answered.set_exception(error)

    def dialled(self, connection: SmtpConnection) -> None:
        """Take a new connection and start it."""
        self.dialling -= 1
        now = self.loop.time()
        self._dials_at_once = 2 * self._dials_at_once if self._proven(now) else 2
        self._dialled_at = now
        self._refusal, self._refused_logins = None, 0
        self.connections[connection] = None
        connection.start()

    def dial_failed(self, answer: Answer) -> None:
        """Learn from it. Where nothing else is up or coming, it is the answer of everything that waits."""
        self.dialling -= 1
        self._dials_at_once = 1
        now = self.loop.time()
        up = self._up
        if up and _too_many_connections(answer):
            self._limit.refused(up + self.dialling, now)  # those under way lower it further where they fail
        again_s = DIAL_AGAIN_S
        if _login_refused(answer):
            self._refusal, self._refused_at = answer, now
            again_s = min(MAX_LOGIN_AGAIN_S, LOGIN_AGAIN_S * 2.0**self._refused_logins)
            self._refused_logins += again_s < MAX_LOGIN_AGAIN_S
        if up:
            self._no_dial_before = now + again_s
            self._wake_at(self._no_dial_before)
        elif not self.dialling:
            self.fail(answer)

    def close(self) -> None:
        """Answer what waits and end every connection; one that is busy is cut off."""
        self.fail(Answer(Phase.CONNECT, fault=Fault.SHUTDOWN))
        if self._alarm:
            self._alarm.cancel()
        for connection in tuple(self.connections):
            if connection.idle:
                connection.retire()
            else:
                connection.abort()

    # What its connections ask

    def next_job(self, connection: SmtpConnection) -> Job | None:
        """Return the message whose turn it is, if the limits allow one more now."""
        job = None if self._blocked() else self.waiting.popleft()
        if job is None:
            return None
        if self._bucket and not self._has_token(self._bucket):
            self.waiting.appendleft(job)
            return None
        self._available.pop(connection, None)
        most = connection.mail_max or self._messages.value
        if most and connection.taken + 1 >= most:
            connection.retiring = True  # this message is its last, and then it says QUIT
        return job

    def settled(self, connection: SmtpConnection, job: Job, answers: Mapping[str, Answer]) -> None:
        """Hand the answers to the sender, or put the message back where its connection was gone already."""
        unwell = [answer for answer in answers.values() if answer.reply is None or answer.reply.code != _OK]
        if unwell:
            for answer in unwell:
                self._learn(answer)
            if not job.put_back and job.reused and _never_begun(answers):
                job.put_back = True
                self.waiting.appendleft(job)
                return  # `ended` follows and has the pool look
        if self._limit.pauses and len(unwell) < len(answers):
            self._limit.accepted()
        if not job.answered.done():
            took_ms = (time.perf_counter() - job.began) * 1000
            job.answer(TransactionResult(answers, connection.tls, connection.connect_ms, took_ms))
        connection.connect_ms = 0.0  # whoever comes next did not have to wait for it

    def available(self, connection: SmtpConnection) -> None:
        """Remember a connection that found nothing to do, unless it is to end."""
        if (self._host.crowded or (self.outdated and not self.waiting)) and connection.idle:
            connection.retire()
        else:
            self._available[connection] = None

    def ended(self, connection: SmtpConnection, farewell: SmtpReply | None) -> None:
        """Forget the connection, and remember after how many messages the server ended it."""
        self.connections.pop(connection, None)
        self._available.pop(connection, None)
        soon = self.loop.time() - connection.finished_at < RIGHT_AFTER_S
        if farewell and farewell.code == CLOSING and connection.finished and soon and not connection.retiring:
            self._messages.closed_after(connection.finished)
        self._host.forget(connection)
        self._host.tend(self)

    # Its own limits

    @property
    def _up(self) -> int:
        return sum(each.usable for each in self.connections)

    def _proven(self, now: float) -> bool:
        return self._up > 0 and now - self._dialled_at < PROVEN_S

    def _only_repeats(self, now: float) -> bool:
        return not (self._up or self.dialling) and now - self._refused_at < REFUSED_S

    def _learn(self, answer: Answer) -> None:
        if decide(answer).outcome is Outcome.THROTTLED:
            now = self.loop.time()
            self._limit.throttled(now)
            if self._limit.paused_until > now:
                self._block_until(self._limit.paused_until)
            self.loop.call_soon(self._host.tend, self)  # not in the middle of a connection's turn

    def _has_token(self, bucket: TokenBucket) -> bool:
        now = self.loop.time()
        wait = bucket.take(now)
        if wait:
            self._block_until(now + wait)
        return not wait

    def _blocked(self) -> bool:
        return self._blocked_until > 0 and self.loop.time() < self._blocked_until

    def _block_until(self, at: float) -> None:
        self._blocked_until = max(self._blocked_until, at)
        self._wake_at(self._blocked_until)

    def _wake_at(self, at: float) -> None:
        if self._alarm:
            if self._alarm_at <= at:
                return  # it looks again then, and sets the next one
            self._alarm.cancel()
        # Kept here, for a handle of uvloop that is due at once cannot be asked when.
        self._alarm_at = at
        self._alarm = self.loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        now = self.loop.time()
        later = [each for each in (self._blocked_until, self._no_dial_before) if each > now]
        if later:
            self._wake_at(min(later))
        self._host.tend(self)


def _too_many_connections(answer: Answer) -> bool:
    reply = answer.reply
    if reply is None or answer.phase not in _OPENING:
        return False
    return reply.code in (CLOSING, _NO_SERVICE) or decide(answer).outcome is Outcome.THROTTLED


def _login_refused(answer: Answer) -> bool:
    """Return whether the login is refused for good; nonsense in place of a reply is no refusal."""
    if answer.phase is not Phase.AUTH or answer.reply is None:
        return False
    verdict = decide(answer)
    return verdict.outcome is Outcome.CONFIG_FAULT and verdict.retry is Retry.NEVER


def _never_begun(answers: Mapping[str, Answer]) -> bool:
    """Return whether the connection ended before the message's MAIL was answered.

    Its MAIL may have been what got the 421; where that asks for less, it is an answer.
    """
    first = next(iter(answers.values()))
    if first.phase is not Phase.MAIL:
        return False
    if first.reply is None:
        return first.fault is Fault.LOST
    return first.reply.code == CLOSING and decide(first).outcome is not Outcome.THROTTLED
