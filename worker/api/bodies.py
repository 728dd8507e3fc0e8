"""Reading JSON bodies: whatever the Content-Type says, bounded, and never quoted back.

The documented curl lines send JSON as a form's type; and what a body holds may be a password, so an
error names the field and the rule, not the value.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from worker.api.problem import Problem

MAX_BODY_BYTES = 1 << 20
SMALL_BODY_BYTES = 16 * 1024
"""Enough for a password and an address: what anybody may send without a principal."""
_MAX_ERRORS = 50
_MAX_PATH_CHARS = 200

M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    """What a request may say; an unknown field is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


async def read_body(request: Request, model: type[M], limit: int = MAX_BODY_BYTES) -> M:
    """Read the body as `model`; raises Problem: 413 too large, 400 no JSON, 422 with each field at fault."""
    raw = await read_bytes(request, limit)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _refusal(error) from None  # the cause would carry the values into a log


async def read_json(request: Request) -> Any:
    """Read the body as any JSON value; raises Problem: 413 too large, 400 no JSON."""
    try:
        return orjson.loads(await read_bytes(request))
    except orjson.JSONDecodeError:
        raise _no_json() from None


async def read_bytes(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """Read the body; raises Problem 413 as soon as it is known to have more than `limit` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > limit:
            raise _too_large(limit)
    return bytes(chunks)


def faults(error: ValidationError) -> list[tuple[str, str]]:
    """The (path, message) pairs of what broke a rule, without any value."""
    return faults_of(error.errors(include_input=False, include_url=False, include_context=False))


def faults_of(errors: Iterable[Any]) -> list[tuple[str, str]]:
    """The same of pydantic's error dictionaries."""
    found = [(".".join(map(str, e["loc"]))[:_MAX_PATH_CHARS], _sentence(e["msg"])) for e in errors]
    return [(path or "body", message) for path, message in found]


def invalid_fields(errors: Iterable[tuple[str, str]]) -> Problem:
    """The 422 that names each field at fault."""
    named = list(errors)
    detail = "; ".join(f"{path}: {message}" for path, message in named[:3])
    return Problem(422, "Invalid request", detail, named)


def _refusal(error: ValidationError) -> Problem:
    if error.error_count() > _MAX_ERRORS:
        # A megabyte can have a hundred thousand unknown fields: naming them all would take seconds.
        return invalid_fields([("body", f"has {error.error_count()} faults, such as fields that nobody knows")])
    if any(found["type"] == "json_invalid" for found in error.errors(include_input=False, include_context=False)):
        return _no_json()
    return invalid_fields(faults(error))


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")


def _no_json() -> Problem:
    return Problem(400, "Not JSON", "the body has to be one JSON object in UTF-8")


def _too_large(limit: int) -> Problem:
    return Problem(413, "Body too large", f"a body may have {limit} bytes at most", headers={"Connection": "close"})
