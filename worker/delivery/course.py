"""One delivery of one event, step by step: what is known of it, whether it may go now, and what then became of it.

Each step either passes the event on or ends the delivery with a settlement; whatever ends it has
been recorded before. A rest in a tier is no end: the event comes back with its progress.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from random import random

import structlog

from schemas.audit import Outcome
from schemas.event import EmailEvent
from schemas.smtp_config import SmtpConfig
from worker.delivery.admission import CROWDED_HOPS, Admission, Refusal
from worker.delivery.attempts import Attempts, Finished, Judged, Outlets
from worker.delivery.breakers import BreakerKey, Breakers, Change, Probe, Waits
from worker.delivery.choosing import Broken, Resting, Stuck, in_turn, stands_in, untouched
from worker.delivery.claims import Claim, Claims, Unclaimed
from worker.delivery.large import is_large
from worker.delivery.lines import Lines
from worker.delivery.lookups import Known, look_up
from worker.delivery.ports import (
    Ack,
    AuditLookup,
    AuditSink,
    ConfigSource,
    Incoming,
    Lane,
    Later,
    Mailer,
    Park,
    Return,
    Settlement,
)
from worker.delivery.progress import Progress
from worker.delivery.reading import configs_of
from worker.delivery.records import RecordWriter
from worker.delivery.resolution import Resolved, Unresolved, resolve
from worker.delivery.retry import Interrupted, RetryPolicy
from worker.delivery.schedule import NEAR_S, Exhausted, Expired, Rest, crowd_rest, hop_rest, rest_towards
from worker.delivery.settling import Round, ToRecord, end_of, settle
from worker.errors import AuditUnavailable, RenderError, SecretKeyMissing, SecretUnreadable
from worker.message import ConfigFaultReason, Rendered, Sender, choose_sender, render

log = structlog.get_logger(__name__)

_UNBOUNDED = 1_000_000
_DONE = Ack()


def tell_nobody(_: Change) -> None:
    """One replica alone has nobody to tell."""


@dataclass(frozen=True, slots=True)
class PipelinePorts:
    """The outside that one pipeline works with; `share` tells other replicas of a breaker's change."""

    configs: ConfigSource
    mailer: Mailer
    audit: AuditSink
    lookup: AuditLookup
    breakers: Breakers = field(default_factory=Breakers)
    lines: Lines = field(default_factory=lambda: Lines(Admission(_UNBOUNDED, _UNBOUNDED)))
    share: Callable[[Change], None] = tell_nobody
    claims: Claims = field(default_factory=Unclaimed)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all deliveries of a process have in common; `sleep` raises Interrupted once it stops."""

    policy: RetryPolicy
    sleep: Callable[[float], Awaitable[None]]
    stopping: Callable[[], bool]
    jitter: Callable[[], float] = random


class Course:
    """One delivery of one event; `run` is called once."""

    def __init__(
        self,
        ports: PipelinePorts,
        conditions: Conditions,
        event: EmailEvent,
        incoming: Incoming,
        progress: Progress,
        writer: RecordWriter,
    ) -> None:
        """Nothing is done yet; `progress` is what the event brought along."""
        self._ports = ports
        self._conditions = conditions
        self._event = event
        self._scope = event.scope
        self._incoming = incoming
        self._progress = progress
        self._writer = writer
        self._suspect = incoming.redelivered or progress.suspect
        self._claim: Claim | None = None
        if self._suspect:
            self._claim = Claim(ports.claims, event, ports.audit, ports.lookup)
            self._ports = replace(ports, audit=self._claim.audit)

    def run(self) -> Awaitable[Settlement]:
        """Take every step until one ends the delivery."""
        return self._steps() if self._claim is None else self._claim.during(self._steps())

    async def _steps(self) -> Settlement:
        early = self._rest_until_due() or await self._see_what_is_known()
        if early is not None:
            return early
        expires_at = self._event.data.expires_at
        if expires_at is not None and expires_at <= self._writer.stopwatch.received:
            await self._record_all(Outcome.EXPIRED, "expires_at passed before delivery")
            return end_of(self._progress)
        try:
            await self._wait_until_due()
            return await self._resolve_and_send()
        except Interrupted:
            return Return(self._progress.headers())

    # What is known

    async def _see_what_is_known(self) -> Settlement | None:
        """Ask the audit, and take out who has an end; whoever may have been sent to waits until that is sure."""
        try:
            known = await self._known()
        except AuditUnavailable:
            if self._suspect:
                return self._rest_as_suspect()
            # Mail flows on: a second acceptance would show when the records are shipped (see audit/bulk).
            known = Known(self._pending, (), anything=False)
        if known is None:
            return self._rest_as_suspect()
        self._writer.possible_duplicate = self._suspect
        self._writer.doubtful = frozenset(self._progress.doubtful)
        self._take_over(known)
        if known.pending:
            return None
        log.info("event is recorded already: nothing left to send")
        return end_of(self._progress)

    def _known(self) -> Awaitable[Known | None]:
        ask = partial(look_up, self._event, self._progress, self._ports.lookup, suspect=self._suspect)
        return ask() if self._claim is None else self._claim.known(ask, self._still_unsure)

    def _still_unsure(self, known: Known) -> bool:
        """Records may be in an outbox still, or in the journal of a neighbour that crashed and is coming up."""
        return not self._ports.lookup.complete or not (known.anything or self._progress.suspect)

    def _take_over(self, known: Known) -> None:
        # Once suspect, always suspect: whatever is sent from now on may be a second one.
        progress = self._progress._replace(pending=known.pending, suspect=self._suspect)
        if known.in_doubt:
            detail = "the server may have the mail already, and the event asks to hold it then"
            progress = progress._replace(
                held=(*progress.held, *known.in_doubt),
                held_reason=progress.held_reason or Outcome.IN_DOUBT.value,
                held_detail=progress.held_detail or detail,
            )
        self._progress = progress

    @property
    def _pending(self) -> tuple[str, ...]:
        pending = self._progress.pending
        return self._event.data.recipients() if pending is None else pending

    # When it is due

    def _seconds_to_go(self) -> float:
        due, not_before = self._progress.due, self._event.data.not_before
        if due is None and not_before is None:
            return 0.0
        return (max(each for each in (due, not_before) if each) - datetime.now(UTC)).total_seconds()

    def _rest_until_due(self) -> Settlement | None:
        seconds = self._seconds_to_go()
        if seconds <= NEAR_S:
            return None
        rest = rest_towards(seconds)
        return Later(rest.tier, rest.wait_s, self._progress._replace(suspect=self._suspect).headers())

    async def _wait_until_due(self) -> None:
        seconds = self._seconds_to_go()
        if seconds > 0:
            await self._conditions.sleep(seconds)

    # Whether it may go

    async def _resolve_and_send(self) -> Settlement:
        began = time.perf_counter()
        try:
            stored = await configs_of(self._ports.configs, self._scope, self._conditions.sleep)
        except (SecretUnreadable, SecretKeyMissing) as error:
            return await self._park(Outcome.CONFIG_FAULT, f"secret: {error}")
        self._writer.stopwatch.resolve_ms = _ms_since(began)
        match resolve(self._scope, stored):
            case Unresolved(looked_at):
                reason = f"no SMTP record for {', '.join(str(s) for s in looked_at)}"
                return await self._park(Outcome.UNCONFIGURED, reason)
            case Resolved() as found:
                return await self._send_by_one_of(*in_turn(found, self._progress))

    # Which record sends

    async def _send_by_one_of(self, first: SmtpConfig, fallbacks: tuple[SmtpConfig, ...]) -> Settlement:
        """Send by the first record that works; where none does now, the event rests."""
        self._writer.config = first
        # Only whoever may go on to another record asks before it takes a place: a place is its server's time.
        ended = (self._resting(first) if fallbacks else None) or await self._send_if_admitted(first)
        for config in fallbacks:
            if not isinstance(ended, Resting | Broken):
                return ended
            if stands_in(config, self._event, self._ports.breakers, time.time()):
                ended = await self._send_by_fallback(config, ended)
        return await self._rest_as(first, ended) if isinstance(ended, Resting | Broken) else ended

    def _resting(self, config: SmtpConfig) -> Resting | None:
        waits = self._ports.breakers.rests(BreakerKey.of(config), time.time())
        return None if waits is None else Resting(waits.reason)

    async def _send_by_fallback(self, config: SmtpConfig, stuck: Stuck) -> Settlement | Stuck:
        if isinstance(stuck, Broken):
            await self._leave(stuck)
        self._writer.config = config
        ended = await self._send_if_admitted(config)
        return Resting(stuck.reason) if isinstance(ended, Resting) else ended

    async def _leave(self, broken: Broken) -> None:
        """Record that the record does not work; who is left is tried again now, by another one."""
        finished, now = broken.finished, datetime.now(UTC)
        await self._record(broken.attempts, [ToRecord(one, one.verdict.outcome, now) for one in finished.broken])
        self._progress = self._progress._replace(
            attempt=finished.attempt,
            resting=Outcome.CONFIG_FAULT.value,
            pending=tuple(one.recipient for one in finished.broken),
            due=None,
        )

    async def _rest_as(self, first: SmtpConfig, stuck: Stuck) -> Settlement:
        """Rest until a record works; whoever asks why is told of the scope's default."""
        if isinstance(stuck, Broken):
            return await self._settle(stuck.attempts, stuck.finished)
        self._writer.config = first
        told = f"the SMTP record does not work ({stuck.reason}): waiting for its next trial, or for another version"
        rest = hop_rest(self._progress.hops, self._conditions.jitter())
        return await self._rest(Outcome.CONFIG_FAULT, told, rest)

    # Whether its server may have the mail now

    async def _send_if_admitted(self, config: SmtpConfig) -> Settlement | Stuck:
        place = await self._ports.lines.enter(self._scope, (config.host, config.port), self._incoming.lane)
        if isinstance(place, Refusal):
            return await self._rest_for_room(place)
        with place:
            return await self._send_if_unbroken(config)

    async def _send_if_unbroken(self, config: SmtpConfig) -> Settlement | Stuck:
        key = BreakerKey.of(config)
        match self._ports.breakers.check(key, time.time()):
            case Waits(_, reason):
                return Resting(reason)
            case Probe(change):
                self._ports.share(change)
                try:
                    return await self._render_and_send(config, key)
                finally:  # whatever ended it: a probe that found nothing out must not look as if it went on
                    self._tell(self._ports.breakers.undecided(key, time.time()))
            case _:
                return await self._render_and_send(config, key)

    # Sending, and what came of it

    async def _render_and_send(self, config: SmtpConfig, key: BreakerKey) -> Settlement | Stuck:
        sender = choose_sender(self._event, config)
        if isinstance(sender, ConfigFaultReason):
            return await self._park(Outcome.CONFIG_FAULT, f"{sender.code}: {sender.detail}")
        began = time.perf_counter()
        try:
            rendered = await self._render(sender)
        except RenderError as error:
            return await self._park(Outcome.INVALID, str(error))
        self._writer.stopwatch.render_ms = _ms_since(began)
        self._writer.message_id = rendered.message.message_id
        return await self._send(config, key, rendered)

    async def _render(self, sender: Sender) -> Rendered:
        if self._incoming.lane is Lane.BULK:
            sender = replace(sender, bulk=True)
        if sender.dkim is not None or is_large(self._incoming.body):  # a signature takes milliseconds, too
            return await asyncio.to_thread(render, self._event, sender)
        return render(self._event, sender)

    async def _send(self, config: SmtpConfig, key: BreakerKey, rendered: Rendered) -> Settlement | Stuck:
        if self._conditions.stopping():
            raise Interrupted
        sleep = self._conditions.sleep
        if self._claim is not None:
            self._claim.check()
            sleep = self._claim.watched(sleep)

        def observe(judged: Iterable[Judged]) -> None:
            self._tell(self._ports.breakers.learned(key, [one.answer for one in judged], time.time()))

        outlets = Outlets(self._ports.mailer, self._ports.audit, observe)
        attempts = Attempts(outlets, config, rendered, self._writer, self._progress)
        finished = await attempts.run(self._conditions.policy, sleep)
        if finished.leaves_nobody and not self._progress.held:
            return _DONE  # the usual mail
        if finished.doubtful or finished.in_doubt_before:
            self._progress = self._progress._replace(doubtful_by=config.display_name)
        return Broken(attempts, finished) if untouched(finished) else await self._settle(attempts, finished)

    async def _settle(self, attempts: Attempts, finished: Finished) -> Settlement:
        decision = settle(finished, self._round())
        await self._record(attempts, decision.to_record)
        return decision.settlement

    def _round(self) -> Round:
        conditions, now = self._conditions, datetime.now(UTC)
        return Round(
            self._event, self._incoming.lane, self._progress, conditions.policy, now, jitter=conditions.jitter()
        )

    async def _record(self, attempts: Attempts, decided: Iterable[ToRecord]) -> None:
        for one in decided:
            await attempts.record(one.judged, one.outcome, one.next_attempt_at)

    def _tell(self, change: Change | None) -> None:
        if change is not None:
            self._ports.share(change)

    # Ends and rests that no attempt led to

    async def _park(self, outcome: Outcome, reason: str) -> Settlement:
        await self._record_all(outcome, reason)
        pending = (*self._pending, *self._progress.held)
        left = self._progress._replace(attempt=self._progress.attempt + 1, pending=pending, held=())
        return Park(outcome.value, reason, pending, left.headers())

    async def _rest_for_room(self, refusal: Refusal) -> Settlement:
        reason = f"as many mails of this {refusal.which.value} are under way as its server keeps up with"
        return await self._rest(Outcome.THROTTLED, reason, crowd_rest(refusal.rest_s, self._conditions.jitter()))

    async def _rest(self, outcome: Outcome, reason: str, rest: Rest) -> Settlement:
        """Rest uncharged; recorded where the rest before was not one of this kind.

        The first rests for a cap are seconds and need no record: a flood of them would be a flood of records.
        """
        this = self._round()
        match this.too_late(rest.until(this.now)):
            case Expired():
                await self._record_all(Outcome.EXPIRED, "expires_at would have passed before the next try")
                return end_of(self._progress)
            case Exhausted():
                return await self._park(Outcome.EXHAUSTED, reason)
        progress = self._progress._replace(suspect=self._suspect)
        if progress.resting != outcome.value and not (outcome is Outcome.THROTTLED and progress.hops < CROWDED_HOPS):
            await self._record_all(outcome, reason, next_attempt_at=rest.until(this.now))
            progress = progress._replace(attempt=progress.attempt + 1, resting=outcome.value)
        return Later(rest.tier, rest.wait_s, progress._replace(hops=progress.hops + 1).headers())

    def _rest_as_suspect(self) -> Settlement:
        """Wait for a crashed neighbour's journal, or for the outbox; nothing is known, so nothing is recorded."""
        # Copies of one event, as a crash between confirm and acknowledgement leaves them, must not come back in step:
        # each would find nothing of the other. The first rest is long enough for a worker to start.
        # Whoever waits for another worker asks often: that one may have died, and its claim ends within a minute.
        jitter, hops = self._conditions.jitter(), self._progress.hops
        refused = self._claim is not None and self._claim.refused
        rest = hop_rest(0 if refused else hops, jitter if hops else 0.6 + 0.4 * jitter)
        progress = self._progress._replace(suspect=True, hops=self._progress.hops + 1)
        log.info("event was delivered before and nobody knows what came of it: waiting", seconds=rest.wait_s)
        return Later(rest.tier, rest.wait_s, progress.headers())

    async def _record_all(self, outcome: Outcome, reason: str, next_attempt_at: datetime | None = None) -> None:
        attempt = self._progress.attempt + 1
        found = [
            self._writer.plain(outcome, reason, recipient, attempt, next_attempt_at=next_attempt_at)
            for recipient in self._pending
        ]
        await self._ports.audit.write(found)
        if next_attempt_at is None:
            log.warning("event ends without mail", outcome=outcome.value, reason=reason)


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
