"""From a request's body to a draft of an SMTP record; whatever is wrong is said at the path that the asker wrote."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from schemas.smtp_config import Scope
from schemas.smtp_spellings import (
    Anonymous,
    GivenPassword,
    InvalidSpelling,
    NamedSecret,
    PasswordIntention,
    PasswordReference,
    Spelled,
    Unsaid,
    faults_of,
    read_smtp_config,
)
from worker.api.bodies import invalid_fields
from worker.api.problem import invalid
from worker.control.errors import NotFound, PasswordNeeded, Refused, Stale, Taken
from worker.control.records import (
    Draft,
    KeepPassword,
    NewPassword,
    NoPassword,
    Password,
    UseReference,
    UseSecret,
)
from worker.errors import RenderError
from worker.message.dkim import DkimKey, sign

DEFAULT = "default"
"""What a scope's only record is called where nobody gave it a name."""


async def read_spelled(document: Any, scope: Scope, prefix: str = "") -> Spelled:
    """Read a record of `scope` in any spelling; raises Problem 422 with every field at fault."""
    try:
        spelled = read_smtp_config(document, scope, prefix)
    except InvalidSpelling as error:
        raise invalid_fields([(fault.path, fault.message) for fault in error.errors]) from None
    if spelled.dkim_key is not None and not await asyncio.to_thread(_signs, spelled.dkim_key):
        raise invalid(spelled.path("dkim_key"), "cannot sign: give a PEM text of an RSA key")
    return spelled


def draft_of(spelled: Spelled, scope: Scope, name: str) -> Draft:
    """The record under `name`, whatever name it gives itself."""
    return Draft(scope, name, spelled.fields, _password(spelled.password), spelled.dkim_key)


@contextmanager
def refusals_at(spelled: Spelled) -> Iterator[None]:
    """Let what the store refuses be said at the asker's own paths."""
    try:
        yield
    except ValidationError as error:
        faults = faults_of(error, spelled.prefix, spelled.paths)
        raise invalid_fields([(fault.path, fault.message) for fault in faults]) from None
    except Stale:
        raise
    except (PasswordNeeded, Taken) as error:
        raise type(error)(spelled.path(error.path), error.message) from None
    except NotFound as error:  # a secret that it names: the path of the request is there
        raise invalid(spelled.path(error.path), error.message) from None
    except Refused as error:
        raise invalid(spelled.path(error.path), error.message) from None


def _password(intention: PasswordIntention) -> Password:
    match intention:
        case GivenPassword(value):
            return NewPassword(value)
        case NamedSecret(name):
            return UseSecret(name)
        case PasswordReference(reference):
            return UseReference(reference)
        case Unsaid():
            return KeepPassword()
        case Anonymous():
            return NoPassword()


def _signs(pem: str) -> bool:
    try:
        sign(b"From: trial@example.com\r\n\r\n", DkimKey("example.com", "trial", pem.encode()))
    except RenderError:
        return False
    return True
