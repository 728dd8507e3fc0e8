"""What the core needs from the outside, declared by the core.

Each protocol is as small as its one caller allows; the adapters in ``rabbit``, ``smtp``,
``audit``, ``store`` and ``embedded`` fulfil them, and the tests' fakes do too.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from schemas.audit import AuditRecord, TlsUsed
from schemas.smtp_config import Scope, SmtpConfig


class Lane(StrEnum):
    """The two lane queues: what somebody waits for, and what can wait."""

    TRANSACTIONAL = "transactional"
    BULK = "bulk"


# A frozen dataclass takes three times as long to make as a named tuple; of the latter here, each mail makes several.


class Incoming(NamedTuple):
    """One message as the queue delivered it, free of the queue's library."""

    body: bytes
    content_type: str | None = None
    headers: Mapping[str, Any] = MappingProxyType({})
    lane: Lane = Lane.TRANSACTIONAL
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything about the event is recorded: the queue may forget it."""


Told = Callable[[bool], None]
"""Called by whoever moves an event on: True where that is done, False where the event stays where it was.

The first call counts.
"""


def _nobody_waits(_: bool) -> None:  # noqa: FBT001 # its only argument
    """Nearly always an event is in hand once."""


@dataclass(frozen=True, slots=True)
class Park:
    """Set the event aside for an operator; `reason` is a short code, `detail` a sentence.

    `pending` are the recipients that nothing final was said about; empty means all or unknown.
    `headers` are what the event carries of its progress (see `progress`). `told` is called with the
    end of the moving, for other copies of the event wait for it.
    """

    reason: str
    detail: str
    pending: tuple[str, ...] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)
    told: Told = field(default=_nobody_waits, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Return:
    """Give the event back, for another worker or a later start: nothing of it is under way here.

    The queue hands it out as if for the first time (published again with confirm, then
    acknowledged), with `headers` as its progress; a plain requeue would make the next worker
    suspect a crash. `told`: see `Park`.
    """

    headers: Mapping[str, Any] = field(default_factory=dict)
    told: Told = field(default=_nobody_waits, compare=False, repr=False)


class Tier(Enum):
    """The waiting rooms of the broker, shortest first: name and seconds that a message rests at most."""

    TEN_SECONDS = ("10s", 10)
    ONE_MINUTE = ("1m", 60)
    FIVE_MINUTES = ("5m", 300)
    THIRTY_MINUTES = ("30m", 1800)
    TWO_HOURS = ("2h", 7200)

    def __init__(self, label: str, seconds: int) -> None:
        """Spread the value: `label` is part of the queue's name."""
        self.label = label
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Later:
    """Let the event rest in a tier for `wait_s` seconds (at most the tier's own), then come again.

    `headers` are its progress, in place of any that it carried before. `told`: see `Park`.
    """

    tier: Tier
    wait_s: float
    headers: Mapping[str, Any] = field(default_factory=dict)
    told: Told = field(default=_nobody_waits, compare=False, repr=False)


Settlement = Ack | Park | Return | Later


@dataclass(frozen=True, slots=True)
class MailEnvelope:
    """The SMTP envelope (RFC 5321 section 2.3.1): reverse path and forward paths."""

    mail_from: str
    recipients: tuple[str, ...]


class RenderedMessage(NamedTuple):
    """A finished RFC 5322 message: CRLF line ends, not dot-stuffed, ending in CRLF.

    `smtputf8`: the headers or addresses need the SMTPUTF8 extension (RFC 6531).
    `eight_bit`: the content has octets above 127 and needs 8BITMIME (RFC 6152).
    `bulk`: nobody waits for it, so others may go first.
    """

    content: bytes
    message_id: str
    smtputf8: bool = False
    eight_bit: bool = False
    bulk: bool = False


class Phase(StrEnum):
    """Where in the SMTP dialogue something happened; the column that outcome rules match on."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    FINAL = "final"


class Fault(StrEnum):
    """What went wrong where no reply says it; the other thing that outcome rules match on."""

    DNS_NOT_FOUND = "dns_not_found"
    DNS_UNAVAILABLE = "dns_unavailable"
    UNREACHABLE = "unreachable"
    EGRESS_DENIED = "egress_denied"
    TIMEOUT = "timeout"
    LOST = "lost"
    TLS_UNTRUSTED = "tls_untrusted"
    TLS_NOT_OFFERED = "tls_not_offered"
    TLS_FAILED = "tls_failed"
    AUTH_NOT_OFFERED = "auth_not_offered"
    SMTPUTF8_NOT_OFFERED = "smtputf8_not_offered"
    EIGHT_BIT_NOT_OFFERED = "eight_bit_not_offered"
    TOO_LARGE = "too_large"
    PROTOCOL = "protocol"
    SHUTDOWN = "shutdown"


class SmtpReply(NamedTuple):
    """One reply of the server: `code` 200-599, `text` as sent, lines joined by newlines."""

    code: int
    text: str


class Answer(NamedTuple):
    """What the transaction said about one recipient: the reply that decided, or the fault instead."""

    phase: Phase
    reply: SmtpReply | None = None
    fault: Fault | None = None
    detail: str = ""


class TransactionResult(NamedTuple):
    """One attempt to hand a message over: an answer for each recipient, never fewer.

    `connect_ms` is 0.0 where a pooled connection was reused.
    """

    answers: Mapping[str, Answer]
    tls: TlsUsed | None = None
    connect_ms: float = 0.0
    transaction_ms: float = 0.0


Heard = Callable[[TransactionResult], None]
"""Takes a result before anybody else goes on; must not block."""


class Mailer(Protocol):
    """Hands messages to SMTP servers."""

    async def send(
        self, config: SmtpConfig, envelope: MailEnvelope, message: RenderedMessage, heard: Heard | None = None
    ) -> TransactionResult:
        """Run one transaction; faults of the network and the server are answers, not exceptions.

        `heard` is called with the result in the turn of the loop in which its last reply is read. What it raises
        is raised here.
        """
        ...


class Document(NamedTuple):
    """One audit record as it is stored: its `_id`, the month (``YYYY.MM``) of its index, its JSON."""

    document_id: str
    index_month: str
    document: bytes


class AuditSink(Protocol):
    """Keeps records for good."""

    def write(self, records: Sequence[AuditRecord]) -> Awaitable[None]:
        """Begin to write, in the call itself where that is possible; to be awaited until every record is durable."""
        ...


class AuditLookup(Protocol):
    """Answers whether something has been recorded already."""

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> index month), those that exist; reads its own writes.

        Raises AuditUnavailable where nobody can say now.
        """
        ...

    @property
    def complete(self) -> bool:
        """False while records are on their way that cannot be found yet."""
        ...


@dataclass(frozen=True, slots=True)
class ScopedConfigs:
    """What is stored for a scope's lineage: default records by scope, and whether org records count.

    `fallbacks`: by scope, what sends while the default rests, in its order.
    """

    records: Mapping[Scope, SmtpConfig]
    org_enabled: bool = False
    fallbacks: Mapping[Scope, tuple[SmtpConfig, ...]] = field(default_factory=dict)


class ConfigSource(Protocol):
    """Knows the SMTP records."""

    async def configs_for(self, scope: Scope) -> ScopedConfigs:
        """Return the default record of each scope in `scope.lineage()` that has one."""
        ...
