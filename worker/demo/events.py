"""The demo's events, and what is expected to become of each of their recipients.

Four tenants: the controller, the partner ``acme``, its organization ``dev`` with an SMTP record
of its own, and its organization ``qa`` without one, whose mail therefore leaves through acme's.
All addresses are under ``.example`` (RFC 2606): wherever these events end up, nobody is mailed.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.audit import Outcome
from schemas.smtp_config import Scope
from worker.delivery.ports import Lane

CONTROLLER, ACME, DEV, QA = Scope(), Scope("acme"), Scope("acme", "dev"), Scope("acme", "qa")
BUSY_ADDRESS = "busy@customer.example"
GONE_ADDRESS = "gone@customer.example"

# The file of samples says the same on any day.
_SAMPLE_RUN = "sample"
_SAMPLE_TIME = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)

_SENT_THROUGH = {CONTROLLER: CONTROLLER, ACME: ACME, DEV: DEV, QA: ACME}
_BULK_CATEGORIES = frozenset({"newsletter", "deployment"})


@dataclass(frozen=True, slots=True)
class Expected:
    """What the audit should say at the end; `recipient` is None where the event names nobody usable.

    `via` is the scope whose record sends it, None where nothing is sent; `code` is the SMTP reply.
    """

    recipient: str | None
    outcome: Outcome = Outcome.ACCEPTED
    via: Scope | None = None
    attempts: int = 1
    code: int | None = 250


@dataclass(frozen=True, slots=True)
class DemoEvent:
    """One event as it is published, and its expected end."""

    document: Mapping[str, Any]
    expected: tuple[Expected, ...]

    @property
    def body(self) -> bytes:
        """The structured CloudEvent."""
        return orjson.dumps(self.document)

    @property
    def lane(self) -> Lane:
        """Newsletters and deployments can wait, the rest is waited for."""
        return Lane.BULK if self.document["data"].get("category") in _BULK_CATEGORIES else Lane.TRANSACTIONAL


@dataclass(frozen=True, slots=True)
class _Draft:
    kind: str
    scope: Scope
    to: tuple[str, ...]
    data: Mapping[str, Any]
    unusual: tuple[Expected, ...] = ()


def demo_source(run: str) -> str:
    """The ``source`` that all events of one run share: no event of another run can be taken for one of these."""
    return f"/postbote/demo/{run}"


def demo_events(run: str, now: datetime) -> tuple[DemoEvent, ...]:
    """Build the events of one run; `now` is the time of each, `run` makes them events of their own."""
    drafts = (*_accounts(), *_alerts(), *_deployments(), *_approvals(), *_own_words(), *_in_trouble())
    return tuple(_event(draft, number, run, now) for number, draft in enumerate(drafts, 1))


def sample_lines() -> bytes:
    """The content of ``samples/demo.ndjson``: the same events at a fixed time, one a line."""
    return b"".join(event.body + b"\n" for event in demo_events(_SAMPLE_RUN, _SAMPLE_TIME))


def _event(draft: _Draft, number: int, run: str, now: datetime) -> DemoEvent:
    scope = {name: value for name, value in (("partner", draft.scope.partner), ("org", draft.scope.org)) if value}
    document = {
        "specversion": "1.0",
        "id": f"{run}-{number:02d}",
        "source": demo_source(run),
        "type": draft.kind,
        "time": now.isoformat(timespec="milliseconds"),
        "datacontenttype": "application/json",
        "data": {"scope": scope, "to": list(draft.to), **draft.data},
    }
    usual = tuple(Expected(recipient, via=_SENT_THROUGH[draft.scope]) for recipient in _addresses(draft))
    return DemoEvent(document, draft.unusual or usual)


def _addresses(draft: _Draft) -> Iterable[str]:
    for mailbox in (*draft.to, *draft.data.get("cc", ()), *draft.data.get("bcc", ())):
        yield mailbox.rpartition("<")[2].rstrip(">")


def _accounts() -> Iterable[_Draft]:
    people = (
        (CONTROLLER, "Root", "root@ops.example"),
        (ACME, "Grace", "grace@acme.example"),
        (DEV, "Linus", "linus@dev.acme.example"),
        (QA, "Quinn", "quinn@qa.acme.example"),
    )
    for scope, name, address in people:
        reset = {"user_name": name, "reset_url": f"https://id.example/reset/{name.lower()}", "valid_for_minutes": 30}
        yield _Draft("password.reset.v1", scope, (address,), reset)
    for scope, name, address in people[1:]:
        welcome = {"user_name": name, "product": "Acme Cloud", "activation_url": "https://id.example/activate"}
        yield _Draft("user.registered.v1", scope, (f"{name} <{address}>",), welcome)
    for scope, tenant, address in (
        (CONTROLLER, "acme", "owner@acme.example"),
        (ACME, "dev", "ada@dev.acme.example"),
        (ACME, "qa", "quinn@qa.acme.example"),
    ):
        invitation = {"inviter_name": "Grace", "tenant_name": tenant, "accept_url": f"https://id.example/join/{tenant}"}
        yield _Draft("tenant.invited.v1", scope, (address,), invitation)


def _alerts() -> Iterable[_Draft]:
    for scope, severity, name, to, cc in (
        (CONTROLLER, "critical", "ControllerDiskFull", "oncall@ops.example", ["lead@ops.example"]),
        (ACME, "warning", "QuotaNearlyUsed", "grace@acme.example", []),
        (DEV, "critical", "ApiLatencyHigh", "oncall@dev.acme.example", ["linus@dev.acme.example"]),
        (QA, "info", "NightlyRunSlow", "quinn@qa.acme.example", []),
    ):
        told = {
            "alert_name": name,
            "severity": severity,
            "summary": f"{name} has been true for five minutes",
            "dashboard_url": f"https://grafana.example/d/{name.lower()}",
            "category": "alert",
        }
        yield _Draft("alert.raised.v1", scope, (to,), {**told, "cc": cc} if cc else told)


def _deployments() -> Iterable[_Draft]:
    for scope, application, status, to in (
        (DEV, "shop", "succeeded", "linus@dev.acme.example"),
        (DEV, "shop-worker", "failed", "linus@dev.acme.example"),
        (DEV, "search", "cancelled", "ada@dev.acme.example"),
        (QA, "shop", "succeeded", "quinn@qa.acme.example"),
        (ACME, "gateway", "succeeded", "grace@acme.example"),
    ):
        told = {
            "application": application,
            "environment": scope.org or "production",
            "status": status,
            "version": "2026.1.4",
            "duration_s": 73.5,
            "category": "deployment",
        }
        yield _Draft("deployment.finished.v1", scope, (to,), told)


def _approvals() -> Iterable[_Draft]:
    for scope, reviewer, requester in (
        (DEV, "ada@dev.acme.example", "linus@dev.acme.example"),
        (QA, "grace@acme.example", "quinn@qa.acme.example"),
    ):
        item = f"Release of shop to {scope.org}"
        asked = {"item": item, "requester_name": "Linus", "review_url": "https://ci.example/reviews/17"}
        yield _Draft("approval.requested.v1", scope, (reviewer,), asked)
        yield _Draft(
            "approval.decided.v1", scope, (requester,), {"item": item, "decision": "approved", "decided_by": "Ada"}
        )


def _own_words() -> Iterable[_Draft]:
    report = base64.b64encode(b"service,requests\nshop,12408\nsuche,977\n").decode()
    attached = {"filename": "Übersicht Januar.csv", "content_type": "text/csv", "content": report}
    yield _Draft(
        "email.requested.v1",
        DEV,
        ("Jürgen Müller <juergen@dev.acme.example>",),
        {
            "subject": "Ihre Übersicht für Januar ✓",
            "text": "Guten Tag,\n\nanbei die Zahlen.\n",
            "attachments": [attached],
        },
    )
    yield _Draft(
        "email.requested.v1",
        ACME,
        ("zoë@acme.example",),
        {"subject": "An address beyond ASCII", "text": "Sent with SMTPUTF8 (RFC 6531).\n"},
    )
    yield _Draft(
        "email.requested.v1",
        ACME,
        ("reader@customer.example",),
        {
            "subject": "News from Acme",
            "html": "<h1>News</h1><p>Deployments are <b>faster</b> now.</p>",
            "category": "newsletter",
            "unsubscribe_url": "https://acme.example/unsubscribe/1",
            "bcc": ["archive@acme.example"],
        },
    )


def _in_trouble() -> Iterable[_Draft]:
    words = {"subject": "Your invoice", "text": "It is ready to be read.\n"}
    patient = Expected(BUSY_ADDRESS, via=DEV, attempts=3)
    refused = Expected(GONE_ADDRESS, Outcome.REFUSED, via=ACME, code=550)
    beside = Expected("reader@customer.example", via=ACME)
    invalid = Expected(None, Outcome.INVALID, code=None)
    forged = {**words, "subject": "Your invoice\r\nBcc: everybody@customer.example"}
    yield _Draft("email.requested.v1", DEV, (BUSY_ADDRESS,), words, (patient,))
    yield _Draft("email.requested.v1", ACME, (GONE_ADDRESS,), words, (refused,))
    yield _Draft("email.requested.v1", QA, ("reader@customer.example", GONE_ADDRESS), words, (beside, refused))
    yield _Draft("email.requested.v1", ACME, ("reader@customer.example",), forged, (invalid,))
