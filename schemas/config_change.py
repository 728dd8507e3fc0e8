"""The messages of the config topic: how SMTP records reach the workers.

The topic is a log that anybody may read again from its beginning, in which messages may stand twice,
late or out of order. So every change carries a version, and a reader keeps the highest one:

- ``put`` and ``delete`` share the versions of their (scope, name). A delete has the version that it
  deleted and wins over the put of the same version; the next put has the next one.
- ``feature`` has a version of its own for each org.

Changes travel in ``changes``, up to a hundred in one message. Those of a snapshot name it, and stand
between its ``snapshot_begin`` and its ``snapshot_end``, which counts them: without all of them the
snapshot was not complete and says nothing about what it leaves out. It holds the deletes that the
store remembers, too, so that one which was lost is made good. A ``marker`` is a reader's own: what
was published before it stands before it.

JSON in UTF-8. An unknown field is an error: a misspelt one would silently change nothing. A password
travels sealed (a Fernet token, ``secret``), as a reference to the worker's own host, or not at all; a key
that signs sealed or not at all (``dkim_secret``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from schemas.address import Address
from schemas.smtp_config import CONTROLLER, DomainName, Host, Scope, SmtpConfig, TlsMode
from schemas.text import Identifier, RequiredText, TenantName

MAX_CHANGES = 100
# RabbitMQ 4 takes 16 MiB in one message; a CA bundle alone may have hundreds of KiB.
MAX_BATCH_BYTES = 1 << 20

SealedSecret = Annotated[str, StringConstraints(pattern=r"^gAAAA[A-Za-z0-9_-]{90,}={0,2}$", max_length=20_000)]
"""A Fernet token; anything else might be a password in clear."""

SecretReference = Annotated[
    str, StringConstraints(pattern=r"^(?:env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$", max_length=4096)
]
"""Where a worker finds a secret on its own host: an environment variable, or a file by its absolute path."""

Version = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _OfScope(_Strict):
    partner: TenantName | None = None
    org: TenantName | None = None

    @model_validator(mode="after")
    def _check_scope(self) -> Self:
        Scope(self.partner, self.org)
        return self

    @property
    def scope(self) -> Scope:
        """The scope that the change is about."""
        return Scope(self.partner, self.org)


class PublishedConfig(_OfScope):
    """An `SmtpConfig` as it travels: every field but the secrets, and its limits hold.

    A field that was added later has a default: the topic still holds what was published before.
    """

    display_name: RequiredText
    host: Host
    port: int
    tls: TlsMode
    verify_tls: bool
    ca_bundle: str | None
    username: RequiredText | None
    from_address: Address | None
    reply_to: Address | None
    allowed_from: tuple[RequiredText, ...]
    retries: int
    max_connections: int
    rate_per_minute: int | None
    timeout_s: float
    chunking: bool = False
    require_tls: bool = False
    dkim_domain: DomainName | None = None
    dkim_selector: DomainName | None = None
    version: Version

    def opened(self, password: str | None, dkim_key: str | None = None) -> SmtpConfig:
        """The record with its secrets; raises pydantic's ValidationError where they don't go together."""
        return SmtpConfig.model_validate({**dict(self), "password": password, "dkim_key": dkim_key})


class Put(_Strict):
    """A whole record. `order` ranks the records of a scope: the lowest one that lives is its default.

    `fallback`: it sends while those before it rest. The controller's `secret` may be a reference.
    """

    kind: Literal["put"] = "put"
    config: PublishedConfig
    secret: SealedSecret | SecretReference | None = None
    dkim_secret: SealedSecret | None = None
    order: Annotated[int, Field(ge=0)]
    fallback: bool = False

    @model_validator(mode="after")
    def _check_record(self) -> Self:
        if self.secret is not None and is_reference(self.secret) and self.config.scope != CONTROLLER:
            msg = "secret: only the controller's record may refer to the worker's environment and files"
            raise ValueError(msg)
        # The stand-ins never leave this line: they are what says that there is a secret.
        self.config.opened(*(None if sealed is None else "sealed" for sealed in (self.secret, self.dkim_secret)))
        return self

    @property
    def scope(self) -> Scope:
        """The scope that owns the record."""
        return self.config.scope

    @property
    def name(self) -> str:
        """The record's display name."""
        return self.config.display_name

    @property
    def version(self) -> int:
        """The record's version."""
        return self.config.version


def is_reference(secret: str) -> bool:
    """Whether a stored secret is a reference, and no sealed one."""
    return secret.startswith(("env:", "file:"))


class Delete(_OfScope):
    """A record is gone; `version` is the last one that it had."""

    kind: Literal["delete"] = "delete"
    display_name: RequiredText
    version: Version

    @property
    def name(self) -> str:
        """The record's display name."""
        return self.display_name


class Feature(_OfScope):
    """Whether an org's own records count."""

    kind: Literal["feature"] = "feature"
    partner: TenantName
    org: TenantName
    org_smtp: bool
    version: Version


Change = Annotated[Put | Delete | Feature, Field(discriminator="kind")]


class _Message(_Strict):
    published_at: AwareDatetime


class Changes(_Message):
    """Changes in any order; `snapshot` is the one that they belong to, if any."""

    kind: Literal["changes"] = "changes"
    snapshot: Identifier | None = None
    items: Annotated[tuple[Change, ...], Field(max_length=MAX_CHANGES)]


class SnapshotBegin(_Message):
    """A snapshot begins. Published before the store is read: whatever stands before it was in the store."""

    kind: Literal["snapshot_begin"] = "snapshot_begin"
    snapshot: Identifier


class SnapshotEnd(_Message):
    """A snapshot is whole if `count` different records, deletes and features of it were read."""

    kind: Literal["snapshot_end"] = "snapshot_end"
    snapshot: Identifier
    count: Annotated[int, Field(ge=0)]


class Marker(_Message):
    """A reader's own message, by which it knows how far it has to read."""

    kind: Literal["marker"] = "marker"
    marker: Identifier


Message = Changes | SnapshotBegin | SnapshotEnd | Marker
ConfigMessage = Annotated[Message, Field(discriminator="kind")]
"""Any message of the topic; what the published schema describes."""
_MESSAGES: TypeAdapter[Message] = TypeAdapter(ConfigMessage)
_CHANGES: TypeAdapter[Put | Delete | Feature] = TypeAdapter(Change)


class ConfigMessageError(ValueError):
    """What was read is no message of the config topic; the text never quotes it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A message without the changes in it that cannot be read, and a sentence about each of these."""

    message: Message
    faults: tuple[str, ...] = ()


def read_message(body: bytes) -> Reading:
    """Read one message; raise ConfigMessageError where nothing of it can be used.

    One change that cannot be read takes none of its neighbours with it.
    """
    try:
        return Reading(_MESSAGES.validate_json(body))
    except ValidationError as error:
        return _read_leniently(body, error)


def _read_leniently(body: bytes, error: ValidationError) -> Reading:
    try:
        raw: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ConfigMessageError("not JSON") from None
    if not isinstance(raw, Mapping) or raw.get("kind") != "changes" or not isinstance(raw.get("items"), list):
        raise ConfigMessageError(_explain(error)) from None
    read, faults = [], []
    for item in raw["items"][:MAX_CHANGES]:
        try:
            read.append(_CHANGES.validate_python(item))
        except ValidationError as fault:
            faults.append(_explain(fault))
    try:
        return Reading(Changes.model_validate({**raw, "items": tuple(read)}), tuple(faults))
    except ValidationError as fault:
        raise ConfigMessageError(_explain(fault)) from None


def in_batches(changes: Sequence[Put | Delete | Feature]) -> Iterator[tuple[Put | Delete | Feature, ...]]:
    """Split `changes`, in their order, into what fits into one message each."""
    batch: list[Put | Delete | Feature] = []
    size = 0
    for change in changes:
        own = len(change.model_dump_json())
        if batch and (len(batch) == MAX_CHANGES or size + own > MAX_BATCH_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(change)
        size += own
    if batch:
        yield tuple(batch)


def _explain(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False, include_context=False)[0]
    path = ".".join(str(part) for part in found["loc"])
    return f"{path}: {found['msg']}" if path else found["msg"]
