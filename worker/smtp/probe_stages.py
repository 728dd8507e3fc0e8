"""What a staged check finds: its stages in order, the result of each, and the report of them all.

Values only. Every text in them is cleaned and holds no secret; what a tenant must not learn has
been left out before a `Stage` is made (see `probe`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from schemas.audit import Outcome
from schemas.smtp_config import SmtpConfig, TlsMode


class Audience(StrEnum):
    """Who reads the report: whoever runs Postbote, or a partner's or org's admin."""

    OPERATOR = "operator"
    TENANT = "tenant"


class StageName(StrEnum):
    """The stages; `reach` is what a tenant sees in place of `dns`, `egress` and `tcp`."""

    DNS = "dns"
    EGRESS = "egress"
    TCP = "tcp"
    REACH = "reach"
    TLS = "tls"
    BANNER = "banner"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    EHLO_TLS = "ehlo_tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    RSET = "rset"
    QUIT = "quit"


class StageResult(StrEnum):
    """How a stage ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


NOT_COME_TO = "not come to"
"""The words of a stage that was skipped since an earlier one failed."""

REACHING = (StageName.DNS, StageName.EGRESS, StageName.TCP)
_OPENING: Mapping[TlsMode, tuple[StageName, ...]] = {
    TlsMode.NONE: (StageName.BANNER, StageName.EHLO),
    TlsMode.SSL: (StageName.TLS, StageName.BANNER, StageName.EHLO),
    TlsMode.STARTTLS: (StageName.BANNER, StageName.EHLO, StageName.STARTTLS, StageName.TLS, StageName.EHLO_TLS),
}
_MAILING = (StageName.AUTH, StageName.MAIL, StageName.RCPT, StageName.RSET, StageName.QUIT)


def plan(config: SmtpConfig, audience: Audience) -> tuple[StageName, ...]:
    """Return the stages of a check of `config`, in the order in which they come."""
    reaching = REACHING if audience is Audience.OPERATOR else (StageName.REACH,)
    return (*reaching, *_OPENING[config.tls], *_MAILING)


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about a failure: the hint's stable name, and a sentence or two."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage and how it ended.

    `ms` is its time in milliseconds, `words` the cleaned reply or what happened in its place,
    `code` the reply's. `rule` and `outcome` say what the delivery would make of a failure (see
    ``outcome_rules``). `facts` holds JSON values: ``addresses`` of DNS, ``version``, ``cipher``,
    ``verified`` and ``chain`` of TLS, ``keywords`` of EHLO, ``mechanism`` of AUTH.
    """

    name: StageName
    result: StageResult
    ms: float = 0.0
    words: str = ""
    code: int | None = None
    rule: str | None = None
    outcome: Outcome | None = None
    hint: Advice | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One object for JSON; every key is always there."""
        return {
            "name": str(self.name),
            "result": str(self.result),
            "ms": self.ms,
            "words": self.words,
            "code": self.code,
            "rule": self.rule,
            "outcome": None if self.outcome is None else str(self.outcome),
            "hint": None if self.hint is None else {"name": self.hint.name, "text": self.hint.text},
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, slots=True)
class Subject:
    """The record that was checked, as far as it may be shown."""

    scope: str
    display_name: str
    host: str
    port: int
    tls: TlsMode
    version: int
    fingerprint: str
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, config: SmtpConfig) -> "Subject":
        """Take what may be shown of `config`."""
        return cls(
            scope=str(config.scope),
            display_name=config.display_name,
            host=config.host,
            port=config.port,
            tls=config.tls,
            version=config.version,
            fingerprint=config.fingerprint,
            warnings=config.warnings(),
        )

    def to_json(self) -> dict[str, Any]:
        """One object for JSON."""
        return {
            "scope": self.scope,
            "display_name": self.display_name,
            "host": self.host,
            "port": self.port,
            "tls": str(self.tls),
            "version": self.version,
            "fingerprint": self.fingerprint,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The whole check: every planned stage once, in order; `total_ms` in milliseconds."""

    subject: Subject
    stages: tuple[Stage, ...]
    total_ms: float

    @property
    def ok(self) -> bool:
        """True where no stage failed."""
        return self.failed is None

    @property
    def failed(self) -> Stage | None:
        """The first stage that failed, or None."""
        return next((stage for stage in self.stages if stage.result is StageResult.FAILED), None)

    def to_json(self) -> dict[str, Any]:
        """One document for JSON."""
        return {
            "ok": self.ok,
            "failed": None if self.failed is None else str(self.failed.name),
            "config": self.subject.to_json(),
            "stages": [stage.to_json() for stage in self.stages],
            "total_ms": self.total_ms,
        }
