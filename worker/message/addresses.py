"""Address headers: From, To, Cc and Reply-To (RFC 5322 section 3.4, RFC 6532 for SMTPUTF8)."""

import re
from collections.abc import Sequence

from schemas.address import Mailbox
from worker.errors import RenderError
from worker.message.headers import MAX_LINE, encoded_words, fold, require_one_line, stands_as_it_is

# A longer name could not be folded inside quotes; as encoded words it can.
_MAX_RAW_NAME = 60
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ATOMS = re.compile(rf"{_ATOM}(?: {_ATOM})*\Z")
_QUOTABLE = re.compile(r"[ -~]+\Z")
_TO_ESCAPE = re.compile(r'(["\\])')


def address_header(name: str, mailboxes: Sequence[Mailbox], path: str) -> str:
    """Return one header naming `mailboxes` in their order, folded, with its CRLF.

    Display names are ASCII on the wire; an address whose local part is not stands there as UTF-8,
    which only SMTPUTF8 may carry. Raises RenderError naming `path`.
    """
    line = f"{name}: {mailboxes[0].email}\r\n"
    if len(mailboxes) == 1 and not mailboxes[0].name and len(line) <= MAX_LINE:
        _require_address(mailboxes[0].email, path)
        return line
    tokens: list[str] = []
    for mailbox in mailboxes:
        tokens += _tokens(mailbox, path)
        tokens[-1] += ","
    tokens[-1] = tokens[-1][:-1]
    return fold(name, [f" {token}" for token in tokens])


def needs_smtputf8(address: str) -> bool:
    """Tell whether an address in envelope form needs SMTPUTF8 (RFC 6531): its local part is not ASCII."""
    return not address.isascii()


def _tokens(mailbox: Mailbox, path: str) -> list[str]:
    _require_address(mailbox.email, path)
    name = mailbox.name
    if not name or name.isspace():
        return [mailbox.email]
    require_one_line(name, path)
    return [*_phrase(name), f"<{mailbox.email}>"]


def _require_address(address: str, path: str) -> None:
    require_one_line(address, path)
    if not address.partition("@")[1] or "<" in address or ">" in address:
        raise RenderError(path, "is not a mail address in its envelope form")


def _phrase(name: str) -> list[str]:
    if len(name) > _MAX_RAW_NAME or not stands_as_it_is(name) or not _QUOTABLE.match(name):
        return encoded_words(name)
    if _ATOMS.match(name):
        return [name]
    escaped = _TO_ESCAPE.sub(r"\\\1", name)
    return [f'"{escaped}"']
