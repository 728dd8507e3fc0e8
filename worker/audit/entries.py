"""One document as a bulk carries it, what its item's answer means, and its form as a dead letter."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

import orjson

from schemas.audit import AuditRecord
from schemas.audit_chain import PROOF_MONTH
from worker.audit.index_template import DEAD_LETTER_MONTH
from worker.delivery.ports import Document
from worker.errors import AuditUnavailable
from worker.proof import contested

# Plain strings, which a keyword field always takes: a dead letter is still found by them.
_KEPT_FINDABLE = (
    *("category", "type", "outcome", "partner", "org", "event_id", "event_source", "subject"),
    *("recipient", "recipient_hash"),
)
_REFUSED = frozenset({400, 403, 404})
_CONFLICT = 409
_TOO_MANY_REQUESTS = 429
# No fault of the record's: an index that is being migrated takes no writes for a moment, or is gone when its name has
# become an alias; a role or a pipeline that is missing is mended.
_PASSING = (
    "cluster_block_exception",
    "index_not_found_exception",
    "security_exception",
    "illegal_argument_exception: pipeline with id [",
)


@dataclass(slots=True, eq=False)
class Ticket:
    """One call of a writer: its future is done once the `left` records have become none.

    `since` is the loop's time of the call. `shipped`: it comes out of the outbox, where it must not go again.
    """

    left: int
    done: asyncio.Future[None]
    since: float = 0.0
    shipped: bool = False

    def settle_one(self) -> None:
        """Count one record as durable."""
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: AuditUnavailable) -> None:
        """Tell the writer that not all became durable; a writer who left needs no telling."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True, eq=False)
class Entry:
    """One document as it is sent; `payload` is its action line and itself, as NDJSON.

    `month` is ``YYYY.MM``, or the dead letters' or the proofs' word. `settled`: it is durable, here or in the outbox.
    """

    prefix: str
    month: str
    document_id: str
    document: bytes
    ticket: Ticket
    failures: int = 0
    settled: bool = False
    payload: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Compose the lines; index and id are of letters, digits, dots and dashes."""
        action = f'{{"create":{{"_index":"{self.prefix}-{self.month}","_id":"{self.document_id}"}}}}\n'
        self.payload = b"%b%b\n" % (action.encode(), self.document)

    @property
    def index(self) -> str:
        """The index that it belongs in."""
        return f"{self.prefix}-{self.month}"

    @property
    def dead(self) -> bool:
        """Whether it is a dead letter."""
        return self.month == DEAD_LETTER_MONTH

    @property
    def proof(self) -> bool:
        """Whether it goes into the index of proofs, where an id says all that a document does."""
        return self.month == PROOF_MONTH


def entry_of(record: AuditRecord, prefix: str, ticket: Ticket) -> Entry:
    """Prepare a record for the index of its event's month."""
    return Entry(prefix, record.index_month, record.document_id, record.to_json(), ticket)


class Verdict(Enum):
    """What becomes of one item of a bulk."""

    DURABLE = auto()
    THERE_ALREADY = auto()
    AGAIN = auto()
    DEAD_LETTER = auto()


def judge(status: int, reason: str = "", *, dead: bool) -> Verdict:
    """Decide by an item's status and its error's type; a dead letter has nowhere further to go and is tried again.

    409 is a document that is there already: ours, written before, or another worker's (see `duplicates`).
    """
    if status in {200, 201}:
        return Verdict.DURABLE
    if status == _CONFLICT:
        return Verdict.THERE_ALREADY
    if dead or status == _TOO_MANY_REQUESTS or status >= 500:  # noqa: PLR2004 # HTTP's own numbers
        return Verdict.AGAIN
    if status in _REFUSED and reason.startswith(_PASSING):
        return Verdict.AGAIN
    return Verdict.DEAD_LETTER


def bury(entry: Entry, reason: str) -> Entry:
    """Turn an entry that cannot be indexed into a dead letter of the same id, for the same writer.

    The record stands in it whole and unindexed; see `restore`. Its link stands beside it, too, where it is found.
    """
    record = orjson.loads(entry.document)
    kept = {name: record[name] for name in _KEPT_FINDABLE if isinstance(record.get(name), str)}
    if "chain" in record:
        kept["chain"] = record["chain"]
    letter = {"index": entry.index, "error": reason, "record": entry.document.decode()}
    document = orjson.dumps({"@timestamp": record["@timestamp"], **kept, "dead_letter": letter})
    return Entry(entry.prefix, DEAD_LETTER_MONTH, entry.document_id, document, entry.ticket)


def as_duplicate(entry: Entry) -> Entry:
    """The entry's record once more, as what it is: a further acceptance, under an id of its own."""
    return _instead(entry, contested.as_duplicate(Document(entry.document_id, entry.month, entry.document)))


def as_void(entry: Entry) -> Entry:
    """What says that the entry's record is not stored, since another of the same is."""
    record = restore(orjson.loads(entry.document))
    record.pop("dead_letter", None)
    return _instead(entry, contested.void_of(record, entry.document_id, datetime.now(UTC)))


def _instead(entry: Entry, document: Document) -> Entry:
    return Entry(entry.prefix, document.index_month, document.document_id, document.document, entry.ticket)


def restore(document: dict[str, Any]) -> dict[str, Any]:
    """Return a found document as the record that was written.

    A dead letter's record also has ``dead_letter``: the index that refused it, and why. One that
    never was a record is returned as it is.
    """
    letter = document.get("dead_letter")
    if not isinstance(letter, Mapping) or "record" not in letter:
        return document
    return {**orjson.loads(letter["record"]), "dead_letter": {"index": letter["index"], "error": letter["error"]}}
