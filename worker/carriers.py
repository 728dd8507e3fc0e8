"""How each kind of outgoing row reaches its place: the config topic, the audit, the events' exchange.

Part of the composition root (see ``app``). A carrier returns once its place has taken everything for
good. What it carries may have been taken before: changes carry versions, audit records and events
their identity.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from schemas.config_change import MAX_CHANGES, Change, Delete, Feature, Put
from worker.api.ports import EventIntake
from worker.delivery.ports import Document, Lane
from worker.errors import PostboteError
from worker.recording import sealing
from worker.settings import Settings
from worker.store.outgoing import OutgoingKind

MAX_BODY_BYTES = 16 << 20
"""What RabbitMQ 4 takes as one message; a larger one would cost the connection, and all that is under way on it."""

_HEAD_GRACE_S = 1.0
_EVENT_TYPE = "application/cloudevents+json"
# A routing key has 255 bytes, and begins with the lane.
_MAX_TYPE_BYTES = 200
_CHANGES: TypeAdapter[Put | Delete | Feature] = TypeAdapter(Change)

ConfigChange = Put | Delete | Feature
Letter = TypeVar("Letter")


class Unreadable(PostboteError):
    """A row is not what its kind says, or larger than its place takes; the text never quotes it."""


class ConfigTeller(Protocol):
    """Tells the workers of changes; see `worker.rabbit.config_publisher.ConfigPublisher`."""

    async def publish(self, changes: Sequence[ConfigChange]) -> None:
        """Return once they are confirmed; raises BrokerUnavailable or PublishRefused."""
        ...


class DocumentSink(Protocol):
    """An audit that takes records as documents."""

    async def write_documents(self, documents: Sequence[Document]) -> None:
        """Return once every one is durable, however long that takes; raises AuditUnavailable once it closes."""
        ...


class ConfigCarrier:
    """Config changes, in their order; without a teller there is nobody who has to hear of them."""

    kind = OutgoingKind.CONFIG
    place = "the workers"
    at_once = MAX_CHANGES

    def __init__(self, teller: ConfigTeller | None) -> None:
        """Take the way to the config topic; None where workers read the store."""
        self._teller = teller

    def read(self, body: bytes) -> ConfigChange:
        """The change; raises Unreadable, as for one that a newer version wrote."""
        _require_size(body)
        try:
            return _CHANGES.validate_json(body)
        except ValidationError as error:
            path = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"])
            msg = f"no config change that this version knows: {path or 'not JSON'}"
            raise Unreadable(msg) from None

    async def carry(self, letters: Sequence[ConfigChange]) -> None:
        """Publish them; raises BrokerUnavailable or PublishRefused."""
        if self._teller is not None:
            await self._teller.publish(letters)


class AuditCarrier:
    """Audit records of changes."""

    kind = OutgoingKind.AUDIT
    place = "the audit"
    at_once = 100

    def __init__(self, sink: DocumentSink) -> None:
        """Take the audit."""
        self._sink = sink

    def read(self, body: bytes) -> Document:
        """The document with its id and month; raises Unreadable."""
        document_id, _, document = body.partition(b" ")
        try:
            moment = datetime.fromisoformat(orjson.loads(document)["@timestamp"]).astimezone(UTC)
            return Document(document_id.decode("ascii"), f"{moment.year:04}.{moment.month:02}", document)
        except (orjson.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
            msg = "no audit record with its id and its time"
            raise Unreadable(msg) from None

    async def carry(self, letters: Sequence[Document]) -> None:
        """Write them; raises AuditUnavailable."""
        await self._sink.write_documents(letters)


class EventCarrier:
    """Events whose mails a change sends; one at a time, so that none is submitted again for another's sake."""

    kind = OutgoingKind.EVENT
    place = "the events' queue"
    at_once = 1

    def __init__(self, intake: EventIntake) -> None:
        """Take the way in for events."""
        self._intake = intake

    def read(self, body: bytes) -> tuple[str, bytes]:
        """The event's type and itself; raises Unreadable."""
        _require_size(body)
        try:
            kind = orjson.loads(body)["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            kind = None
        if not isinstance(kind, str) or not 0 < len(kind.encode("utf-8", "replace")) <= _MAX_TYPE_BYTES:
            msg = "no CloudEvent with a type"
            raise Unreadable(msg)
        return kind, body

    async def carry(self, letters: Sequence[tuple[str, bytes]]) -> None:
        """Submit them; raises BrokerUnavailable or PublishRefused."""
        for kind, body in letters:
            await self._intake.submit(body, content_type=_EVENT_TYPE, headers={}, lane=Lane.TRANSACTIONAL, kind=kind)


class Carrier(Protocol[Letter]):
    """One of the three, as who ships sees it: `at_once` letters go together, of rows of one `kind`."""

    kind: OutgoingKind
    place: str
    at_once: int

    def read(self, body: bytes) -> Letter:
        """What a row's body says; raises Unreadable."""
        ...

    async def carry(self, letters: Sequence[Letter]) -> None:
        """Return once its place has them; raises BrokerUnavailable, PublishRefused or AuditUnavailable."""
        ...


@contextlib.asynccontextmanager
async def open_carrier(settings: Settings, kind: OutgoingKind, *, embedded: bool) -> AsyncIterator[Carrier[Any]]:
    """Connect the carrier of one kind for a command; raises what says that its place is away.

    Workers that read the store need not be told of configs, and nothing is connected for them.
    """
    if embedded:
        opened = _open_embedded(settings, kind)
    elif kind is OutgoingKind.AUDIT:
        opened = _open_opensearch(settings)
    else:
        opened = _open_rabbit(settings, kind)
    async with opened as carrier:
        yield carrier


@contextlib.asynccontextmanager
async def _open_embedded(settings: Settings, kind: OutgoingKind) -> AsyncIterator[Carrier[Any]]:
    from worker.backends import SqliteIntake, open_embedded

    async with open_embedded(settings) as files, sealing(settings, files.audit, in_order=True) as audit:
        carriers: dict[OutgoingKind, Carrier[Any]] = {
            OutgoingKind.CONFIG: ConfigCarrier(None),
            OutgoingKind.AUDIT: AuditCarrier(audit),
            OutgoingKind.EVENT: EventCarrier(SqliteIntake(files.queue)),
        }
        yield carriers[kind]


@contextlib.asynccontextmanager
async def _open_opensearch(settings: Settings) -> AsyncIterator[Carrier[Any]]:
    from worker.audit.opensearch import OpenSearchAudit
    from worker.backends import auditing_of

    audit = OpenSearchAudit(**auditing_of(settings))
    try:
        await audit.ready()  # writing would wait for an OpenSearch that is away
        async with sealing(settings, audit, grace_s=_HEAD_GRACE_S) as sealed:
            yield AuditCarrier(sealed)
    finally:
        await audit.close(grace_s=0)


@contextlib.asynccontextmanager
async def _open_rabbit(settings: Settings, kind: OutgoingKind) -> AsyncIterator[Carrier[Any]]:
    if kind is OutgoingKind.CONFIG and settings.config_source != "topic":
        yield ConfigCarrier(None)
        return
    from worker.backends import RabbitIntake
    from worker.rabbit.config_publisher import ConfigPublisher
    from worker.rabbit.declaring import Provision
    from worker.rabbit.publisher import Publisher

    publisher = Publisher(settings.amqp_url, "postbote shipping", provision=Provision(settings.topology))
    try:
        await publisher.start(declare=True)
        is_config = kind is OutgoingKind.CONFIG
        yield ConfigCarrier(ConfigPublisher(publisher)) if is_config else EventCarrier(RabbitIntake(publisher))
    finally:
        await publisher.close()


def _require_size(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        msg = f"larger than one message may be ({MAX_BODY_BYTES} bytes)"
        raise Unreadable(msg)
