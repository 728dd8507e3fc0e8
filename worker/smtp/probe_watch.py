"""Watching `dial` from inside: what it does stays its own, this only looks at the clock.

`dial` takes a resolver and a client to work with. The ones given here are the real ones, which
note on a `Timeline` when a stage begins, and what was seen in it. A stage ends where the next one
begins; the one that is under way when `dial` fails is the one that failed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiosmtplib

from schemas.smtp_config import SmtpConfig, TlsMode
from worker.delivery.outcome import decide
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.delivery.replies import clean_text
from worker.smtp.egress import EgressGuard
from worker.smtp.hints import Case, hint_for, hint_for_expiry
from worker.smtp.probe_certificates import handshake_facts, watched
from worker.smtp.probe_stages import REACHING, Advice, Audience, Stage, StageName, StageResult, plan
from worker.smtp.reach import AddressInfo, Resolver
from worker.smtp.tls import own_tls_context

Observer = Callable[[Stage], None]

_MAX_KEYWORDS = 50
_LOWEST, _HIGHEST = 200, 599  # what RFC 5321 section 4.2 allows
_PHASES: Mapping[StageName, Phase] = {
    StageName.DNS: Phase.RESOLVE,
    StageName.EGRESS: Phase.CONNECT,
    StageName.TCP: Phase.CONNECT,
    StageName.REACH: Phase.CONNECT,
    StageName.TLS: Phase.TLS,
    StageName.BANNER: Phase.GREETING,
    StageName.EHLO: Phase.EHLO,
    StageName.STARTTLS: Phase.TLS,
    StageName.EHLO_TLS: Phase.EHLO,
    StageName.AUTH: Phase.AUTH,
    StageName.MAIL: Phase.MAIL,
    StageName.RCPT: Phase.RCPT,
    StageName.RSET: Phase.MAIL,
    StageName.QUIT: Phase.MAIL,
}


class Timeline:
    """The stages as they pass; `observe` learns of each as it ends."""

    def __init__(self, config: SmtpConfig, audience: Audience, observe: Observer | None) -> None:
        """Start with nothing under way."""
        self._config = config
        self._audience = audience
        self._observe = observe
        self._plan = plan(config, audience)
        self._password = "" if config.password is None else config.password.get_secret_value()
        self._began = 0.0
        self._words = ""
        self._code: int | None = None
        self._facts: dict[str, Any] = {}
        self._advice: Advice | None = None
        self.current: StageName | None = None
        """The stage under way, under the name that the audience sees."""
        self._stages: dict[StageName, Stage] = {}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What has ended, in the plan's order."""
        return tuple(self._stages[name] for name in self._plan if name in self._stages)

    def begin(self, name: StageName) -> None:
        """End the stage under way as ok and begin `name`; again for the same stage: nothing."""
        name = self._shown(name)
        if name is not self.current:
            self.done()
            self.current, self._began = name, time.perf_counter()

    def note(self, name: StageName, reply: SmtpReply | None = None, **facts: Any) -> None:
        """Keep what `name`, under way, has shown; a tenant gets nothing of what lies before the connection."""
        if self._shown(name) is not self.current or self.current is StageName.REACH:
            return
        if reply is not None:
            self._words, self._code = self.clean(reply.text), reply.code
        self._facts |= facts

    def advise(self, advice: Advice | None) -> None:
        """Have the stage under way carry a hint though it succeeds."""
        self._advice = advice

    def done(self) -> None:
        """End the stage under way as ok."""
        if self.current is not None:
            self._end(
                Stage(
                    self.current, StageResult.OK, self._elapsed(), self._words, self._code,
                    hint=self._advice, facts=self._facts,
                )
            )  # fmt: skip

    def fail(self, answer: Answer, ms: float | None = None) -> None:
        """End the stage that `answer` is about as failed, and the one before it as ok."""
        self.begin(self._to_blame(answer))
        name = self.current or self._plan[0]
        answer = _at(_PHASES[name], answer)
        verdict = decide(answer)
        stage = Stage(
            name,
            StageResult.FAILED,
            self._elapsed() if ms is None else ms,
            self._spell(answer, verdict.reason),
            None if answer.reply is None else answer.reply.code,
            verdict.rule,
            verdict.outcome,
            hint_for(Case(answer, self._config.port, self._config.tls)),
            self._facts,
        )
        self._end(stage)

    def time_out(self) -> Answer:
        """Return the answer that stands for a stage under way that took too long."""
        return Answer(_PHASES[self.current or self._plan[0]], fault=Fault.TIMEOUT)

    def skip(self, name: StageName, words: str) -> None:
        """Note that `name` was not needed, or not come to."""
        self.done()
        self._end(Stage(name, StageResult.SKIPPED, words=words))

    def skip_rest(self, words: str) -> None:
        """Skip whatever has not ended yet."""
        for name in self._plan:
            if name not in self._stages:
                self.skip(name, words)

    def _shown(self, name: StageName) -> StageName:
        return StageName.REACH if self._audience is Audience.TENANT and name in REACHING else name

    def _to_blame(self, answer: Answer) -> StageName:
        """The stage under way, except where a next one was refused before it began."""
        match answer.phase, answer.fault:
            case _, Fault.EGRESS_DENIED:
                return StageName.EGRESS
            case Phase.TLS, fault if self.current not in {StageName.STARTTLS, StageName.TLS}:
                # Not offered, or a ca_bundle that no context can be made of.
                return StageName.STARTTLS if fault is Fault.TLS_NOT_OFFERED else StageName.TLS
            case Phase.AUTH, _:
                return StageName.AUTH
            case _:
                return self.current or StageName.DNS

    def _spell(self, answer: Answer, reason: str) -> str:
        if answer.reply is not None:
            return self.clean(answer.reply.text)
        detail = self.clean(answer.detail)
        return f"{reason} ({detail})" if detail else reason

    def clean(self, text: str) -> str:
        """What may be shown of the server's words."""
        # Before it is cut to length: a password at the cut would show its head.
        return clean_text(text.replace(self._password, "[redacted]") if self._password else text)

    def _elapsed(self) -> float:
        return round((time.perf_counter() - self._began) * 1000, 1)

    def _end(self, stage: Stage) -> None:
        self.current, self._words, self._code, self._facts, self._advice = None, "", None, {}, None
        self._stages[stage.name] = stage
        if self._observe is not None:
            self._observe(stage)


def _at(phase: Phase, answer: Answer) -> Answer:
    """The answer at the phase of its stage; what the library calls a reply without a code is none."""
    reply = answer.reply
    if reply is not None and not _LOWEST <= reply.code <= _HIGHEST:
        return Answer(phase, fault=Fault.PROTOCOL, detail=reply.text)
    return Answer(phase, reply, answer.fault, answer.detail)


def watched_resolver(config: SmtpConfig, guard: EgressGuard, timeline: Timeline, resolve: Resolver) -> Resolver:
    """The resolver `resolve`, noting the addresses and what `guard` will say of each."""

    async def look(host: str, port: int) -> Sequence[AddressInfo]:
        timeline.begin(StageName.DNS)
        found = await resolve(host, port)
        addresses = [str(address[0]) for *_, address in found]
        timeline.note(StageName.DNS, addresses=addresses)
        if not addresses:
            return found
        timeline.begin(StageName.EGRESS)
        denials = {address: guard.address_denied(config, address) for address in addresses}
        denied = {address: why for address, why in denials.items() if why}
        timeline.note(StageName.EGRESS, denied=denied)
        if len(denied) < len(denials):  # `open_socket` dials those, and else raises
            timeline.begin(StageName.TCP)
        return found

    return look


class ObservedClient(aiosmtplib.SMTP):
    """The library's client, unchanged but for what it notes; it sends nothing of its own."""

    def __init__(self, config: SmtpConfig, timeline: Timeline, reached: Callable[[], None], **given: Any) -> None:
        """Note on `timeline`; call `reached` once there is a connection."""
        super().__init__(**given)
        self._config = config
        self._timeline = timeline
        self._reached = reached

    async def connect(self, **given: Any) -> aiosmtplib.SMTPResponse:
        """Take over the connected socket: TLS where it comes first, then the banner."""
        self._timeline.note(StageName.TCP, address=str(given["sock"].getpeername()[0]))
        self._reached()
        at_once = self._config.tls is TlsMode.SSL
        self._timeline.begin(StageName.TLS if at_once else StageName.BANNER)
        if at_once:
            given["tls_context"] = await self._context()
        response = await super().connect(**given)
        self._timeline.note(StageName.BANNER, SmtpReply(response.code, response.message))
        return response

    async def starttls(self, **given: Any) -> aiosmtplib.SMTPResponse:
        """Ask for TLS, then the handshake."""
        self._timeline.begin(StageName.STARTTLS)
        given["tls_context"] = await self._context()
        return await super().starttls(**given)

    async def execute_command(self, *args: bytes, **given: Any) -> aiosmtplib.SMTPResponse:
        """Send one command; EHLO and AUTH begin stages."""
        stage = self._stage_of(args[0])
        if stage is not None:
            self._timeline.begin(stage)
        if stage is StageName.AUTH:
            self._timeline.note(StageName.AUTH, mechanism=args[1].decode("ascii", "replace"))
        response = await super().execute_command(*args, **given)
        self._note(stage, SmtpReply(response.code, response.message))
        return response

    def _stage_of(self, verb: bytes) -> StageName | None:
        if verb == b"EHLO":
            return StageName.EHLO_TLS if self._timeline.current is StageName.TLS and self._upgraded else StageName.EHLO
        return StageName.AUTH if verb == b"AUTH" else None

    @property
    def _upgraded(self) -> bool:
        return self._config.tls is TlsMode.STARTTLS

    def _note(self, stage: StageName | None, reply: SmtpReply) -> None:
        if stage in {StageName.EHLO, StageName.EHLO_TLS}:
            keywords = [self._timeline.clean(line) for line in reply.text.split("\n")[1:][:_MAX_KEYWORDS]]
            self._timeline.note(stage, reply, keywords=keywords)
        elif self._timeline.current is StageName.AUTH:
            self._timeline.note(StageName.AUTH, reply)

    async def _context(self) -> Any:
        """The record's TLS context, as `dial` would give it, with an eye on the handshake."""
        timeline, config = self._timeline, self._config

        def ends(tls: Any, error: Any) -> None:
            facts = handshake_facts(tls, error, verify=config.verify_tls)
            timeline.note(StageName.TLS, **facts)
            if error is None:
                timeline.advise(hint_for_expiry(facts["chain"]))
                if config.tls is TlsMode.SSL:
                    timeline.begin(StageName.BANNER)

        return watched(await own_tls_context(config), lambda: timeline.begin(StageName.TLS), ends)
