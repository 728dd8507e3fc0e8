"""A test mail: the event that it is, whose name it bears, and what its only attempt amounts to.

Pure values and functions; `worker.trials` sends by the engine that sends every mail. A test mail passes
neither queue nor breaker nor retry schedule: it finds out about a record now, and is not tried again.
"""

from datetime import UTC, datetime

from pydantic import ValidationError

from schemas.audit import AuditRecord, Outcome, Reply
from schemas.event import EmailEvent, EmailRequested, Envelope
from schemas.smtp_config import CONTROLLER, Scope, SmtpConfig
from worker.control.trials import TestMail
from worker.delivery.outcome import Verdict
from worker.delivery.ports import Answer, Fault, SmtpReply
from worker.message import DkimKey, Sender, choose_sender

SOURCE = "urn:postbote:verification"
CATEGORY = "verification"
RECORD_TYPE = "email.verification"
_MASK = "[redacted]"
_FIELDS = {"from": "sender_email", "to": "recipient_email", "text": "body"}


class UnmailableTest(ValueError):
    """A test mail that no event can be made of; its text names the field and quotes nothing."""


def event_of(mail: TestMail, scope: Scope, identifier: str, now: datetime) -> EmailEvent:
    """Return the test mail as the event of `scope` that it is; raises UnmailableTest."""
    given = {
        "scope": {"partner": scope.partner, "org": scope.org},
        "from": {"email": mail.sender_email},
        "to": [{"email": mail.recipient_email}],
        "subject": mail.subject,
        "text": mail.body,
        "category": CATEGORY,
    }
    try:
        data = EmailRequested.model_validate(given)
        envelope = Envelope(specversion="1.0", id=identifier, source=SOURCE, type=EmailRequested.TYPE, time=now)
    except ValidationError as error:
        raise UnmailableTest(_first_of(error)) from None
    return EmailEvent(envelope, data)


def sender_of(event: EmailEvent, config: SmtpConfig) -> Sender:
    """Return a sender whose From and reverse path are the test mail's own: whoever asks has been allowed that."""
    author = event.data.from_
    if author is None:
        msg = "a test mail names its sender"
        raise ValueError(msg)
    dkim = None
    if config.dkim_key is not None:
        key = config.dkim_key.get_secret_value().encode()
        dkim = DkimKey(config.dkim_domain or "", config.dkim_selector or "", key)
    return Sender(author.email, author, None, author.email.rpartition("@")[2], dkim=dkim)


def admits(config: SmtpConfig, address: str) -> bool:
    """Whether mail by this record may have `address` as its From, as it would for an event that brings it."""
    asked = TestMail(address, address, "-", "")
    try:
        event = event_of(asked, CONTROLLER, "-", datetime.now(UTC))
    except UnmailableTest:
        return False
    sender = choose_sender(event, config)
    return isinstance(sender, Sender) and sender.from_ == event.data.from_


def only_outcome(verdict: Verdict) -> Outcome:
    """Return what an attempt amounts to that is the first and the last.

    ``deferred`` and ``throttled`` say that it will be tried again, which nothing does: all the attempts
    that there are have been made, and that is ``exhausted``.
    """
    match verdict.outcome:
        case Outcome.DEFERRED | Outcome.THROTTLED:
            return Outcome.EXHAUSTED
        case outcome:
            return outcome


def cut_short(answer: Answer) -> Answer:
    """Return the answer of a transaction that the time limit ended: a timeout, unless a reply came all the same.

    Its phase stays, for after the final dot it is a doubt.
    """
    return answer if answer.reply is not None else Answer(answer.phase, fault=Fault.TIMEOUT)


def masked(answer: Answer, config: SmtpConfig) -> Answer:
    """Return the answer without the record's password, should the server repeat it."""
    password = "" if config.password is None else config.password.get_secret_value()
    reply = answer.reply
    if not password or reply is None or password not in reply.text:
        return answer
    return answer._replace(reply=SmtpReply(reply.code, reply.text.replace(password, _MASK)))


def owns(scope: Scope, config: SmtpConfig) -> bool:
    """Whether the record is `scope`'s own, or of a scope below it."""
    return scope in config.scope.lineage()


def of_verification(record: AuditRecord, *, own: bool) -> AuditRecord:
    """Return the record of a test mail; by another scope's record, without the words of its server.

    A greeting or a refused login may name the server and its user, whom only their owner may know.
    """
    reply = record.reply
    if not own and reply is not None:
        reply = Reply(code=reply.code, enhanced=reply.enhanced, phase=reply.phase)
    return record.model_copy(update={"type": RECORD_TYPE, "reply": reply})


def _first_of(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = str(found["loc"][0]) if found["loc"] else "mail"
    return f"{_FIELDS.get(place, place)}: {found['msg'].removeprefix('Value error, ')}"
