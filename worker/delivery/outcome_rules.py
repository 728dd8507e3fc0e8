"""The outcome table: what each reply and each fault means, as data.

Read it from the top: the first rule whose phase, code, enhanced code and words all fit decides,
so the particular stands above the general and the last rules take whatever is left. Every rule
carries a reply that a real server sends (or RFC 5321 prescribes); the tests hold it to that.

Codes are written as a reply code or its leading digits: "5" is every 5yz, "452" just that one.
Enhanced codes (RFC 3463) are matched whole; BARE means that the reply had none. Words are
searched, case ignored, in the cleaned text. Repetition in a pattern is always bounded.
"""

from dataclasses import dataclass
from enum import StrEnum

from schemas.audit import Outcome
from worker.delivery.ports import Fault, Phase


class Blame(StrEnum):
    """What the reply is about, and so whom it concerns.

    recipient  this one address; the other recipients are not touched by it
    message    the message as it stands
    config     the SMTP record or the account behind it: its admin can mend it
    server     the server's own state
    local      this host: its address, its name, its shutdown
    """

    RECIPIENT = "recipient"
    MESSAGE = "message"
    CONFIG = "config"
    SERVER = "server"
    LOCAL = "local"


class Retry(StrEnum):
    """When another attempt makes sense.

    never               not by itself: it is final, or (config_fault) somebody has to change something first
    at_once             a new connection may do, nothing of the message had been handed over
    soon                on the normal schedule, charged as an attempt
    uncharged           on the shortest tier and not counted: the server asked for less
    split               at once, in a further transaction with fewer recipients
    day_then_permanent  on the schedule for a day; what then still fails is final
    doubt               after the final dot: the event's own `on_doubt` says
    """

    NEVER = "never"
    AT_ONCE = "at_once"
    SOON = "soon"
    UNCHARGED = "uncharged"
    SPLIT = "split"
    DAY_THEN_PERMANENT = "day_then_permanent"
    DOUBT = "doubt"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means. `rule` is a stable name for audit and metrics; `reason` has no server text."""

    outcome: Outcome
    rule: str
    blame: Blame
    retry: Retry
    reason: str


End = tuple[Outcome, Blame, Retry]


@dataclass(frozen=True, slots=True)
class ReplyRule:
    """One row for replies. `enhanced` and `words` are patterns, None fits all; `sample` starts with its code."""

    name: str
    phases: frozenset[Phase]
    codes: str
    end: End
    reason: str
    sample: str
    enhanced: str | None = None
    words: str | None = None


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One row for faults, where no reply decided."""

    name: str
    phases: frozenset[Phase]
    faults: frozenset[Fault]
    end: End
    reason: str


BARE = ""  # as a pattern it is matched whole, so it fits only where no enhanced code was found

_ANY = frozenset(Phase)
_OPENING = frozenset({Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.EHLO})
_SETUP = _OPENING | {Phase.TLS, Phase.AUTH}
_TLS = frozenset({Phase.TLS})
_AUTH = frozenset({Phase.AUTH})
_MAIL = frozenset({Phase.MAIL})
_RCPT = frozenset({Phase.RCPT})
_CONTENT = frozenset({Phase.DATA, Phase.BODY, Phase.FINAL})
_FINAL = frozenset({Phase.FINAL})
_AFTER_MAIL = _RCPT | _CONTENT
_TRANSACTION = _MAIL | _AFTER_MAIL
_COMMANDS = _TRANSACTION - _FINAL - {Phase.BODY}
_BEFORE_DOT = _ANY - _FINAL

_ACCEPTED = (Outcome.ACCEPTED, Blame.MESSAGE, Retry.NEVER)
_IN_DOUBT = (Outcome.IN_DOUBT, Blame.SERVER, Retry.DOUBT)
_REFUSED_RECIPIENT = (Outcome.REFUSED, Blame.RECIPIENT, Retry.NEVER)
_REFUSED_MESSAGE = (Outcome.REFUSED, Blame.MESSAGE, Retry.NEVER)
_REFUSED_SENDER = (Outcome.REFUSED, Blame.CONFIG, Retry.NEVER)
_DEFERRED_RECIPIENT = (Outcome.DEFERRED, Blame.RECIPIENT, Retry.SOON)
_DEFERRED_SERVER = (Outcome.DEFERRED, Blame.SERVER, Retry.SOON)
_DEFERRED_LOCAL = (Outcome.DEFERRED, Blame.LOCAL, Retry.SOON)
_A_DAY = (Outcome.DEFERRED, Blame.RECIPIENT, Retry.DAY_THEN_PERMANENT)
_SPLIT = (Outcome.DEFERRED, Blame.SERVER, Retry.SPLIT)
_THROTTLED = (Outcome.THROTTLED, Blame.SERVER, Retry.UNCHARGED)
_QUOTA = (Outcome.THROTTLED, Blame.CONFIG, Retry.DAY_THEN_PERMANENT)
# A 5yz or a certificate stays as it is until somebody acts. A 4yz promises that it may pass (RFC
# 5321 section 4.2.1), and so may what no 5yz has settled yet: those keep their schedule.
_CONFIG_FAULT = (Outcome.CONFIG_FAULT, Blame.CONFIG, Retry.NEVER)
_CONFIG_MAYBE = (Outcome.CONFIG_FAULT, Blame.CONFIG, Retry.SOON)
_NO_SERVICE = (Outcome.CONFIG_FAULT, Blame.SERVER, Retry.SOON)
_CLIENT_REFUSED = (Outcome.CONFIG_FAULT, Blame.LOCAL, Retry.NEVER)
_CLIENT_MAYBE = (Outcome.CONFIG_FAULT, Blame.LOCAL, Retry.SOON)

_MUST_LOG_IN = (
    r"not authenticated|authentication (?:is )?required|authori[sz]ation required|must (?:first )?authenticate"
)
_MUST_ENCRYPT = (
    r"must issue a starttls|tls (?:is )?required|encryption (?:is )?(?:required|needed)|tls 1\.\d.{0,20} not supported"
)
_NOT_YOUR_SENDER = (
    r"send ?as ?denied|send as this sender|not owned by|sender address rejected|verified sender identity"
    r"|address is not verified|sandbox subdomains|not authorized to perform|not allowed to send(?! [\w ]{0,20}\bto\b)"
)
_ACCOUNT_STOPPED = (
    r"maximum credits exceeded|sending (?:is |has been )?paused|tenant has exceeded|bad outbound sender"
    r"|your account (?:is|has been) (?:suspended|disabled|blocked|locked)"
)
_NO_RELAY = r"relay(?:ing)? (?:access )?(?:is )?(?:denied|prohibited|not (?:permitted|allowed))|unable to relay"
_LISTED_CLIENT = (
    r"blocked using|block(?:ed)? ?list|black ?list|\bdnsbl\b|\brbl\b|spamhaus|ipcheck\.proofpoint|poor reputation"
    r"|banned send|originating from your ip|traffic not accepted from this ip|permanently deferred"
    r"|client host rejected|helo command rejected"
)
_LISTED_CONTENT = (
    r"uribl|\bdbl\.|potential security issue|identified as spam|likely unsolicited|spam message"
    r"|\bvirus\b|malware|phishing"
)
_TOO_FAST = (
    r"too many (?:(?:concurrent|simultaneous|smtp) ){0,2}(?:connections|sessions|messages|emails|login|errors)"
    r"|too (?:much mail|many recipients from)|too frequent|throttl|rate ?limit|sending rate|server (?:is )?busy"
    r"|(?:connections?|thread|rate|relay|sending|messaging|submission|session) (?:has exceeded a )?(?:limits?|quota)\b"
)
_QUOTA_SPENT = r"(?:sending|relay) (?:limit|quota) exceeded|submissionquotaexceeded|message quota exceeded"
_NO_MAILBOX = (
    r"user unknown|unknown user|no such (?:user|recipient)|mailbox (?:not found|unavailable)"
    r"|doesn't have an? \S{1,80} account"
)
_FULL = r"mailbox (?:is )?full|over ?quota|quota exceeded|exceed(?:s|ed)? (?:\w{1,12} ){0,2}quota|out of storage"
_TOO_BIG = r"message (?:is )?too (?:large|big)|message exceeds|size exceeds|message size limit"
_MALFORMED = r"line (?:is )?too long|bare <?(?:cr|lf)|rfc ?(?:822|2822|5322)"
_RECIPIENT_RATE = r"receiving (?:e?mail )?(?:too quickly|at a rate)"
_TOO_MANY_RCPT = r"too many recipients(?! from)|in a separate transaction|multiple destination domains"

# A table is read by its rows, so the formatter leaves them: what matches, what it means, a sample.
# fmt: off
REPLY_RULES: tuple[ReplyRule, ...] = (
    # The positive and intermediate replies. 250 to the final dot is the one that hands the mail over
    # (RFC 5321 section 4.3.2); whatever else is positive there answers some other command.
    ReplyRule("accepted", _FINAL, "250", _ACCEPTED, "The server took responsibility for the message.",
              "250 2.0.0 Ok: queued as 4F1ABC2D3E"),
    ReplyRule("final-reply-misplaced", _FINAL, "2 3", _IN_DOUBT,
              "The reply to the final dot belongs to another command, so nobody knows.",
              "354 Start mail input; end with <CRLF>.<CRLF>"),
    ReplyRule("not-smtp", _SETUP, "2 3", _NO_SERVICE, "The server's replies do not follow SMTP.", "334 VXNlcm5hbWU6"),
    ReplyRule("out-of-step", _TRANSACTION, "2 3", _DEFERRED_SERVER,
              "The dialogue got out of step before the message was handed over.", "250 2.1.5 Ok"),

    # What concerns the connection's protection and its login, wherever the server says so.
    ReplyRule("tls-demanded", _ANY - _TLS, "4", _CONFIG_MAYBE, "The server asks for (newer) TLS than it got.",
              "421 4.7.66 TLS 1.0 and 1.1 are not supported. Please upgrade/update your client to support TLS 1.2.",
              words=_MUST_ENCRYPT),
    ReplyRule("tls-demanded-for-good", _ANY - _TLS, "5", _CONFIG_FAULT, "The server takes nothing without TLS.",
              "530 5.7.0 Must issue a STARTTLS command first", words=_MUST_ENCRYPT),
    ReplyRule("starttls-refused", _TLS, "5", _CONFIG_FAULT, "The server refused STARTTLS, and nothing goes without it.",
              "502 5.5.1 Error: command not implemented"),
    ReplyRule("starttls-not-now", _TLS, "4", _DEFERRED_SERVER, "The server cannot start TLS at the moment.",
              "454 4.7.0 TLS not available due to local problem"),
    ReplyRule("password-transition", _AUTH, "432", _CONFIG_MAYBE, "The account needs a new password (RFC 4954).",
              "432 4.7.12 A password transition is needed"),
    ReplyRule("account-stopped", _ANY, "4", _CONFIG_MAYBE, "The provider has stopped the account for now.",
              "451 Authentication failed: Maximum credits exceeded", words=_ACCOUNT_STOPPED),
    ReplyRule("account-stopped-for-good", _ANY, "5", _CONFIG_FAULT, "The provider has stopped the account.",
              "550 5.7.705 Access denied, tenant has exceeded threshold", words=_ACCOUNT_STOPPED),
    ReplyRule("credentials-refused", _ANY, "530 534 535 538", _CONFIG_FAULT,
              "The server did not accept the login, or wants one.",
              "535-5.7.8 Username and Password not accepted. Learn more at"),
    ReplyRule("login-refused", _AUTH, "5", _CONFIG_FAULT, "The server refused the login.",
              "504 5.7.4 Unrecognized authentication type"),

    # Not after the content: there, Yahoo says 5.7.9 of a message it dislikes.
    ReplyRule("login-demanded", _COMMANDS, "5", _CONFIG_FAULT, "The server wants a (stronger) login first.",
              "525 5.7.13 User account disabled", enhanced=r"5\.7\.(?:8|9|11|13|57|139)"),

    # Restrictions of the recipient, before words like "authentication required" are read otherwise.
    ReplyRule("recipient-restricted", _AFTER_MAIL, "5", _REFUSED_RECIPIENT,
              "The recipient takes mail from chosen senders only.", "550 5.7.124 Sender not in allowed-senders list",
              enhanced=r"5\.7\.1[23]\d"),
    ReplyRule("login-demanded-in-words", _TRANSACTION, "5", _CONFIG_FAULT, "The server wants a login first.",
              "503 Administrative prohibition -- authorization required.", words=_MUST_LOG_IN),

    # The sender: is it proven, is it granted to this account, does it exist?
    ReplyRule("sender-unproven", _TRANSACTION, "5", _REFUSED_SENDER,
              "The sender's domain fails SPF, DKIM, DMARC or reverse DNS.",
              "550-5.7.26 Unauthenticated email from example.com is not accepted due to domain's DMARC policy.",
              enhanced=r"5\.7\.(?:2[0-7]|509|515)"),
    ReplyRule("sender-not-granted", _TRANSACTION, "5", _CONFIG_FAULT, "The account may not send as this sender.",
              "550 5.7.60 SMTP; Client does not have permissions to send as this sender", words=_NOT_YOUR_SENDER),
    ReplyRule("sender-not-granted-yet", _TRANSACTION, "4", _CONFIG_MAYBE,
              "The account may not send for this domain yet.",
              "421 Domain mg.example.com is not allowed to send: Sandbox subdomains are for test purposes only.",
              words=r"domain \S{1,255} is not allowed to send"),
    ReplyRule("sender-address-bad", _TRANSACTION, "5", _CONFIG_FAULT, "The sender's address is not usable.",
              "501 5.1.7 Invalid address", enhanced=r"5\.1\.[78]"),

    # Of the 5.1.x, the rest is about the recipient, and says so better than any word could.
    ReplyRule("recipient-unknown", _AFTER_MAIL, "5", _REFUSED_RECIPIENT, "The server does not know this recipient.",
              "550 5.1.1 <bob@example.com>: Recipient address rejected: User unknown", enhanced=r"5\.1\.\d+"),
    ReplyRule("relay-denied", _TRANSACTION, "5", _CONFIG_FAULT, "The server does not relay for this client.",
              "554 5.7.1 <bob@example.com>: Relay access denied", words=_NO_RELAY),
    ReplyRule("relay-denied-for-now", _TRANSACTION, "4", _CONFIG_MAYBE,
              "The server does not relay for this client now.", "454 4.7.1 <bob@example.com>: Relay access denied",
              words=_NO_RELAY),

    # This host's address. A list of bad links is about the message instead, so it stands first.
    ReplyRule("content-refused", _CONTENT, "5", _REFUSED_MESSAGE, "The server takes the content for spam or danger.",
              "552 5.7.0 This message was blocked because its content presents a potential security issue.",
              words=_LISTED_CONTENT),
    ReplyRule("client-refused-at-greeting", _OPENING, "5", _CLIENT_MAYBE, "The server refuses this host's address.",
              "554 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", words=_LISTED_CLIENT),
    ReplyRule("client-refused", _TRANSACTION, "5", _CLIENT_REFUSED, "The server refuses this host's address or name.",
              "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
              words=_LISTED_CLIENT),
    ReplyRule("client-not-listed", _ANY, "421", _CLIENT_MAYBE, "This host's address is not on the server's allowlist.",
              "421 4.7.0 IP not in whitelist for RCPT domain, closing connection.", words="not in (?:white|allow)list"),

    # RFC 5321 section 3.1 lets a server greet with 554. Many mean "not now", so it is no verdict on a mail.
    ReplyRule("no-service", _OPENING, "5", _NO_SERVICE, "The server greets with a refusal.",
              "554 No SMTP service here"),

    # Size of the transaction. RFC 5321 section 4.5.3.1.10 reads 552 for too many recipients as 452.
    ReplyRule("too-many-recipients", _RCPT, "452", _SPLIT, "The server takes no more recipients in one transaction.",
              "452 4.5.3 Error: too many recipients", enhanced=r"4\.5\.3"),
    ReplyRule("too-many-recipients-in-words", _AFTER_MAIL, "4 5", _SPLIT,
              "The server takes no more recipients in one transaction.", "452 too many recipients",
              words=_TOO_MANY_RCPT),

    # One mailbox.
    ReplyRule("greylisted", _ANY, "4", _DEFERRED_SERVER, "The server greylists: it wants to be asked again.",
              "450 4.2.0 <bob@example.com>: Recipient address rejected: Greylisted", words=r"gr[ea]y-?list"),
    ReplyRule("recipient-rate", _AFTER_MAIL, "4", _DEFERRED_RECIPIENT, "The recipient gets too much mail just now.",
              "450 4.2.1 The user you are trying to contact is receiving mail too quickly.", words=_RECIPIENT_RATE),
    ReplyRule("recipient-rate-refused", _AFTER_MAIL, "5", _A_DAY,
              "The recipient gets too much mail to take more today.",
              "550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents it",
              words=_RECIPIENT_RATE),

    # The server, or the provider's limit for this account, asks for less.
    ReplyRule("quota-spent", _TRANSACTION, "5", _QUOTA, "The account's sending quota of the day is spent.",
              "550 5.4.5 Daily user sending limit exceeded.", words=_QUOTA_SPENT),
    ReplyRule("deferred-for-good", _ANY, "421", _DEFERRED_LOCAL, "The server defers everything from this host.",
              "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred",
              words="permanently deferred"),
    ReplyRule("system-problem", _ANY, "421", _DEFERRED_SERVER, "The server has a problem of its own.",
              "421 4.7.0 Temporary System Problem. Try again later.",
              words="temporary (?:system problem|server error)"),
    ReplyRule("throttled-by-policy", _ANY, "421", _THROTTLED, "The server limits how fast this host may send.",
              "421 4.7.28 Our system has detected an unusual rate of unsolicited mail.", enhanced=r"4\.7\.\d+"),
    ReplyRule("throttled-432", _ANY, "432", _THROTTLED, "The server limits parallel submissions.",
              "432 4.3.2 Concurrent connections limit exceeded."),
    ReplyRule("throttled-busy", _ANY, "4", _THROTTLED, "The server limits how fast this host may send.",
              "451 4.7.500 Server busy. Please try again later from [192.0.2.1].", enhanced=r"4\.7\.[56]\d\d|4\.4\.5"),
    ReplyRule("throttled", _ANY, "4", _THROTTLED, "The server asks for less mail, or fewer connections.",
              "454 Throttling failure: Maximum sending rate exceeded", words=_TOO_FAST),

    # Permanent refusals of the message by size and form, of the recipient by mailbox and address.
    ReplyRule("message-too-big", _TRANSACTION, "5", _REFUSED_MESSAGE, "The message is larger than the server takes.",
              "552 5.3.4 Message size exceeds fixed limit", enhanced=r"5\.3\.4|5\.2\.3"),
    ReplyRule("message-too-big-in-words", _TRANSACTION, "5", _REFUSED_MESSAGE,
              "The message is larger than the server takes.", "552 Message size exceeds maximum permitted",
              words=_TOO_BIG),
    ReplyRule("message-malformed", _CONTENT, "5", _REFUSED_MESSAGE, "The server cannot take the message's form.",
              "554 5.6.0 Invalid message content", enhanced=r"5\.6\.\d+"),
    ReplyRule("message-malformed-in-words", _CONTENT, "5", _REFUSED_MESSAGE,
              "The server cannot take the message's form.", "550-5.7.1 This message is not RFC 5322 compliant.",
              words=_MALFORMED),
    ReplyRule("mailbox-full", _AFTER_MAIL, "5", _A_DAY, "The recipient's mailbox is full.", "552 5.2.2 Mailbox full",
              enhanced=r"5\.2\.2"),
    ReplyRule("mailbox-full-in-words", _AFTER_MAIL, "5", _A_DAY, "The recipient's mailbox is full.",
              "550 mailbox is full", words=_FULL),
    ReplyRule("storage-exceeded", _RCPT, "552", _A_DAY, "The recipient's mailbox is out of room.",
              "552 Requested mail action aborted: exceeded storage allocation", enhanced=BARE),
    ReplyRule("recipient-unknown-in-words", _CONTENT, "5", _REFUSED_RECIPIENT,
              "The server does not know this recipient.",
              "554 delivery error: dd This user doesn't have a example.com account (bob@example.com) [0]",
              words=_NO_MAILBOX),
    ReplyRule("mailbox-disabled", _AFTER_MAIL, "5", _REFUSED_RECIPIENT, "The recipient's mailbox takes no mail.",
              "550 5.2.1 The email account that you tried to reach is disabled.", enhanced=r"5\.2\.\d+"),

    # Commands. 500, 502 and 503 are about the dialogue's state, which a new connection makes good;
    # 501, 504 and 555 are about what was in the command, and fall to the three rules after them.
    ReplyRule("command-out-of-step", _TRANSACTION, "500 502 503", _DEFERRED_SERVER,
              "The server lost track of the dialogue.", "503 sender not yet given"),
    ReplyRule("sender-refused", _MAIL, "5", _REFUSED_SENDER, "The server refused the sender.",
              "501 ann: sender address must contain a domain"),
    ReplyRule("recipient-refused", _RCPT, "5", _REFUSED_RECIPIENT, "The server refused the recipient.",
              "550 5.4.1 Recipient address rejected: Access denied."),
    ReplyRule("message-refused", _CONTENT, "5", _REFUSED_MESSAGE, "The server refused the message.",
              "554 5.7.1 Message rejected due to content restrictions"),

    # Whatever else is transient (RFC 5321 section 4.2.1: the first digit says so).
    ReplyRule("login-deferred", _AUTH, "4", _DEFERRED_SERVER, "The server cannot check the login at the moment.",
              "454 4.7.0 Temporary authentication failure"),
    ReplyRule("mailbox-deferred", _AFTER_MAIL, "4", _DEFERRED_RECIPIENT, "The mailbox cannot take mail at the moment.",
              "452 4.2.2 The recipient's inbox is out of storage space.", enhanced=r"4\.[12]\.\d+"),
    ReplyRule("recipient-deferred", _RCPT, "450 451 452", _DEFERRED_RECIPIENT, "The server defers this recipient.",
              "450 Requested mail action not taken: mailbox unavailable", enhanced=BARE),
    ReplyRule("server-deferred", _ANY, "4", _DEFERRED_SERVER, "The server cannot go on at the moment.",
              "451 4.3.0 Error: queue file write error"),
)

# A fault at FINAL, whatever it is, came after the dot: the message may have been taken.
FAULT_RULES: tuple[FaultRule, ...] = (
    FaultRule("lost-after-dot", _FINAL, frozenset(Fault), _IN_DOUBT,
              "The connection ended after the final dot, before its reply."),
    FaultRule("connection-lost", _BEFORE_DOT, frozenset({Fault.LOST}), (Outcome.DEFERRED, Blame.SERVER, Retry.AT_ONCE),
              "The connection was lost before the final dot."),
    FaultRule("timed-out", _BEFORE_DOT, frozenset({Fault.TIMEOUT}), _DEFERRED_SERVER,
              "The server did not answer in time."),
    FaultRule("unreachable", _BEFORE_DOT, frozenset({Fault.UNREACHABLE}), _DEFERRED_SERVER,
              "The server cannot be reached."),
    FaultRule("host-not-found", _BEFORE_DOT, frozenset({Fault.DNS_NOT_FOUND}), _CONFIG_FAULT,
              "The host name does not exist."),
    FaultRule("dns-unavailable", _BEFORE_DOT, frozenset({Fault.DNS_UNAVAILABLE}), _DEFERRED_SERVER,
              "The host name cannot be looked up at the moment."),
    FaultRule("egress-denied", _BEFORE_DOT, frozenset({Fault.EGRESS_DENIED}), _CONFIG_FAULT,
              "This host or port may not be connected to."),
    FaultRule("certificate-untrusted", _BEFORE_DOT, frozenset({Fault.TLS_UNTRUSTED}), _CONFIG_FAULT,
              "The server's certificate is not trusted."),
    FaultRule("starttls-not-offered", _BEFORE_DOT, frozenset({Fault.TLS_NOT_OFFERED}), _CONFIG_FAULT,
              "The server does not offer the TLS that the record asks for, and nothing goes without it."),
    # A handshake also fails on a server that is being restarted, so it keeps its schedule.
    FaultRule("tls-failed", _BEFORE_DOT, frozenset({Fault.TLS_FAILED}), _CONFIG_MAYBE, "The TLS handshake failed."),
    FaultRule("login-not-offered", _BEFORE_DOT, frozenset({Fault.AUTH_NOT_OFFERED}), _CONFIG_FAULT,
              "The server offers no login that the record could use."),
    FaultRule("smtputf8-not-offered", _BEFORE_DOT, frozenset({Fault.SMTPUTF8_NOT_OFFERED}), _REFUSED_MESSAGE,
              "The server cannot take addresses or headers beyond ASCII."),
    FaultRule("eight-bit-not-offered", _BEFORE_DOT, frozenset({Fault.EIGHT_BIT_NOT_OFFERED}), _REFUSED_MESSAGE,
              "The server cannot take octets above 127."),
    FaultRule("larger-than-offered", _BEFORE_DOT, frozenset({Fault.TOO_LARGE}), _REFUSED_MESSAGE,
              "The message is larger than the server says it takes."),
    FaultRule("not-smtp", _SETUP, frozenset({Fault.PROTOCOL}), _NO_SERVICE, "The server's replies do not follow SMTP."),
    FaultRule("out-of-step", _BEFORE_DOT - _SETUP, frozenset({Fault.PROTOCOL}), _DEFERRED_SERVER,
              "The dialogue got out of step before the message was handed over."),
    FaultRule("shutting-down", _BEFORE_DOT, frozenset({Fault.SHUTDOWN}),
              (Outcome.DEFERRED, Blame.LOCAL, Retry.UNCHARGED), "This worker is stopping."),
)
# fmt: on
