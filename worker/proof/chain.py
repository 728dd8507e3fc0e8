"""One writer's chain: its records get their numbers and links in the order in which they are sealed.

Nothing here waits, so whoever seals and hands over in one turn of the loop hands over in the order of
the numbers.
"""

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import orjson
import structlog

from schemas.audit_chain import (
    PROOF_MONTH,
    Link,
    ProofKind,
    digest_of,
    genesis,
    head_document,
    head_statement,
    link_hash,
    proof_id,
    read_link,
)
from worker.delivery.ports import Document
from worker.delivery.privacy import Draft
from worker.proof.contested import stamp

if TYPE_CHECKING:  # who signs no heads does without the library
    from worker.proof.signing import Signer

log = structlog.get_logger(__name__)

_START_DIGITS = 8
_EMPTY = b"{}"


def new_writer(worker_id: str) -> str:
    """The name of one start of a worker: its own, a slash, and 8 hex digits."""
    return f"{worker_id}/{secrets.token_hex(_START_DIGITS // 2)}"


class _End(NamedTuple):
    """Where a chain stands: the last number, 0 before the first record, and its hash."""

    seq: int
    hash: str
    prev: str = ""


class Chain:
    """The records of one start of one process, from number 1 on."""

    def __init__(self, writer: str, signer: "Signer | None" = None) -> None:
        """Begin a chain; `writer` is new for each (`new_writer`), and heads are signed where there is a `signer`."""
        self.writer = writer
        self._signer = signer
        self._end = _End(0, genesis(writer))
        self._told = 0
        self._named = orjson.dumps(writer)

    @property
    def length(self) -> int:
        """The number of the last record."""
        return self._end.seq

    def seal(self, documents: Sequence[Document | Draft]) -> list[Document]:
        """The documents with their links, in their order; raises ValueError and seals none where one is no object."""
        end, sealed = self._end, []
        for document in documents:
            draft = document if isinstance(document, Draft) else _draft_of(document)
            seq = end.seq + 1
            own = link_hash(self.writer, seq, end.hash, draft.digest)
            link = b'"chain":{"writer":%b,"seq":%d,"prev":"%b","hash":"%b"}}' % (
                self._named,
                seq,
                end.hash.encode(),
                own.encode(),
            )
            joint = b"" if draft.document == _EMPTY else b","
            body = b"".join((draft.document[:-1], joint, link))
            sealed.append(Document(draft.document_id, draft.index_month, body))
            end = _End(seq, own, end.hash)
        self._end = end
        return sealed

    def head(self, now: datetime) -> Document | None:
        """What says that the chain ends here at `now`, for the index of proofs; None where it has not grown since.

        It is logged, too: logs that are kept elsewhere bear witness.
        """
        if self._end.seq == self._told:
            return None
        self._told = self._end.seq
        return self._head_of(Link(self.writer, self._end.seq, self._end.prev, self._end.hash), now)

    def heads_of_dead(self, documents: Iterable[Document], now: datetime) -> list[Document]:
        """For each writer of sealed records that a dead process left: what says that its chain goes so far at least.

        The dead said so themselves, on this disk; the signature is this process's.
        """
        ends: dict[str, Link] = {}
        for document in documents:
            link = read_link(orjson.loads(document.document))
            if link is not None and (link.writer not in ends or ends[link.writer].seq < link.seq):
                ends[link.writer] = link
        return [self._head_of(link, now) for link in ends.values()]

    def _head_of(self, link: Link, now: datetime) -> Document:
        timestamp = stamp(now)
        signature = key_id = None
        if self._signer is not None:
            signature = self._signer.sign(head_statement(link.writer, link.seq, link.hash, timestamp))
            key_id = self._signer.key_id
        log.info("audit head", writer=link.writer, seq=link.seq, hash=link.hash, signature=signature, at=timestamp)
        body = orjson.dumps(head_document(link, timestamp, signature, key_id))
        return Document(proof_id(ProofKind.HEAD, link.writer, link.seq), PROOF_MONTH, body)


def _draft_of(document: Document) -> Draft:
    """The record without a link; raises ValueError where it is no JSON object."""
    record, body = orjson.loads(document.document), document.document.rstrip()
    if not isinstance(record, dict):
        msg = "a record is a JSON object"
        raise ValueError(msg)  # noqa: TRY004 # as orjson's own error is
    if "chain" in record or not record:
        # Nobody but its writer says where a record stands.
        record.pop("chain", None)
        body = orjson.dumps(record)
    return Draft(document.document_id, document.index_month, body, digest_of(record))
