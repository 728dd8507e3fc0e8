"""What becomes of a record under whose id something is stored already: decided by what is there.

A bulk that is sent again, a journal or an outbox that is shipped again: then it is the same record, and
the chain's hash says so. Else two of ours recorded the same thing. Of two acceptances both are kept,
for there were two mails; of anything else the first, and the number of the later one is accounted for
by a void.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

import orjson

from schemas.audit import Outcome, duplicate_id
from schemas.audit_chain import PROOF_MONTH, ProofKind, digest_of, proof_id, read_link, void_document
from worker.delivery.ports import Document

TOLD_APART_BY = ("worker_id", "@timestamp", "chain.hash")
"""The fields of a stored record, as paths, that `compare` looks at."""

_OF_ONE_ACCEPTANCE = ("worker_id", "@timestamp")
_MARK = "possible_duplicate"


class Standing(Enum):
    """Of a record whose id is taken.

    OURS       the same record is there
    DUPLICATE  another acceptance is there, and this one is stored beside it
    VOID       another record of the same is there, and this one is not stored
    """

    OURS = auto()
    DUPLICATE = auto()
    VOID = auto()


def may_differ(record: Mapping[str, Any]) -> bool:
    """Whether something else than this very record could stand under its id, as far as anybody could tell."""
    return read_link(record) is not None or _accepted(record)


def compare(record: Mapping[str, Any], stored: Mapping[str, Any]) -> Standing:
    """What a record is next to what is stored under its id, of which `TOLD_APART_BY` is enough."""
    link = read_link(record)
    if link is not None and _hash_of(stored) == link.hash:
        return Standing.OURS
    if _accepted(record) and any(record.get(name) != stored.get(name) for name in _OF_ONE_ACCEPTANCE):
        return Standing.DUPLICATE
    return Standing.OURS if link is None else Standing.VOID


def as_duplicate(document: Document) -> Document:
    """The record as what it is: a further acceptance, under an id of its own; its link holds on."""
    record = orjson.loads(document.document)
    chain = record.get("chain")
    if isinstance(chain, dict) and record.get(_MARK) is False:
        record["chain"] = chain | {"marked": True}
    own_id = duplicate_id(document.document_id, record.get("worker_id"), record["@timestamp"])
    return Document(own_id, document.index_month, orjson.dumps({**record, _MARK: True}))


def void_of(record: Mapping[str, Any], document_id: str, now: datetime) -> Document:
    """The void in place of a record whose id is taken; raises ValueError for one without a link."""
    link = read_link(record)
    if link is None:
        msg = "only a chained record leaves a void"
        raise ValueError(msg)
    body = orjson.dumps(void_document(link, digest_of(record), document_id, stamp(now)))
    return Document(proof_id(ProofKind.VOID, link.writer, link.seq), PROOF_MONTH, body)


def stamp(now: datetime) -> str:
    """A time as records bear it: ISO 8601 in UTC, with a Z."""
    return now.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _accepted(record: Mapping[str, Any]) -> bool:
    return record.get("outcome") == Outcome.ACCEPTED and "dead_letter" not in record


def _hash_of(stored: Mapping[str, Any]) -> object:
    chain = stored.get("chain")
    return chain.get("hash") if isinstance(chain, Mapping) else None
