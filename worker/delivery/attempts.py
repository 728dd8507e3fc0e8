"""The attempts at one message within this process: send, record, decide, again.

Every attempt's final answers are recorded before anything else happens, so that what the server
accepted is durable even if the rest of the event still waits. What is left at the end is told, not
decided: `settling` says what becomes of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog

from schemas.audit import AuditRecord, Outcome
from schemas.event import OnDoubt
from schemas.smtp_config import SmtpConfig
from worker.delivery.breakers import opens
from worker.delivery.outcome import Retry, Verdict, decide
from worker.delivery.ports import Answer, AuditSink, MailEnvelope, Mailer, TransactionResult
from worker.delivery.progress import Progress
from worker.delivery.records import RecordWriter
from worker.delivery.retry import Interrupted, RetryPolicy, StillPending, retry_pending
from worker.delivery.schedule import NEAR_S
from worker.message import Rendered

log = structlog.get_logger(__name__)

Sleep = Callable[[float], Awaitable[None]]

# An enum's members are looked up slowly, and every mail asks for these.
_DOUBT, _NEVER = Retry.DOUBT, Retry.NEVER
_ACCEPTED, _CONFIG_FAULT = Outcome.ACCEPTED, Outcome.CONFIG_FAULT


# A loop knows its tasks by weak references only.
_LEFT: set[asyncio.Future[None]] = set()

# Named tuples, since each mail makes all of these, and a frozen dataclass takes three times as long.


class Judged(NamedTuple):
    """One recipient's answer and what it means."""

    recipient: str
    answer: Answer
    verdict: Verdict


class Outlets(NamedTuple):
    """Where attempts lead: the mailer, the audit, and whoever is told the answers of each one."""

    mailer: Mailer
    audit: AuditSink
    observe: Callable[[Iterable[Judged]], None]


class Finished(NamedTuple):
    """How the attempts ended.

    attempt      the number of the last one
    waiting      who wants another attempt, later; not recorded since that attempt
    broken       who waits for the SMTP record to work; not recorded
    doubtful     who may have the mail; recorded as in doubt
    held         whom only an operator can help; recorded
    interrupted  the worker stops: `waiting` are recorded, and go back
    in_doubt_before  who was in doubt before the last time that the mail was sent
    """

    attempt: int
    waiting: tuple[Judged, ...] = ()
    broken: tuple[Judged, ...] = ()
    doubtful: tuple[Judged, ...] = ()
    held: tuple[Judged, ...] = ()
    interrupted: bool = False
    in_doubt_before: frozenset[str] = frozenset()

    @property
    def leaves_nobody(self) -> bool:
        """Whether everybody has an end, as nearly always."""
        return not (self.waiting or self.broken or self.doubtful or self.held)


class Attempts:
    """One message on its way to its pending recipients; `run` is called once."""

    def __init__(
        self,
        outlets: Outlets,
        config: SmtpConfig,
        rendered: Rendered,
        writer: RecordWriter,
        progress: Progress,
    ) -> None:
        """Nothing is sent yet."""
        self._outlets = outlets
        self._config = config
        self._rendered = rendered
        self._writer = writer
        self._pending = progress.pending or ()
        self._attempt = self._before = progress.attempt
        self._in_doubt_before = frozenset(progress.doubtful)
        self._waiting: tuple[Judged, ...] = ()
        self._broken: tuple[Judged, ...] = ()
        self._doubtful: tuple[Judged, ...] = ()
        self._held: tuple[Judged, ...] = ()
        self._last: TransactionResult | None = None
        self._recording: Awaitable[None] | None = None

    async def run(self, policy: RetryPolicy, sleep: Sleep) -> Finished:
        """Attempt until every recipient has an end, the budget is spent, or `sleep` is interrupted."""
        try:
            await self._until_settled(policy, sleep)
            if self._doubtful and self._resendable() and policy.doubt_wait_s < NEAR_S:
                await self._resend_doubtful(policy, sleep)
        except Interrupted:
            return self._finished(interrupted=True)
        return self._finished()

    async def record(self, judged: Judged, outcome: Outcome, next_attempt_at: datetime | None) -> None:
        """Record what was decided about someone after the last attempt."""
        await self._record((judged,), outcome=outcome, next_attempt_at=next_attempt_at)

    def _finished(self, *, interrupted: bool = False) -> Finished:
        return Finished(
            self._attempt,
            self._waiting,
            self._broken,
            self._doubtful,
            self._held,
            interrupted=interrupted,
            in_doubt_before=self._in_doubt_before,
        )

    async def _until_settled(self, policy: RetryPolicy, sleep: Sleep) -> None:
        """Attempt until nothing is pending or the budget is spent."""
        try:
            await self._step()
        except StillPending as first:
            await self._retry(first, policy, sleep)

    async def _retry(self, first: StillPending, policy: RetryPolicy, sleep: Sleep) -> None:
        try:
            await retry_pending(
                first, self._step, policy=policy, retries=self._config.retries, before_wait=self._defer, sleep=sleep
            )
        except StillPending:
            log.debug("the retries in process are spent", attempt=self._attempt, pending=len(self._waiting))

    def _resendable(self) -> bool:
        """Whoever is in doubt for the first time may be sent the same again, unless the event forbids it."""
        if self._writer.event.data.on_doubt is OnDoubt.HOLD:
            return False
        return any(one.recipient not in self._in_doubt_before for one in self._doubtful)

    async def _resend_doubtful(self, policy: RetryPolicy, sleep: Sleep) -> None:
        """Send the same bytes once more, after a wait in which a slow server may still have answered others.

        Whoever has both copies can tell them for one by their Message-ID; the record says that
        this may be a second one. A second doubt is an operator's.
        """
        await sleep(policy.doubt_wait_s)
        waiting, self._waiting = self._waiting, ()
        again = tuple(one for one in self._doubtful if one.recipient not in self._in_doubt_before)
        self._doubtful = tuple(one for one in self._doubtful if one not in again)
        self._pending = tuple(one.recipient for one in again)
        self._in_doubt_before |= set(self._pending)
        self._writer.doubtful |= set(self._pending)
        try:
            await self._until_settled(policy, sleep)
        finally:  # who waited before goes on waiting, also where the worker stops meanwhile
            self._waiting += waiting

    async def _step(self) -> None:
        """Make one attempt; raise StillPending where some recipients want another."""
        self._attempt += 1
        envelope = self._rendered.envelope
        if envelope.recipients != self._pending:
            envelope = replace(envelope, recipients=self._pending)
        await self._send(envelope)
        tried, self._pending = len(self._pending), tuple(one.recipient for one in self._waiting)
        if self._waiting:
            progressed = len(self._waiting) < tried
            raise _failure(self._waiting, progressed=progressed, first=self._attempt == self._before + 1)

    async def _send(self, envelope: MailEnvelope) -> None:
        """Send, and return once what came of it is recorded."""
        self._recording = None
        try:
            await self._outlets.mailer.send(self._config, envelope, self._rendered.message, self._hear)
        except asyncio.CancelledError:
            if self._recording is not None:  # what was heard is recorded, whoever gives up waiting
                _finish_alone(self._recording)
            raise
        if self._recording is not None:
            await self._recording

    def _hear(self, result: TransactionResult) -> None:
        """Judge the answers and begin to record them, in the turn of the loop in which they were read.

        Until the journal has it, a kill would make a second mail of a 250, and under load a turn takes long.
        """
        self._last = result
        judged = [Judged(r, answer := result.answers[r], decide(answer)) for r in self._pending]
        self._outlets.observe(judged)
        self._recording = self._begin_to_record(self._sort(judged))

    def _sort(self, judged: list[Judged]) -> list[Judged]:
        """Return who has an end or is in doubt, and remember the others."""
        told: list[Judged] = []
        waiting: list[Judged] = []
        for one in judged:
            retry = one.verdict.retry
            if retry is _DOUBT:
                # Nobody can know whether these arrived, and sending again at once could make a second mail.
                self._doubtful += (one,)
                told.append(one)
            elif retry is not _NEVER:
                waiting.append(one)
            elif opens(one.answer, one.verdict):
                self._broken += (one,)
            else:
                told.append(one)
                if one.verdict.outcome is _CONFIG_FAULT:
                    self._held += (one,)
        self._waiting = tuple(waiting)
        return told

    async def _defer(self, seconds: float) -> None:
        """Record the pending recipients with the time of their next attempt."""
        await self._record(self._waiting, next_attempt_at=datetime.now(UTC) + timedelta(seconds=seconds))

    async def _record(
        self, judged: Iterable[Judged], *, outcome: Outcome | None = None, next_attempt_at: datetime | None = None
    ) -> None:
        recording = self._begin_to_record(judged, outcome=outcome, next_attempt_at=next_attempt_at)
        if recording is not None:
            await recording

    def _begin_to_record(
        self, judged: Iterable[Judged], *, outcome: Outcome | None = None, next_attempt_at: datetime | None = None
    ) -> Awaitable[None] | None:
        """Hand the records, where there are any, to the audit in the call itself; to be awaited until durable."""
        result = self._last
        if result is None:  # nothing was attempted, so nothing can be recorded
            return None
        found: list[AuditRecord] = [
            self._writer.of_verdict(
                one.recipient,
                one.verdict,
                one.answer,
                result,
                self._attempt,
                outcome=outcome,
                next_attempt_at=next_attempt_at,
            )
            for one in judged
        ]
        return _told_of(found, self._outlets.audit.write(found)) if found else None


async def _told_of(found: Iterable[AuditRecord], writing: Awaitable[None]) -> None:
    await writing
    _log(found)


def _finish_alone(recording: Awaitable[None]) -> None:
    left = asyncio.ensure_future(recording)
    _LEFT.add(left)
    left.add_done_callback(_LEFT.discard)


def _failure(waiting: tuple[Judged, ...], *, progressed: bool, first: bool) -> StillPending:
    """What the next attempt may cost: a split that got some through is free, and one lost connection needs no wait.

    A server that drops every connection, or takes nobody at all, is waited for like any other.
    """
    wants = {one.verdict.retry for one in waiting}
    free = {Retry.UNCHARGED, Retry.SPLIT} if progressed else {Retry.UNCHARGED}
    split = progressed and wants == {Retry.SPLIT}
    return StillPending(at_once=split or (first and wants == {Retry.AT_ONCE}), charged=not wants <= free)


def _log(found: Iterable[AuditRecord]) -> None:
    """Tell of each recipient but the accepted, nearly all of them: those are in the audit, and each line costs."""
    for record in found:
        if record.outcome is _ACCEPTED:
            continue
        log.info(
            "recipient",
            outcome=record.outcome.value,
            attempt=record.attempt,
            code=record.reply.code if record.reply else None,
            reason=record.reason,
        )
