"""A staged check of an SMTP record: everything up to a recipient's acceptance, and never a mail.

It goes through `dial`, so what it finds is what a mail would meet: the same look-up, egress rule,
TLS context and login, once. Behind it come MAIL, RCPT, RSET and QUIT in lockstep, with the
engine's own commands and parser; DATA is not among them, so no server can take anything for a
message. One connection, closed whatever happens.

A tenant must not learn about the operator's network: which names resolve in it, which addresses
are taken. So for a tenant everything before the connection is one stage, `reach`, and every
failure of it is one and the same: the same words, rule and hint, no address, and the same time.
Whether a name does not exist, resolves to an address that the guard denies, is refused or never
answers, the stage ends at its one deadline. Shorter answers in buckets would tell a refusal (one
round trip) from a denial (none) by where the bucket's border falls. The deadline depends on the
record alone. Only a port outside the permitted ones is said at once: that is known from the
record, whatever the network is like.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiosmtplib

from schemas.smtp_config import SmtpConfig
from worker.delivery.ports import Answer, Fault, MailEnvelope, Phase, RenderedMessage
from worker.smtp import commands
from worker.smtp.commands import LocalProtocolError
from worker.smtp.dial import Dialled, dial
from worker.smtp.egress import EgressGuard
from worker.smtp.probe_dialogue import Dialogue
from worker.smtp.probe_reach import TENANT_REACH_S, OutOfReach, Reached, reach_as_tenant
from worker.smtp.probe_stages import NOT_COME_TO, Audience, Report, Stage, StageName, Subject
from worker.smtp.probe_watch import ObservedClient, Observer, Timeline, watched_resolver
from worker.smtp.reach import DialFailed, Resolver, look_up

__all__ = ["Audience", "Report", "Stage", "check"]

# Somebody sits and waits. A server that needs longer for one step is as good as none.
STAGE_S = 15.0
OVERALL_S = 60.0
_SUCCESS = 299
# What MAIL announces. It is never sent, but SIZE has to say something.
_UNSENT = RenderedMessage(b"\r\n", "<check@invalid>")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: for each step, for everything, and for a tenant's way to the server."""

    stage_s: float = STAGE_S
    overall_s: float = OVERALL_S
    tenant_reach_s: float = TENANT_REACH_S


async def check(  # noqa: PLR0913 # what is checked, from where, with whom, for whom
    config: SmtpConfig,
    *,
    ehlo_name: str,
    guard: EgressGuard,
    recipient: str | None = None,
    sender: str | None = None,
    audience: Audience = Audience.OPERATOR,
    observe: Observer | None = None,
    resolve: Resolver = look_up,
    limits: Limits = Limits(),
) -> Report:
    """Try `config` stage by stage; never raises for what it meets, never sends a mail.

    Args:
        config: the record, stored or not.
        ehlo_name: the name that EHLO gives.
        guard: where the record of a partner or an org may lead.
        recipient: an address for RCPT; without one the stage is skipped.
        sender: the reverse path for MAIL; without one MAIL and RCPT are skipped.
        audience: who will read the report; see the module's docstring.
        observe: is called with each stage as it ends.
        resolve: looks host names up.
        limits: how long it may take.
    """
    began = time.perf_counter()
    bounded = config.model_copy(update={"timeout_s": min(config.timeout_s, limits.stage_s)})
    timeline = Timeline(bounded, audience, observe)
    probe = _Probe(bounded, ehlo_name, guard, audience, timeline, resolve, limits)
    try:
        async with asyncio.timeout(limits.overall_s):
            await probe.run(sender, recipient)
    except DialFailed as failed:
        timeline.fail(failed.answer, probe.failed_ms)
    except TimeoutError:
        timeline.fail(timeline.time_out())
    timeline.skip_rest(NOT_COME_TO)
    return Report(Subject.of(config), timeline.stages, round((time.perf_counter() - began) * 1000, 1))


@dataclass(slots=True)
class _Probe:
    """One check under way; `failed_ms` replaces the time of a failure whose true time says too much."""

    config: SmtpConfig
    ehlo_name: str
    guard: EgressGuard
    audience: Audience
    timeline: Timeline
    resolve: Resolver
    limits: Limits
    failed_ms: float | None = None

    async def run(self, sender: str | None, recipient: str | None) -> None:
        dialled = await (self._reach_as_tenant() if self.audience is Audience.TENANT else self._dial(lambda: None))
        dialogue = Dialogue(dialled, self.config.timeout_s)
        try:
            if self.config.anonymous:
                self.timeline.skip(StageName.AUTH, "the record has no credentials")
            await self._converse(dialled, dialogue, sender, recipient)
        finally:
            dialogue.close()

    # To the server

    async def _dial(self, reached: Reached) -> Dialled:
        def make_client(**given: Any) -> aiosmtplib.SMTP:
            return ObservedClient(self.config, self.timeline, reached, **given)

        resolver = watched_resolver(self.config, self.guard, self.timeline, self.resolve)
        return await dial(self.config, self.ehlo_name, self.guard, resolver, make_client)

    async def _reach_as_tenant(self) -> Dialled:
        self.timeline.begin(StageName.REACH)
        reach_s = min(self.config.timeout_s, self.limits.tenant_reach_s)
        try:
            return await reach_as_tenant(self.config, self.guard, reach_s, self._dial)
        except OutOfReach:
            self.failed_ms = round(reach_s * 1000, 1)
            raise

    # At the server

    async def _converse(self, dialled: Dialled, dialogue: Dialogue, sender: str | None, recipient: str | None) -> None:
        if sender is None:
            self.timeline.skip(StageName.MAIL, "no sender is known: the record has no from_address")
            self.timeline.skip(StageName.RCPT, "no sender is known")
        elif await self._mail(dialled, dialogue, sender, recipient):
            await self._rcpt(dialogue, recipient)
        else:
            self.timeline.skip(StageName.RCPT, "the sender was refused")
        if dialogue.usable:
            await self._stage(StageName.RSET, dialogue, lambda: commands.RSET)
        if dialogue.usable:
            await self._quit(dialogue)

    async def _mail(self, dialled: Dialled, dialogue: Dialogue, sender: str, recipient: str | None) -> bool:
        envelope = MailEnvelope(sender, () if recipient is None else (recipient,))
        self.timeline.begin(StageName.MAIL)
        self.timeline.note(StageName.MAIL, sender=self.timeline.clean(sender))
        offered, require_tls = dialled.capabilities, self.config.require_tls
        utf8 = commands.needs_smtputf8(envelope, _UNSENT)
        refused = commands.refused_locally(offered, _UNSENT, utf8=utf8, require_tls=require_tls)
        if refused:
            self.timeline.fail(refused)
            return False

        def line() -> bytes:
            return commands.mail_command(offered, sender, _UNSENT, utf8=utf8, require_tls=require_tls)

        return await self._stage(StageName.MAIL, dialogue, line)

    async def _rcpt(self, dialogue: Dialogue, recipient: str | None) -> None:
        if recipient is None:
            self.timeline.skip(StageName.RCPT, "no recipient was given")
            return
        self.timeline.begin(StageName.RCPT)
        self.timeline.note(StageName.RCPT, recipient=self.timeline.clean(recipient))
        await self._stage(StageName.RCPT, dialogue, lambda: commands.rcpt_command(recipient))

    async def _quit(self, dialogue: Dialogue) -> None:
        self.timeline.begin(StageName.QUIT)
        try:
            reply = await dialogue.ask(commands.QUIT, Phase.MAIL)
        except DialFailed as failed:
            if failed.answer.fault is not Fault.LOST:
                raise
            reply = None  # many close without a word; nothing depends on it any more
        self.timeline.note(StageName.QUIT, reply)
        self.timeline.done()

    async def _stage(self, name: StageName, dialogue: Dialogue, line: Callable[[], bytes]) -> bool:
        """Send one command as a stage; True where the server agreed."""
        self.timeline.begin(name)
        phase = Phase.RCPT if name is StageName.RCPT else Phase.MAIL
        try:
            reply = await dialogue.ask(line(), phase)
        except LocalProtocolError as error:
            self.timeline.fail(Answer(phase, fault=Fault.PROTOCOL, detail=str(error)))
            return False
        if reply.code > _SUCCESS:
            self.timeline.fail(Answer(phase, reply))
            return False
        self.timeline.note(name, reply)
        self.timeline.done()
        return True
