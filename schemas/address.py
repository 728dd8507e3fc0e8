"""Mail addresses: one parser for everything that names a recipient or a sender.

Plain ASCII addresses, nearly all of them, are matched by one expression; everything else
(quoted local parts, IDN, SMTPUTF8) is left to the ``email-validator`` library.
"""

import re
from typing import Annotated, Any

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, model_validator

from schemas.text import HeaderText, one_line

# RFC 5321 section 4.5.3.1: 64 octets of local part, 255 of domain, 254 in all (errata 1690).
_PLAIN = re.compile(
    r"(?=.{3,254}\Z)"
    r"([A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)"
    r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)\Z"
)
_MAX_LOCAL = 64
_NAME_ADDR = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^<>"]*?))\s*<([^<>]*)>\s*\Z')


def normalize_address(value: str) -> str:
    """Return the envelope form of an address: local part as given, domain as lower-case A-labels.

    Raises ValueError with a sentence that never repeats the address.
    """
    match = _PLAIN.match(value)
    if match:
        local, domain = match[1], match[2].lower()
        if len(local) <= _MAX_LOCAL and "xn--" not in domain:
            return f"{local}@{domain}"
    one_line(value)
    return _normalize_unusual(value)


def _normalize_unusual(value: str) -> str:
    try:
        found = validate_email(
            value,
            check_deliverability=False,
            globally_deliverable=False,  # an operator's own mail.internal is a real destination
            allow_quoted_local=True,
            allow_domain_literal=True,
            strict=True,
        )
    except EmailNotValidError:
        msg = "not a valid mail address (expected local-part@domain)"
        raise ValueError(msg) from None
    return f"{found.local_part}@{found.ascii_domain}"


Address = Annotated[str, StringConstraints(max_length=1000), AfterValidator(normalize_address)]
"""An address in its envelope form (see `normalize_address`)."""


class Mailbox(BaseModel):
    """An address with an optional display name; also read from ``"Name <a@b>"`` or ``"a@b"``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: Address
    name: HeaderText | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_string(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _NAME_ADDR.match(value) if "<" in value else None
        if not match:
            return {"email": value}
        quoted, bare, address = match.groups()
        name = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare
        return {"email": address, "name": name or None}
