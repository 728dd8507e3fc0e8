"""The messages of the breakers' stream: what replicas tell each other of records that do not work.

`at` orders the changes of one record (see `worker.delivery.breakers`). A `marker` is a reader's own:
what was published before it stands before it. JSON in UTF-8; no secret, no server's words.
"""

from typing import Annotated, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, TypeAdapter, model_validator

from schemas.smtp_config import Scope
from schemas.text import RequiredText, TenantName

MAX_CHANGES = 100
# A hundred changes of records with the longest names fit.
MAX_BYTES = 1 << 20
# Beyond it, a float or a reader of JSON in another language could not tell two versions apart.
_MAX_VERSION = 2**53


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedChange(_Strict):
    """One step of one record's breaker; `at` in seconds since the epoch, `reason` an outcome rule's name."""

    partner: TenantName | None = None
    org: TenantName | None = None
    name: RequiredText
    version: Annotated[int, Field(ge=1, le=_MAX_VERSION)]
    state: Literal["closed", "probing", "open"]
    at: Annotated[FiniteFloat, Field(ge=0)]
    failures: Annotated[int, Field(ge=0, le=1_000_000)]
    reason: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,64}$")] = ""

    @model_validator(mode="after")
    def _check_scope(self) -> Self:
        Scope(self.partner, self.org)
        return self

    @property
    def scope(self) -> Scope:
        """The scope that owns the record."""
        return Scope(self.partner, self.org)


class ChangesMessage(_Strict):
    """What one replica found out since its last message."""

    kind: Literal["changes"] = "changes"
    changes: Annotated[tuple[PublishedChange, ...], Field(max_length=MAX_CHANGES)]

    def to_json(self) -> bytes:
        """The message's body."""
        return self.model_dump_json(exclude_none=True).encode()


class MarkerMessage(_Strict):
    """A reader's own mark: having read it, it knows what was there when it began."""

    kind: Literal["marker"] = "marker"
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]

    def to_json(self) -> bytes:
        """The message's body."""
        return self.model_dump_json().encode()


BreakerMessage = ChangesMessage | MarkerMessage
_MESSAGE: TypeAdapter[BreakerMessage] = TypeAdapter(Annotated[BreakerMessage, Field(discriminator="kind")])


def read_breaker_message(body: bytes) -> BreakerMessage:
    """Read a message; raise ValueError for one that is none, without repeating what it says."""
    if len(body) > MAX_BYTES:
        raise ValueError("too large for a message about breakers")
    try:
        return _MESSAGE.validate_python(orjson.loads(body), strict=False)
    except ValueError:
        raise ValueError("not a message about breakers") from None
