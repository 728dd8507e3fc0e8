"""The attempts at one message: send to whom nothing final was said, record, decide, again.

Every attempt's final answers are recorded before anything else happens, so that what the server
accepted is durable even if the rest of the event still waits.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog

from schemas.audit import AuditRecord, Outcome
from schemas.event import OnDoubt
from schemas.smtp_config import SmtpConfig
from worker.delivery.outcome import Retry, Verdict, decide
from worker.delivery.ports import Answer, AuditSink, Mailer, TransactionResult
from worker.delivery.records import RecordWriter
from worker.delivery.retry import Interrupted, RetryPolicy, StillPending, retry_pending
from worker.message import Rendered

log = structlog.get_logger(__name__)

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Finished:
    """How the attempts ended: `parked` recipients want an operator, or nobody does.

    `interrupted`: the worker stops and something is still pending, so the event goes back.
    """

    parked: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class _Judged:
    recipient: str
    answer: Answer
    verdict: Verdict


@dataclass(slots=True)
class _Held:
    """Recipients that no further attempt in this process can help, with the first reason."""

    recipients: list[str] = field(default_factory=list)
    reason: str = ""
    detail: str = ""

    def add(self, judged: Iterable[_Judged], outcome: Outcome) -> None:
        for one in judged:
            self.reason = self.reason or outcome.value
            self.detail = self.detail or f"{one.verdict.rule}: {one.verdict.reason}"
            self.recipients.append(one.recipient)


class Attempts:
    """One message on its way to its pending recipients; `run` is called once."""

    def __init__(
        self,
        mailer: Mailer,
        audit: AuditSink,
        config: SmtpConfig,
        rendered: Rendered,
        writer: RecordWriter,
        pending: tuple[str, ...],
    ) -> None:
        """Nothing is sent yet."""
        self._mailer = mailer
        self._audit = audit
        self._config = config
        self._rendered = rendered
        self._writer = writer
        self._pending = pending
        self._attempt = 0
        self._waiting: tuple[_Judged, ...] = ()
        self._last: TransactionResult | None = None
        self._doubtful: tuple[_Judged, ...] = ()
        self._on_doubt = writer.event.data.on_doubt
        self._held = _Held()

    async def run(self, policy: RetryPolicy, sleep: Sleep) -> Finished:
        """Attempt until every recipient has an end, the budget is spent, or `sleep` is interrupted."""
        try:
            await self._until_settled(policy, sleep)
            if self._doubtful and self._on_doubt is OnDoubt.RESEND:
                await self._resend_doubtful(policy, sleep)
        except Interrupted:
            return Finished(interrupted=True)
        held = self._held
        held.add(self._doubtful, Outcome.IN_DOUBT)
        return Finished(tuple(held.recipients), held.reason, held.detail)

    async def _until_settled(self, policy: RetryPolicy, sleep: Sleep) -> None:
        """Attempt until nothing is pending; what is left at the end of the budget is held."""
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
            # The retry tiers of the broker will take these; until they exist an operator does.
            await self._record(self._waiting, outcome=Outcome.PARKED)
            self._held.add(self._waiting, Outcome.DEFERRED)

    async def _resend_doubtful(self, policy: RetryPolicy, sleep: Sleep) -> None:
        """Send the same bytes once more, after a wait in which a slow server may still have answered others.

        Whoever has both copies can tell them for one by their Message-ID; the record says that
        this may be a second one. A second doubt is an operator's.
        """
        self._pending = tuple(one.recipient for one in self._doubtful)
        self._doubtful = ()
        await sleep(policy.doubt_wait_s)
        self._writer.possible_duplicate = True
        await self._until_settled(policy, sleep)

    async def _step(self) -> None:
        """Make one attempt; raise StillPending where some recipients want another."""
        self._attempt += 1
        envelope = self._rendered.envelope
        if envelope.recipients != self._pending:
            envelope = replace(envelope, recipients=self._pending)
        self._last = await self._mailer.send(self._config, envelope, self._rendered.message)
        judged = [_Judged(r, self._last.answers[r], decide(self._last.answers[r])) for r in self._pending]
        final = [one for one in judged if one.verdict.retry is Retry.NEVER]
        doubtful = tuple(one for one in judged if one.verdict.retry is Retry.DOUBT)
        self._waiting = tuple(one for one in judged if one.verdict.retry not in (Retry.NEVER, Retry.DOUBT))
        await self._record([*final, *doubtful])
        self._held.add((one for one in final if one.verdict.outcome is Outcome.CONFIG_FAULT), Outcome.CONFIG_FAULT)
        # Nobody can know whether these arrived, and sending again at once could make a second mail.
        self._doubtful += doubtful
        self._pending = tuple(one.recipient for one in self._waiting)
        if self._waiting:
            progressed = len(self._waiting) < len(judged)
            raise _failure(self._waiting, progressed=progressed, first=self._attempt == 1)

    async def _defer(self, seconds: float) -> None:
        """Record the pending recipients with the time of their next attempt."""
        await self._record(self._waiting, next_attempt_at=datetime.now(UTC) + timedelta(seconds=seconds))

    async def _record(
        self,
        judged: Iterable[_Judged],
        *,
        outcome: Outcome | None = None,
        next_attempt_at: datetime | None = None,
    ) -> None:
        result = self._last
        if result is None:  # nothing was attempted, so nothing can be recorded
            return
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
        if found:
            await self._audit.write(found)
            _log(found)


def _failure(waiting: tuple[_Judged, ...], *, progressed: bool, first: bool) -> StillPending:
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
        if record.outcome is Outcome.ACCEPTED:
            continue
        log.info(
            "recipient",
            outcome=record.outcome.value,
            attempt=record.attempt,
            code=record.reply.code if record.reply else None,
            reason=record.reason,
        )
