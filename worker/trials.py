"""Trying records for the API and the commands: test mails, and staged checks.

Part of the composition root (see ``app``): it joins the engine that sends every mail, the egress guard and
the audit. A test mail has a pool of its own, which is closed after it. So an unsaved record shares no
connection with the stored one, whatever version it bears, and takes none away from the mail that is waiting.

A tenant learns of a server that cannot be reached just that (see `worker.smtp.probe_reach`), and of a
record that is not its own neither the host nor what the server says there.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from schemas.audit import AuditRecord, Outcome
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from worker.control.trials import TestMail, Verification
from worker.delivery.outcome import decide
from worker.delivery.ports import Answer, AuditSink, TransactionResult
from worker.delivery.privacy import PLAIN, Privacy
from worker.delivery.records import RecordWriter, Stopwatch
from worker.delivery.verification import (
    UnmailableTest,
    cut_short,
    event_of,
    masked,
    of_verification,
    only_outcome,
    owns,
    sender_of,
)
from worker.errors import AuditUnavailable, RenderError
from worker.message import Rendered, render
from worker.message.sender import default_from
from worker.proof.sealed import DocumentSink
from worker.recipients import privacy_of
from worker.recording import sealing
from worker.settings import Settings
from worker.smtp import probe
from worker.smtp.dial import Dialled, dial
from worker.smtp.egress import EgressGuard
from worker.smtp.hints import Case, hint_for
from worker.smtp.pool import SmtpPool
from worker.smtp.probe_reach import TENANT_REACH_S, Reached, ReachingClient, reach_as_tenant
from worker.smtp.probe_stages import Audience, Report
from worker.smtp.reach import Resolver, look_up

log = structlog.get_logger(__name__)

# A command has only just opened its audit, which looks after its index template before the first record.
COMMAND_AUDIT_S = 10.0
_HEAD_GRACE_S = 1.0
_AUDIT_GRACE_S = 0.1  # what it has not taken by then, it was given time for
DKIM = "dkim"
"""What a RenderError names where the record's key cannot sign."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: for one test mail, for a tenant's way to the server, and for the audit to answer."""

    overall_s: float = 60.0
    reach_s: float = TENANT_REACH_S
    audit_s: float = 2.0


class Trials:
    """Fulfils `worker.control.trials.Verifier` and `Prober`."""

    def __init__(
        self,
        audit: AuditSink,
        guard: EgressGuard,
        *,
        ehlo_name: str,
        worker_id: str,
        privacy: Privacy = PLAIN,
        limits: Limits = Limits(),
        resolve: Resolver = look_up,
    ) -> None:
        """Nothing is opened; `audit` may be away, and keeps recipients by `privacy`."""
        self._audit = audit
        self._guard = guard
        self._ehlo_name = ehlo_name
        self._worker_id = worker_id
        self._privacy = privacy
        self._limits = limits
        self._resolve = resolve
        self._writing: set[asyncio.Task[bool]] = set()

    async def close(self) -> None:
        """Give up the records that the audit has not taken."""
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)

    # Test mails

    async def verify(self, config: SmtpConfig, scope: Scope, mail: TestMail) -> Verification:
        """Send `mail` once by `config` for `scope` and record what came of it; see `Verifier`."""
        began, now = time.perf_counter(), datetime.now(UTC)
        try:
            event = event_of(mail, scope, str(uuid.uuid4()), now)
        except UnmailableTest as error:
            return Verification(Outcome.INVALID, str(error), None, None, None, _ms_since(began))
        writer = RecordWriter(event, self._worker_id, Stopwatch(now), config)
        try:
            rendered = await asyncio.to_thread(render, event, sender_of(event, config))
        except RenderError as error:
            fault = Outcome.CONFIG_FAULT if error.path == DKIM else Outcome.INVALID
            record = writer.plain(fault, str(error), event.data.to[0].email)
            return await self._told(record, None, config, scope, _ms_since(began))
        writer.message_id = rendered.message.message_id
        result, took_ms = await self._send(config, scope, rendered)
        (recipient,) = rendered.envelope.recipients
        answer = masked(result.answers[recipient], config)
        verdict = decide(answer)
        record = writer.of_verdict(recipient, verdict, answer, result, 1, outcome=only_outcome(verdict))
        return await self._told(record, answer, config, scope, took_ms)

    async def _send(self, config: SmtpConfig, scope: Scope, rendered: Rendered) -> tuple[TransactionResult, float]:
        """Run the one transaction, within the limit: the result, and its milliseconds."""
        began = time.perf_counter()
        pool = SmtpPool(self._ehlo_name, max_connections=1, dialler=lambda record: self._dial(record, scope))
        sending = asyncio.ensure_future(pool.send(config, rendered.envelope, rendered.message))
        try:
            await asyncio.wait({sending}, timeout=self._limits.overall_s)
            in_time, took_ms = sending.done(), _ms_since(began)
        finally:
            # Cuts off what is still under way, which gives its answer: whether the final dot had left.
            await pool.close()
            await asyncio.gather(sending, return_exceptions=True)
        result = sending.result()
        if not in_time:
            answers = {recipient: cut_short(answer) for recipient, answer in result.answers.items()}
            result = result._replace(answers=answers)
        return result, took_ms

    async def _dial(self, config: SmtpConfig, scope: Scope) -> Dialled:
        if scope == CONTROLLER:
            return await dial(config, self._ehlo_name, self._guard, self._resolve)

        async def dial_on(reached: Reached) -> Dialled:
            def make_client(**given: Any) -> ReachingClient:
                return ReachingClient(reached, **given)

            return await dial(config, self._ehlo_name, self._guard, self._resolve, make_client)

        reach_s = min(config.timeout_s, self._limits.reach_s)
        return await reach_as_tenant(config, self._guard, reach_s, dial_on)

    async def _told(
        self, found: AuditRecord, answer: Answer | None, config: SmtpConfig, scope: Scope, took_ms: float
    ) -> Verification:
        """Record what came of it, and tell the asker what the record says."""
        record = of_verification(found, own=owns(scope, config))
        log.info("test mail", scope=str(scope), outcome=record.outcome.value, reason=record.reason)
        failed = answer is not None and record.outcome is not Outcome.ACCEPTED
        advice = hint_for(Case(answer, config.port, config.tls)) if answer and failed else None
        return Verification(
            outcome=record.outcome,
            reason=record.reason,
            reply=None if record.reply is None else record.reply.model_dump(),
            hint=None if advice is None else advice.text,
            message_id=record.message_id,
            took_ms=took_ms,
            audit_id=await self._record(record),
            event_id=record.event_id,
        )

    async def _record(self, record: AuditRecord) -> str | None:
        """Write the record and return the id that it has there, or None where the audit does not take it now."""
        writing = asyncio.ensure_future(self._write(record))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        await asyncio.wait({writing}, timeout=self._limits.audit_s)
        if not writing.done():  # it goes on in the background
            log.warning("a test mail is not recorded yet: the audit does not answer")
            return None
        return self._privacy.known_as(record.document_id) if writing.result() else None

    async def _write(self, record: AuditRecord) -> bool:
        try:
            await self._audit.write([record])
        except AuditUnavailable as error:
            log.warning("a test mail is not recorded", reason=str(error))
            return False
        return True

    # Staged checks

    async def probe(self, config: SmtpConfig, asker: Scope, *, recipient: str | None) -> Mapping[str, Any]:
        """Check `config` stage by stage; see `Prober`, and `Report.to_json` for what is returned."""
        report = await probe.check(
            config,
            ehlo_name=self._ehlo_name,
            guard=self._guard,
            recipient=recipient,
            sender=default_from(config),
            audience=Audience.OPERATOR if asker == CONTROLLER else Audience.TENANT,
            resolve=self._resolve,
            limits=probe.Limits(overall_s=self._limits.overall_s, tenant_reach_s=self._limits.reach_s),
        )
        return report.to_json() if owns(asker, config) else _of_another(report, config)


@contextlib.asynccontextmanager
async def open_trials(settings: Settings, *, embedded: bool = False) -> AsyncIterator[Trials]:
    """Trials for one command, with an audit of their own; raises AuditUnavailable where that cannot even be opened."""
    guard = EgressGuard(settings.egress_allow, settings.egress_ports)
    async with contextlib.AsyncExitStack() as stack:
        audit = await _open_audit(settings, stack, embedded=embedded)
        limits = Limits(audit_s=COMMAND_AUDIT_S)
        trials = Trials(
            await stack.enter_async_context(sealing(settings, audit, in_order=embedded, grace_s=_HEAD_GRACE_S)),
            guard,
            ehlo_name=settings.ehlo_name,
            worker_id=settings.worker_id,
            privacy=privacy_of(settings),
            limits=limits,
        )
        stack.push_async_callback(trials.close)
        yield trials


async def _open_audit(settings: Settings, stack: contextlib.AsyncExitStack, *, embedded: bool) -> DocumentSink:
    from worker.backends import auditing_of, open_embedded

    if embedded:
        files = await stack.enter_async_context(open_embedded(settings))
        return files.audit
    from worker.audit.opensearch import OpenSearchAudit

    audit = OpenSearchAudit(**auditing_of(settings))
    stack.push_async_callback(audit.close, _AUDIT_GRACE_S)
    return audit


def _of_another(report: Report, config: SmtpConfig) -> dict[str, Any]:
    """The report on a record of another scope: how each stage ended, and nothing that names server or user."""
    stages = [stage.to_json() | {"words": "", "facts": {}} for stage in report.stages]
    applies = {"scope": str(config.scope.level), "warnings": list(config.warnings())}
    return report.to_json() | {"config": applies, "stages": stages}


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)
