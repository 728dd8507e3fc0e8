"""What a server offers, read once from its EHLO reply (RFC 5321 section 4.1.1.1).

Only what the transaction decides by; AUTH and STARTTLS are over by then.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

# RFC 1870 section 3: up to 20 digits.
_NUMBER = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The extensions that a transaction can use.

    `size`: MAIL may carry SIZE= (RFC 1870); `max_size`: octets of content, None for no fixed limit.
    `mail_max`, `rcpt_max`: transactions a connection and recipients a transaction (RFC 9422 LIMITS).
    """

    pipelining: bool = False
    size: bool = False
    max_size: int | None = None
    eight_bit_mime: bool = False
    smtputf8: bool = False
    chunking: bool = False
    enhanced_status_codes: bool = False
    require_tls: bool = False
    mail_max: int | None = None
    rcpt_max: int | None = None

    @classmethod
    def from_extensions(cls, extensions: Mapping[str, str]) -> Self:
        """Read keyword -> parameters, in any case, as aiosmtplib's `esmtp_extensions` holds them."""
        found = {keyword.lower(): parameters.strip() for keyword, parameters in extensions.items()}
        limits = _limits(found.get("limits", ""))
        return cls(
            pipelining="pipelining" in found,
            size="size" in found,
            max_size=_number(found.get("size", "")) or None,  # SIZE 0 says "no fixed limit" too
            eight_bit_mime="8bitmime" in found,
            smtputf8="smtputf8" in found,
            chunking="chunking" in found,
            enhanced_status_codes="enhancedstatuscodes" in found,
            require_tls="requiretls" in found,
            mail_max=limits.get("mailmax"),
            rcpt_max=limits.get("rcptmax"),
        )

    @classmethod
    def from_ehlo(cls, text: str) -> Self:
        """Read the text of an EHLO reply: the greeting line, then one keyword a line, codes stripped."""
        lines = (line.strip().partition(" ") for line in text.split("\n")[1:])
        return cls.from_extensions({keyword: parameters for keyword, _, parameters in lines if keyword})


def _limits(parameters: str) -> dict[str, int]:
    pairs = (part.partition("=") for part in parameters.lower().split())
    return {name: number for name, _, value in pairs if (number := _number(value))}


def _number(value: str) -> int | None:
    return int(value) if _NUMBER.fullmatch(value) else None
