"""What a record says about its recipient: the address, a mask of it, or no more than its keyed hash.

A record is made with the address in it; `Privacy.document` is where it becomes what is kept. Servers
quote addresses, so where addresses are protected the words of a record go through `words` too.

The unkeyed id of a record is a hash over its event and its recipient: whoever reads the index could
try addresses against it. Masked and hashed records have a keyed one (`known_as`).
"""

import hmac
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from schemas.audit import AuditRecord, Reply, to_json
from schemas.audit_chain import digest_of
from schemas.trusted import trusted
from worker.delivery.quoted import reason_without_addresses, reply_without_addresses, without_addresses

_HASH_BYTES = 16
_ID_DIGITS = 40


class Draft(NamedTuple):
    """A record as it is kept, before it has its place in a chain: a `Document`, and the digest for its link."""

    document_id: str
    index_month: str
    document: bytes
    digest: str


class RecipientMode(StrEnum):
    """How a record names its recipient."""

    PLAIN = "plain"
    MASKED = "masked"
    HASHED = "hashed"


@dataclass(frozen=True, slots=True)
class Privacy:
    """How recipients are kept, and with what `key` they are hashed; without one there are no hashes.

    Raises ValueError for hashed recipients without a key: nobody could be found any more.
    """

    mode: RecipientMode
    key: bytes | None = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what could not be found again."""
        if self.mode is RecipientMode.HASHED and not self.key:
            msg = "hashed recipients need a key"
            raise ValueError(msg)

    @property
    def hides(self) -> bool:
        """Whether addresses are not kept as they are."""
        return self.mode is not RecipientMode.PLAIN

    def document(self, record: AuditRecord) -> Draft:
        """The record as it is kept; plain and without a key just as it is."""
        if self.key is None and not self.hides:
            return _drafted(record.document_id, record)
        return _drafted(self.known_as(record.document_id), self._kept(record))

    def known_as(self, document_id: str) -> str:
        """The id under which the record of this (unkeyed) id is kept, of 40 hex digits."""
        if not self.hides or self.key is None:
            return document_id
        return _keyed(self.key, document_id)

    def names(self, document_id: str) -> tuple[str, ...]:
        """Every id under which the record of this (unkeyed) id may be kept, also from before the mode was another."""
        if self.key is None:
            return (document_id,)
        return (document_id, _keyed(self.key, document_id))

    def hash_of(self, address: str) -> str | None:
        """HMAC-SHA-256 over the address in lower case, as 32 hex digits; None without a key."""
        return None if self.key is None else _hash(self.key, address)

    def shown(self, address: str) -> str | None:
        """What logs and records say in place of an address; None where nothing may be said."""
        match self.mode:
            case RecipientMode.PLAIN:
                return address
            case RecipientMode.MASKED:
                return masked(address)
            case RecipientMode.HASHED:
                return None

    def _kept(self, record: AuditRecord) -> AuditRecord:
        address, queued = record.recipient, record.remote_queue_id
        said: dict[str, object] = {}
        if address is not None:
            said |= {"recipient": self.shown(address), "recipient_hash": self.hash_of(address)}
        if record.reason:
            said["reason"] = reason_without_addresses(record.reason, address)
        if record.reply is not None and record.reply.text:
            said["reply"] = _protected(record.reply, address, record.message_id)
        if queued:
            said["remote_queue_id"] = without_addresses(queued, address, kept=queued)
        return trusted(AuditRecord, record.__dict__ | said)


PLAIN = Privacy(RecipientMode.PLAIN, None)
"""Addresses as they are, and no hash: what holds where nothing is set."""


def masked(address: str) -> str:
    """``b***@dev.acme.example``: the first letter, whatever follows it, and the domain."""
    local, at, domain = address.rpartition("@")
    first = local[:1] if local[:1].isalnum() else ""
    return f"{first}***@{domain}" if at else "***"


def _protected(reply: Reply, address: str | None, message_id: str | None) -> Reply:
    return trusted(Reply, reply.__dict__ | {"text": reply_without_addresses(reply.text, address, message_id)})


def _drafted(document_id: str, record: AuditRecord) -> Draft:
    document = record.to_document()
    return Draft(document_id, record.index_month, to_json(document), digest_of(document))


def _keyed(key: bytes, document_id: str) -> str:
    return hmac.digest(key, document_id.encode(), sha256).hex()[:_ID_DIGITS]


@lru_cache(maxsize=4096)  # a recipient has several records, one after the other
def _hash(key: bytes, address: str) -> str:
    return hmac.digest(key, address.lower().encode(), sha256).hex()[: 2 * _HASH_BYTES]
