"""What can be said of one record by itself: whether its hash follows from it, and whether its place does."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from schemas.audit import Outcome, document_id, duplicate_id
from schemas.audit_chain import Link, digest_of, link_hash, read_link
from worker.proof.ports import Stored

HashOf = Callable[[str], str | None]
"""An address's keyed hash; None where no key is set."""

_MASK = "***"


class Member(NamedTuple):
    """A record or a void with its link.

    `fits`: its hash follows from what it says. `fault`: what else is wrong with it, in words.
    """

    link: Link
    stored: Stored
    fits: bool
    fault: str | None = None
    void: bool = False


def link_of(document: Mapping[str, Any]) -> Link | None:
    """The record's link, None where there is none that a writer can have made."""
    chain = document.get("chain")
    if type(chain) is not dict:
        return None
    # By hand: `read_link` would be a tenth of what verifying costs, and takes True for a number.
    writer, seq, prev, own = chain.get("writer"), chain.get("seq"), chain.get("prev"), chain.get("hash")
    if type(seq) is not int or seq < 1:
        return None
    if not (isinstance(writer, str) and isinstance(prev, str) and isinstance(own, str)):
        return None
    return Link(writer, seq, prev, own, chain.get("marked") is True)


def examined(stored: Stored, link: Link, hash_of: HashOf) -> Member:
    """Judge a record."""
    try:
        fits = link_hash(link.writer, link.seq, link.prev, digest_of(stored.document)) == link.hash
    except (TypeError, ValueError):  # numbers or text that JSON can spell, and no writer of ours
        fits = False
    return Member(link, stored, fits, _fault(stored, link, hash_of) if fits else None)


def void_of(stored: Stored) -> Member | None:
    """Judge a void; None where its hash does not follow from its digest, so that it explains nothing."""
    found = stored.document
    link = read_link({"chain": found})
    digest = found.get("digest")
    if link is None or not isinstance(digest, str) or not isinstance(found.get("document_id"), str):
        return None
    try:
        fits = link_hash(link.writer, link.seq, link.prev, digest) == link.hash
    except ValueError:  # text that is no text
        fits = False
    return Member(link, stored, fits=True, void=True) if fits else None


def _fault(stored: Stored, link: Link, hash_of: HashOf) -> str | None:
    document = stored.document
    if len(document["chain"]) != len(Link._fields) - (not link.marked):
        return "its chain holds more than a link"
    if stored.disagrees:
        return f"what it is found by is not what it says: {', '.join(stored.disagrees)}"
    if link.marked and not (document.get("possible_duplicate") is True and document.get("outcome") == Outcome.ACCEPTED):
        return "it is marked as a further acceptance, and is none"
    if stored.month is not None and stored.month != _month_of(document):
        return "it stands in another month's index"
    recipient = document.get("recipient")
    return _fault_of_recipient(stored, link, recipient, hash_of) if isinstance(recipient, str) else None


def _fault_of_recipient(stored: Stored, link: Link, recipient: str, hash_of: HashOf) -> str | None:
    """What an address tells: its hash, and the id. A masked one tells neither."""
    if _masked(recipient):
        return None
    hashed = stored.document.get("recipient_hash")
    if hashed is not None and hash_of(recipient) not in (None, hashed):
        return "its recipient is not the one that its keyed hash is of"
    if not _id_fits(stored, link, recipient):
        return "it stands under an id that does not follow from what it says"
    return None


def _masked(recipient: str) -> bool:
    return recipient.startswith(_MASK) or recipient[1:4] == _MASK


def _id_fits(stored: Stored, link: Link, recipient: str) -> bool:
    """Whether the id is the record's own; True where the record cannot say, as that of a change."""
    record = stored.document
    try:
        first = document_id(
            partner=record.get("partner"),
            org=record.get("org"),
            source=record["event_source"],
            event_id=record["event_id"],
            recipient=recipient,
            outcome=Outcome(record["outcome"]),
            attempt=record["attempt"],
        )
    except (KeyError, TypeError, ValueError):  # no delivery, or an outcome of a newer version
        return True
    if stored.document_id == first:
        return not link.marked
    if record["outcome"] != Outcome.ACCEPTED or record.get("possible_duplicate") is not True:
        return False
    return stored.document_id == duplicate_id(first, record.get("worker_id"), record["@timestamp"])


def _month_of(document: Mapping[str, Any]) -> str | None:
    moment = document.get("event_time") or document.get("@timestamp")
    if not isinstance(moment, str):
        return None
    if moment.endswith("Z"):
        return f"{moment[:4]}.{moment[5:7]}"
    try:
        utc = datetime.fromisoformat(moment).astimezone(UTC)
    except ValueError:
        return None
    return f"{utc.year:04}.{utc.month:02}"
