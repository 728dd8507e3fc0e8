"""Trying an SMTP record before it is trusted: a test mail that really goes out, and a check that sends none.

Both take a stored record or one that is not stored yet. They cost connections to somebody's server, so
each scope has a few a minute, and a process a few at once.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, StringConstraints, TypeAdapter, ValidationError

from schemas.address import Address
from schemas.smtp_config import Scope, SmtpConfig
from schemas.text import HeaderText, body_text
from worker.api.auth import Asker, Gate
from worker.api.bodies import Body, read_body, read_json
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems
from worker.api.email_config import default_of
from worker.api.problem import Problem, invalid
from worker.api.smtp_access import owned_by_environment, smtp_admissions
from worker.api.smtp_described import EXAMPLE, body, spelled_fields, wrapped
from worker.api.smtp_drafts import DEFAULT, draft_of, read_spelled, refusals_at
from worker.api.smtp_shown import ANYTHING, FLAG, MAYBE_TEXT, TEXT, an_object, answers
from worker.api.turns import Turns
from worker.control.ports import Records
from worker.control.trials import Prober, TestMail, Verification, Verifier
from worker.delivery.ports import ConfigSource
from worker.delivery.resolution import Resolved, resolve
from worker.delivery.verification import RECORD_TYPE, UnmailableTest, event_of
from worker.message.sender import ConfigFaultReason, choose_sender

_NOT_STORED = "(not stored)"
_VERIFICATION = "/event/v1/email/config/verification"
_CHECK = "/v1/smtp-configs/check"
_MAX_BODY_BYTES = 100 * 1024
_MAX_SUBJECT_CHARS = 500
_ADDRESS: TypeAdapter[str] = TypeAdapter(Address)


def _short(text: str) -> str:
    if len(text.encode()) > _MAX_BODY_BYTES:
        raise ValueError(f"a test mail may have {_MAX_BODY_BYTES} bytes at most")
    return text


class VerificationAsked(Body):
    """A test mail; `email_config` is a record, in any spelling, that is tried in place of the one that applies."""

    sender_email: Address
    recipient_email: Address
    subject: Annotated[HeaderText, StringConstraints(max_length=_MAX_SUBJECT_CHARS)]
    body: Annotated[str, AfterValidator(body_text), AfterValidator(_short)]
    email_config: Any = None

    def mail(self) -> TestMail:
        """The mail itself."""
        return TestMail(self.sender_email, self.recipient_email, self.subject, self.body)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the endpoints work with."""

    records: Records
    environment: SmtpConfig | None
    source: ConfigSource
    verifier: Verifier
    prober: Prober
    turns: Turns


def trials_router(
    gate: Gate,
    records: Records,
    source: ConfigSource,
    verifier: Verifier,
    prober: Prober,
    *,
    environment: SmtpConfig | None = None,
    turns: Turns | None = None,
) -> APIRouter:
    """Build the endpoints.

    `source` knows which records apply, the environment's controller record among them; `turns` says how
    often, and how many at once, anything is tried.
    """
    router = APIRouter(tags=["smtp"])
    admin = Annotated[Asker, Depends(smtp_admissions(gate, records).admin)]
    parts = _Parts(records, environment, source, verifier, prober, turns or Turns())
    _add_verification(router, parts, admin)
    _add_check(router, parts, admin)
    return router


def _add_verification(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.post(
        _VERIFICATION,
        summary="Send one test mail by the record that applies, or by one that is not stored yet",
        responses={
            **answers(200, "What came of it; delivered: the server took the mail", _VERIFIED),
            **problems(404, 409, 429, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra=body(_ASKED, _ASKED_EXAMPLE),
    )
    async def verification(request: Request, asker: admin) -> JSONResponse:
        asked = await read_body(request, VerificationAsked)
        config = await _record_to_try(parts, asker.scope, asked)
        mail = asked.mail()
        if config.scope != asker.scope:
            _check_sender(mail, asker.scope, config)
        began = datetime.now(UTC)
        with parts.turns.taken(str(asker.scope)):
            found = await parts.verifier.verify(config, asker.scope, mail)
        return JSONResponse(_shown(found, mail, began))


async def _record_to_try(parts: _Parts, scope: Scope, asked: VerificationAsked) -> SmtpConfig:
    if asked.email_config is not None:
        drafted = await _drafted(parts, scope, asked.email_config, "email_config.")
        # Under a name of its own: what comes of the test is nothing that the stored record did.
        return drafted.model_copy(update={"display_name": _NOT_STORED})
    found = resolve(scope, await parts.source.configs_for(scope))
    if isinstance(found, Resolved):
        return found.config
    raise Problem(
        409,
        "No SMTP record applies",
        "neither this scope nor a wider one has an SMTP record: store one by POST /event/v1/email/config, "
        "or send one with the test as email_config",
    )


def _check_sender(mail: TestMail, scope: Scope, config: SmtpConfig) -> None:
    """By another scope's server only a sender that its record admits: whoever owns it answers for its mail."""
    try:
        event = event_of(mail, scope, "test", datetime.now(UTC))
    except UnmailableTest as error:
        path, _, message = str(error).partition(": ")
        raise invalid(path, message) from None
    chosen = choose_sender(event, config)
    asked = event.data.from_
    if isinstance(chosen, ConfigFaultReason) or asked is None or chosen.from_.email != asked.email:
        raise invalid("sender_email", "is not admitted by the record that applies, which is not this scope's own")


def _add_check(router: APIRouter, parts: _Parts, admin: Any) -> None:
    @router.post(
        _CHECK,
        summary="Check a record stage by stage: DNS, TLS, login and recipient, without sending anything",
        responses={
            **answers(200, "Each stage with its time and result", ANYTHING),
            **problems(404, 429, *WITH_BODY, *WITH_PRINCIPAL),
        },
        openapi_extra=body(_CHECKED, {**EXAMPLE, "recipient": "ops@example.net"}),
    )
    async def check(request: Request, asker: admin) -> JSONResponse:
        document = await read_json(request)
        recipient, config = None, None
        if isinstance(document, dict):
            recipient = _recipient(document.pop("recipient", None))
            if "name" in document:
                config = await _stored(parts, asker.scope, document)
        if config is None:
            config = await _drafted(parts, asker.scope, document, "")
        with parts.turns.taken(str(asker.scope)):
            report = await parts.prober.probe(config, asker.scope, recipient=recipient)
        return JSONResponse(dict(report))


def _recipient(value: Any) -> str | None:
    try:
        return None if value is None else _ADDRESS.validate_python(value)
    except ValidationError:
        raise invalid("recipient", "not a valid mail address (expected local-part@domain)") from None


async def _stored(parts: _Parts, scope: Scope, document: dict[str, Any]) -> SmtpConfig:
    """The record that the body names, and nothing but names."""
    name = document.pop("name")
    if document:
        raise invalid("name", f"stands beside {min(document)[:100]}: name a stored record, or give one's fields")
    found = await parts.records.opened(scope, name) if isinstance(name, str) and name.isprintable() else None
    if found is None and owned_by_environment(scope, parts.environment) and parts.environment is not None:
        found = parts.environment if parts.environment.display_name == name else None
    if found is None:
        raise invalid("name", "there is no record of that name in this scope")
    return found


async def _drafted(parts: _Parts, scope: Scope, document: Any, prefix: str) -> SmtpConfig:
    """A record that is not stored, with its secrets; one that keeps its password is compared with the stored one."""
    spelled = await read_spelled(document, scope, prefix)
    name = spelled.name
    if name is None:
        default = await default_of(parts.records, scope)
        name = default.name if default else DEFAULT
    with refusals_at(spelled):
        return await parts.records.drafted(draft_of(spelled, scope, name))


def _shown(found: Verification, mail: TestMail, began: datetime) -> dict[str, Any]:
    return {
        "delivered": found.accepted,
        "outcome": found.outcome.value,
        "reason": found.reason,
        "reply": None if found.reply is None else dict(found.reply),
        "hint": found.hint,
        "message_id": found.message_id,
        "took_ms": found.took_ms,
        "audit": _audit(found, mail, began),
    }


def _audit(found: Verification, mail: TestMail, began: datetime) -> str | None:
    """Where the record of the test mail is found, if the audit took it."""
    if found.audit_id is None:
        return None
    if found.event_id is not None:
        query = {"filter.eventid": found.event_id}
    else:
        since = began.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        query = {"filter.type": RECORD_TYPE, "filter.recipient": mail.recipient_email, "filter.timefrom": since}
    return f"/event/v1/auditlog?{urlencode(query)}"


_VERIFIED = an_object(
    {
        "delivered": FLAG,
        "outcome": TEXT,
        "reason": MAYBE_TEXT,
        "reply": {"type": ["object", "null"]},
        "hint": MAYBE_TEXT,
        "message_id": MAYBE_TEXT,
        "took_ms": {"type": "number"},
        "audit": MAYBE_TEXT,
    }
)
_MAIL = {
    "sender_email": {**TEXT, "format": "email"},
    "recipient_email": {**TEXT, "format": "email"},
    "subject": {**TEXT, "maxLength": _MAX_SUBJECT_CHARS},
    "body": {**TEXT, "description": f"{_MAX_BODY_BYTES} bytes at most"},
}
_ASKED = {
    "type": "object",
    "additionalProperties": False,
    "required": list(_MAIL),
    "properties": {**_MAIL, **wrapped()["properties"]},
}
_ASKED_EXAMPLE = {
    "sender_email": "noreply@example.com",
    "recipient_email": "ops@example.net",
    "subject": "SMTP test",
    "body": "It works.",
}
_FIELDS = spelled_fields()
_CHECKED = {
    **_FIELDS,
    "properties": {
        **_FIELDS["properties"],
        "name": {**TEXT, "description": "A stored record's display name, in place of its fields"},
        "recipient": {**TEXT, "format": "email", "description": "Asked for by RCPT; no mail is sent"},
    },
}
