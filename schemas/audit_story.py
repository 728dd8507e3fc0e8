"""The whole story of one event, recipient by recipient, as far as its records tell it.

Whatever is said here follows from records alone: no queue is asked. What a record does not say
(the lane, say, or what an operator did with a parked event) is not guessed.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Standing(StrEnum):
    """Where an event, or one recipient of it, is now.

    done      it has an end, and nobody will try again
    waiting   it rests until its next attempt
    due       the time of its next attempt has come, and nothing was recorded since
    in_doubt  the server may have the mail: it is sent once more, or was parked; the records don't say which
    held      it needs an operator, and stays with the event as long as other recipients wait
    parked    it was set aside for an operator
    unknown   the records don't say
    """

    DONE = "done"
    WAITING = "waiting"
    DUE = "due"
    IN_DOUBT = "in_doubt"
    HELD = "held"
    PARKED = "parked"
    UNKNOWN = "unknown"


class Whereabouts(BaseModel):
    """Where it is now. `says` is the same for people.

    `since` is the time of the record that says so, `outcome` and `reason` are that record's.
    `tier` is the broker's waiting room, where the length of the wait tells it.
    """

    model_config = ConfigDict(frozen=True)

    state: Standing
    says: str
    since: datetime | None = None
    outcome: str | None = None
    reason: str | None = None
    next_attempt_at: datetime | None = None
    tier: str | None = None
    derived_from: Literal["records"] = "records"


class Attempt(BaseModel):
    """One record about a recipient: what was tried, by which SMTP record, and what came of it.

    The objects are those of the audit record, as far as the asker may see them.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime | None
    outcome: str
    attempt: int | None = None
    reason: str | None = None
    reply: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    tls: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None
    possible_duplicate: bool = False
    next_attempt_at: datetime | None = None
    remote_queue_id: str | None = None
    worker_id: str | None = None


class RecipientStory(BaseModel):
    """What happened to one recipient, oldest first.

    `recipient` is None for an event that could not be read, and where the records keep no more of the address
    than `recipient_hash`. `took_ms`: from the event's time to the end, where there is one.
    """

    model_config = ConfigDict(frozen=True)

    recipient: str | None
    recipient_hash: str | None = None
    where: Whereabouts
    took_ms: float | None = None
    attempts: tuple[Attempt, ...]


class Story(BaseModel):
    """One event. `complete` is False where it has more records than are read: the newest ones are here.

    `type` and `category` are the event's own; `record_type` is ``email.delivery``, or that of a test mail.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    id: str
    scope: str
    partner: str | None = None
    org: str | None = None
    type: str | None = None
    category: str | None = None
    time: datetime | None = None
    record_type: str
    message_id: str | None = None
    trace_id: str | None = None
    where: Whereabouts
    records: Annotated[int, Field(ge=1)]
    complete: bool
    recipients: tuple[RecipientStory, ...]
