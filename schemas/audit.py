"""The audit record: what happened to one recipient of one event, in one documented shape.

One document per recipient and transition. Its id is a hash of what it records, so a writer that
retries cannot write it twice; `accepted` leaves the attempt out, so it exists at most once. Only
where two workers were both told 250 for one recipient does the later one's record stand beside the
first, under an id that its worker and its time are part of too (see `duplicate_id`).
"""

import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from math import floor
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

CATEGORY = "SYSTEMAUDIT"
TYPE = "email.delivery"
MAX_REPLY_CHARS = 512
_DAY_S = 86_400


class Outcome(StrEnum):
    """What became of a recipient.

    accepted      the server answered 2xx to the final dot
    refused       a permanent refusal of the recipient or the message
    deferred      a transient failure; it will be tried again
    throttled     the server or a limit asked for less; it will be tried again, uncharged
    unconfigured  no SMTP record applies to the event's scope
    config_fault  the record cannot work: credentials, certificate, STARTTLS, host name
    in_doubt      the connection ended after the final dot and before its reply
    expired       `expires_at` passed before delivery
    suppressed    the recipient is on the suppression list
    invalid       the event cannot be mailed as it stands
    exhausted     the retry schedule ended without success
    parked        set aside for an operator, with its reason
    """

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DEFERRED = "deferred"
    THROTTLED = "throttled"
    UNCONFIGURED = "unconfigured"
    CONFIG_FAULT = "config_fault"
    IN_DOUBT = "in_doubt"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    INVALID = "invalid"
    EXHAUSTED = "exhausted"
    PARKED = "parked"


_ACCEPTED = Outcome.ACCEPTED  # an enum's members are looked up slowly, and every mail has three ids


class ConfigUsed(BaseModel):
    """The SMTP record that won, without its secrets."""

    model_config = ConfigDict(frozen=True)

    scope: str
    name: str
    version: int
    fingerprint: str
    host: str
    port: int


class TlsUsed(BaseModel):
    """The protection that the connection really had."""

    model_config = ConfigDict(frozen=True)

    version: str
    cipher: str
    verified: bool


class Reply(BaseModel):
    """The SMTP server's words: reply code, enhanced status code (RFC 3463), cleaned text."""

    model_config = ConfigDict(frozen=True)

    code: int | None = None
    enhanced: str | None = None
    text: Annotated[str, Field(max_length=MAX_REPLY_CHARS)] = ""
    phase: str | None = None


class Timings(BaseModel):
    """Milliseconds spent in each part; `queued` runs from the event's time to its consumption."""

    model_config = ConfigDict(frozen=True)

    queued_ms: float | None = None
    resolve_ms: float | None = None
    render_ms: float | None = None
    connect_ms: float | None = None
    transaction_ms: float | None = None
    total_ms: float | None = None


class AuditRecord(BaseModel):
    """One SYSTEMAUDIT document. Never a body, never a secret."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    timestamp: Annotated[datetime, Field(alias="@timestamp")]
    category: str = CATEGORY
    type: str = TYPE
    outcome: Outcome
    reason: str | None = None
    partner: str | None = None
    org: str | None = None
    event_id: str
    event_source: str
    event_type: str | None = None
    event_category: str | None = None
    event_time: datetime | None = None
    recipient: str | None = None
    recipient_hash: str | None = None
    attempt: Annotated[int, Field(ge=1)] = 1
    config: ConfigUsed | None = None
    tls: TlsUsed | None = None
    reply: Reply | None = None
    remote_queue_id: str | None = None
    message_id: str | None = None
    possible_duplicate: bool = False
    timings: Timings | None = None
    worker_id: str | None = None
    trace_id: str | None = None
    next_attempt_at: datetime | None = None

    @property
    def document_id(self) -> str:
        """The deterministic `_id` (see `document_id`)."""
        return document_id(
            partner=self.partner,
            org=self.org,
            source=self.event_source,
            event_id=self.event_id,
            recipient=self.recipient,
            outcome=self.outcome,
            attempt=self.attempt,
        )

    @property
    def index_month(self) -> str:
        """``YYYY.MM`` of the event's time in UTC, so that a redelivery finds the same index."""
        return index_month(self.event_time or self.timestamp)

    def to_document(self) -> dict[str, Any]:
        """What `to_json` writes, with times as datetimes; absent fields are left out. It is not to be changed."""
        values = self.__dict__
        document = {key: value for key, name in _KEYS if (value := values[name]) is not None}
        for name in _PARTS:
            if name in document:
                document[name] = document[name].__dict__
        for name in _SPARSE_PARTS:
            if name in document:
                document[name] = {key: value for key, value in document[name].__dict__.items() if value is not None}
        return document

    def to_json(self) -> bytes:
        """The document as OpenSearch and the embedded store keep it; absent fields are left out."""
        return to_json(self.to_document())


_KEYS = tuple((field.alias or name, name) for name, field in AuditRecord.model_fields.items())
_PARTS = ("config", "tls")  # none of their fields may be absent
_SPARSE_PARTS = ("reply", "timings")


def to_json(document: dict[str, Any]) -> bytes:
    """A document in one line, as pydantic would write it: times in ISO 8601, UTC as Z."""
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)


def index_month(moment: datetime) -> str:
    """``YYYY.MM`` in UTC: the month of whose index a record of an event of this time is."""
    return _month_of_day(floor(moment.timestamp()) // _DAY_S)


@lru_cache(maxsize=256)  # mail is sent when it happens: few days are seen at a time
def _month_of_day(day: int) -> str:
    moment = datetime.fromtimestamp(day * _DAY_S, UTC)
    return f"{moment.year:04}.{moment.month:02}"


def document_id(
    *,
    partner: str | None,
    org: str | None,
    source: str,
    event_id: str,
    recipient: str | None,
    outcome: Outcome,
    attempt: int,
) -> str:
    """Return the record's `_id`: 40 hex digits over what it records; without the attempt for accepted."""
    parts = [partner, org, source, event_id, recipient, outcome, None if outcome is _ACCEPTED else attempt]
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:40]


def duplicate_id(first_id: str, worker_id: str | None, timestamp: str) -> str:
    """Return the `_id` of a further acceptance of what the record `first_id` says: 40 hex digits.

    `worker_id` and `timestamp` (as in the document) make it one for each acceptance, however often it is written.
    """
    return hashlib.sha256(orjson.dumps([first_id, worker_id, timestamp])).hexdigest()[:40]
