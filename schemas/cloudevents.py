"""Reading an event off the wire: CloudEvents 1.0 over AMQP, structured or binary.

Structured: the body is the whole event as JSON (``application/cloudevents+json``). Binary: the
attributes are AMQP headers named ``cloudEvents:*`` (or ``cloudEvents_*``, as the AMQP binding
allows) and the body is the JSON of ``data`` alone.

Whatever cannot be read raises `InvalidEvent`, which carries every error with its path and as
much of the event's identity as could be made out, so that even a broken event leaves a record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from schemas.event import KINDS, EmailData, EmailEvent, Envelope
from schemas.smtp_config import CONTROLLER, Scope
from schemas.text import TenantName

STRUCTURED = "application/cloudevents+json"
_HEADER_PREFIXES = ("cloudEvents:", "cloudEvents_")
_PREFIX_CHARS = len("cloudEvents:")
_MAX_PATH_CHARS = 120
_MAX_ERRORS = 20
_TENANT: TypeAdapter[str] = TypeAdapter(TenantName)
Model = TypeVar("Model", bound=BaseModel)  # 3.11 has no type parameters yet


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field; `path` is dotted, such as ``data.to.0.email``."""

    path: str
    message: str

    def __str__(self) -> str:
        """``path: message``."""
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Known:
    """What could be made out of an event that cannot be read; every field may be missing."""

    id: str | None = None
    source: str | None = None
    type: str | None = None
    time: datetime | None = None
    scope: Scope = CONTROLLER


class InvalidEvent(ValueError):
    """An event that will never be mailable as it stands: audited and parked, never retried."""

    def __init__(self, errors: tuple[FieldError, ...], known: Known | None = None) -> None:
        """Keep the errors, first one in the message."""
        super().__init__("; ".join(str(e) for e in errors[:3]))
        self.errors = errors
        self.known = known or Known()


def parse_event(body: bytes, content_type: str | None = None, headers: Mapping[str, Any] | None = None) -> EmailEvent:
    """Read one event from a message's body, content type and headers.

    Raises InvalidEvent with the path of every field at fault.
    """
    attributes, data = _split(body, content_type, headers or {})
    errors: list[FieldError] = []
    envelope = _validate(Envelope, attributes, "", errors)
    payload = _payload(attributes.get("type"), data, errors)
    if errors or envelope is None or payload is None:
        raise InvalidEvent(tuple(errors[:_MAX_ERRORS]), _known(attributes, data))
    return EmailEvent(envelope, payload)


def _split(body: bytes, content_type: str | None, headers: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    binary = _binary_attributes(headers)
    document = _json(body, binary)
    # A binary event says its version in a header; without one the body must be the whole event.
    if "specversion" in binary and (content_type or "").split(";")[0].strip().lower() != STRUCTURED:
        return binary, document
    if not isinstance(document, dict):
        raise InvalidEvent((FieldError("body", "is not a JSON object"),))
    if "data_base64" in document:
        raise InvalidEvent((FieldError("data_base64", "is not read: give data as JSON"),), _known(document, None))
    data = document.pop("data", None)
    return document, data


def _binary_attributes(headers: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith(_HEADER_PREFIXES):
            found[name[_PREFIX_CHARS:]] = _header_value(value)
    return found


def _header_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime):  # an AMQP timestamp: seconds, no zone, UTC by the specification
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return value


def _json(body: bytes, attributes: Mapping[str, Any]) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        reason = str(error).split(":", maxsplit=1)[0]
        error_at = FieldError("body", f"is not valid JSON ({reason})")
        raise InvalidEvent((error_at,), _known(attributes, None)) from None


def _payload(kind: Any, data: Any, errors: list[FieldError]) -> EmailData | None:
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        if isinstance(kind, str):
            errors.append(FieldError("type", f"is not a kind that is mailed; known: {', '.join(sorted(KINDS))}"))
        return None
    if data is None:
        errors.append(FieldError("data", "is missing"))
        return None
    return _validate(model, data, "data", errors)


def _validate(model: type[Model], value: Any, prefix: str, errors: list[FieldError]) -> Model | None:
    try:
        # What `model_validate` calls, without the options that it passes on.
        valid: Model = model.__pydantic_validator__.validate_python(value)
    except ValidationError as error:
        # The values at fault are left out: a body or a token may be among them.
        errors.extend(
            FieldError(_path(prefix, found["loc"]), found["msg"].removeprefix("Value error, "))
            for found in error.errors(include_url=False, include_context=False, include_input=False)
        )
        return None
    return valid


def _path(prefix: str, loc: tuple[int | str, ...]) -> str:
    parts = [prefix] if prefix else []
    # A key of the event's own choosing may be part of the path: keep it short and printable.
    parts += ["".join(c if c.isprintable() else "?" for c in str(part)) for part in loc]
    return ".".join(parts)[:_MAX_PATH_CHARS] or "event"


def _known(attributes: Mapping[str, Any], data: Any) -> Known:
    scope = data.get("scope") if isinstance(data, dict) else None
    return Known(
        id=_printable(attributes.get("id")),
        source=_printable(attributes.get("source")),
        type=_printable(attributes.get("type")),
        time=_known_time(attributes.get("time")),
        scope=_known_scope(scope),
    )


def _printable(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    return "".join(c if c.isprintable() else "?" for c in value)[:256]


def _known_time(value: Any) -> datetime | None:
    try:
        return Envelope.model_validate(
            {"specversion": "1.0", "id": "-", "source": "-", "type": "-", "time": value}
        ).time
    except ValidationError:
        return None


def _known_scope(value: Any) -> Scope:
    if not isinstance(value, dict):
        return CONTROLLER
    try:
        partner = _TENANT.validate_python(value["partner"]) if value.get("partner") else None
        org = _TENANT.validate_python(value["org"]) if value.get("org") else None
        return Scope(partner, org)
    except ValueError:
        return CONTROLLER
