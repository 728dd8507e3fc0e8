"""The chain that proves the audit: what a record's hash is over, and the documents that stand beside the records.

Every process that writes records is a writer, under a name of its own for each start. Its records are
numbered from 1 on without a gap, and each carries the hash of the one before it and its own:

    digest = SHA-256 over the canonical record
    hash   = SHA-256 over the writer's name, the number, the previous hash and the digest

The canonical record is the document without its chain and, where it has a `recipient_hash`, without
`recipient`: an address can be forgotten (replaced by nothing but its keyed hash, which stays) and the
chain still holds. JSON with sorted keys, no spaces, as orjson writes it (RFC 8785 without its rule for
numbers: both sides are Python floats).

Beside the records, in the index of proofs:

    head    the writer's last number and hash at some moment, signed where a key is set (Ed25519, RFC 8032)
    void    a number whose record was not stored, since another worker's record of the same thing was there
    pruned  which numbers went with a month that was removed
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

PROOF_CATEGORY = "AUDITPROOF"
PROOF_MONTH = "proof"
"""Stands where the month stands in the name of the index that keeps heads, voids and what was pruned."""

_UNCHAINED = "chain"
_HASHED = "recipient_hash"
_PLAIN = "recipient"
_MARK = "possible_duplicate"
_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z


class ProofKind(StrEnum):
    """What a document in the index of proofs says."""

    HEAD = "head"
    VOID = "void"
    PRUNED = "pruned"


class Link(NamedTuple):
    """A record's place: who wrote it, as which number, and the two hashes, of 64 hex digits each.

    `marked`: the record was chained before it became known that another worker's was there too; its
    `possible_duplicate` was False then. Its `_id` is that of a duplicate (`schemas.audit.duplicate_id`).
    """

    writer: str
    seq: int
    prev: str
    hash: str
    marked: bool = False

    def to_document(self) -> dict[str, Any]:
        """The value of the field `chain`."""
        found: dict[str, Any] = {"writer": self.writer, "seq": self.seq, "prev": self.prev, "hash": self.hash}
        return {**found, "marked": True} if self.marked else found


def read_link(document: Mapping[str, Any]) -> Link | None:
    """The record's link; None where it has none that can be read."""
    chain = document.get(_UNCHAINED)
    if not isinstance(chain, Mapping):
        return None
    writer, seq, prev, own = (chain.get(name) for name in ("writer", "seq", "prev", "hash"))
    if not (isinstance(writer, str) and isinstance(seq, int) and isinstance(prev, str) and isinstance(own, str)):
        return None
    return Link(writer, seq, prev, own, chain.get("marked") is True)


def genesis(writer: str) -> str:
    """What stands as the previous hash in a writer's first record."""
    return hashlib.sha256(writer.encode()).hexdigest()


def canonical(document: Mapping[str, Any]) -> bytes:
    """What a record's digest is over; a time may still be a datetime, which `schemas.audit.to_json` writes alike."""
    if _UNCHAINED not in document and _HASHED not in document:
        return orjson.dumps(document, option=_CANONICAL)
    kept = {name: value for name, value in document.items() if name != _UNCHAINED}
    if _HASHED in kept:
        kept.pop(_PLAIN, None)
    chain = document.get(_UNCHAINED)
    if isinstance(chain, Mapping) and chain.get("marked") is True:
        kept[_MARK] = False
    return orjson.dumps(kept, option=_CANONICAL)


def digest_of(document: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical record, as 64 hex digits."""
    return hashlib.sha256(canonical(document)).hexdigest()


def link_hash(writer: str, seq: int, prev: str, digest: str) -> str:
    """The hash of a link, as 64 hex digits."""
    return hashlib.sha256(f"{writer}\n{seq}\n{prev}\n{digest}".encode()).hexdigest()


def chained(document: Mapping[str, Any], writer: str, seq: int, prev: str) -> tuple[dict[str, Any], Link]:
    """The document with its link after `prev`, and the link."""
    link = Link(writer, seq, prev, link_hash(writer, seq, prev, digest_of(document)))
    return {**document, _UNCHAINED: link.to_document()}, link


def head_statement(writer: str, seq: int, own_hash: str, timestamp: str) -> bytes:
    """What a head's signature is over."""
    return f"postbote audit head\n{writer}\n{seq}\n{own_hash}\n{timestamp}".encode()


def proof_id(kind: ProofKind, *parts: str | int) -> str:
    """The `_id` of a document in the index of proofs: 40 hex digits; head and void are named by writer and number."""
    return hashlib.sha256(orjson.dumps([kind.value, *parts])).hexdigest()[:40]


def head_document(link: Link, timestamp: str, signature: str | None, key_id: str | None) -> dict[str, Any]:
    """A head: the chain ended here then; `signature` (base64) over `head_statement`, `key_id` names the public key."""
    head = {
        "@timestamp": timestamp,
        "category": PROOF_CATEGORY,
        "kind": ProofKind.HEAD.value,
        "writer": link.writer,
        "seq": link.seq,
        "hash": link.hash,
    }
    return head if signature is None else {**head, "signature": signature, "key_id": key_id}


def void_document(link: Link, digest: str, document_id: str, timestamp: str) -> dict[str, Any]:
    """A void: this number's record was not stored, for `document_id` was there; what the chain needs of it is kept."""
    return {
        "@timestamp": timestamp,
        "category": PROOF_CATEGORY,
        "kind": ProofKind.VOID.value,
        "writer": link.writer,
        "seq": link.seq,
        "prev": link.prev,
        "hash": link.hash,
        "digest": digest,
        "document_id": document_id,
    }


def pruned_document(month: str, ranges: Mapping[str, str], timestamp: str) -> dict[str, Any]:
    """What went with a month: `ranges` is, by writer, the numbers as ``1-500,503``.

    It is believed where a chained record of the pruning names its digest (`digest_of`) in `changed`.
    """
    return {
        "@timestamp": timestamp,
        "category": PROOF_CATEGORY,
        "kind": ProofKind.PRUNED.value,
        "month": month,
        "ranges": dict(ranges),
    }
