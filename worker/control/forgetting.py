"""Forgetting a person: no record says the address any more, and each is still found by its keyed hash.

What a record's chain rests on stays: the digest of a record with a `recipient_hash` is not over the
address. One that was chained before a key was set has none, and would no longer fit its chain; it is
left, unless the asker takes that. What was done is on record before the first address goes.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

import orjson

from schemas.audit_chain import digest_of, read_link
from schemas.audit_change import Action, ChangedBy, ChangeRecord, ChangeType
from worker.delivery.quoted import without_own

PAGE = 500
"""So many records are read and rewritten at once."""

_PASSES = 20  # each ends sooner; a worker that writes in plain goes on meanwhile

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Whom to forget: the address, and the hash that stays. `unprovable`: also where the chain breaks by it."""

    address: str
    keyed_hash: str
    unprovable: bool = False


class Found(NamedTuple):
    """A stored document and where it stands: its store's own words, by which it is replaced if it is still the same."""

    place: Any
    document: dict[str, Any]


class Page(NamedTuple):
    """Some of what was found; `after` goes on behind it, None at the end."""

    found: Sequence[Found]
    after: Any


class Forgetting(Protocol):
    """What forgetting needs of an audit; both raise AuditUnavailable."""

    async def page(self, address: str, after: Any) -> Page:
        """Whatever may name the address, and perhaps some more, behind `after`, at most `PAGE`; None begins anew."""
        ...

    async def replace(self, changes: Sequence[tuple[Found, Document]]) -> int:
        """Put each document in the place of the one found, where that is unchanged; how many were."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """Records that named the address: how many were rewritten (or would be), and how many left for their chain's sake.

    `contested`: how many were changed by others over and over and are still to be done.
    """

    rewritten: int = 0
    unprovable: int = 0
    contested: int = 0


async def forget(
    audit: Forgetting,
    whom: Forgotten,
    before_the_first: Callable[[], Awaitable[None]],
    progress: Callable[[int], None] = lambda _: None,
    *,
    dry_run: bool = False,
) -> Told:
    """Go through the audit until nothing is left to do. `before_the_first` is awaited before the first rewriting.

    `progress` is told how many were rewritten so far. Raises AuditUnavailable; then whatever was done stays done.
    """
    rewritten, begun = 0, False
    told = Told()
    for _ in range(_PASSES):
        here, after, unprovable, contested = 0, None, 0, 0
        while True:
            page = await audit.page(whom.address, after)
            changes, left = _changes(page.found, whom)
            unprovable += left
            if changes and not dry_run and not begun:
                await before_the_first()
                begun = True
            done = len(changes) if dry_run or not changes else await audit.replace(changes)
            here, contested = here + done, contested + len(changes) - done
            progress(rewritten + here)
            after = page.after
            if after is None:
                break
        rewritten += here
        told = Told(rewritten, unprovable, contested)
        if dry_run or not (here or contested):
            break
    return told


def deed(whom: Forgotten, actor: ChangedBy, now: datetime | None = None) -> ChangeRecord:
    """What is recorded of it: the hash, and never the address."""
    return ChangeRecord(
        timestamp=now or datetime.now(UTC),
        id=f"forgotten {uuid4()}",
        type=ChangeType.AUDIT,
        action=Action.FORGOTTEN,
        subject=whom.keyed_hash,
        changed=("recipient",),
        actor=actor,
    )


def without_address(document: Document, whom: Forgotten) -> Document:
    """The document without the address, an equal one where it does not name it.

    What a change says stays: an account's address, its subject or actor, is no recipient's.
    """
    letter = document.get("dead_letter")
    if isinstance(letter, Mapping):
        return _letter_without(document, letter, whom)
    return _record_without(document, whom)


def _changes(found: Sequence[Found], whom: Forgotten) -> tuple[list[tuple[Found, Document]], int]:
    """What is to be put where, and how many are left for their chain's sake."""
    changes, left = [], 0
    for each in found:
        fresh = without_address(each.document, whom)
        if fresh == each.document:
            continue
        if whom.unprovable or _provable(each.document, fresh):
            changes.append((each, fresh))
        else:
            left += 1
    return changes, left


def _provable(document: Document, fresh: Document) -> bool:
    """Whether the record still fits its chain, or never was in one."""
    record, rewritten = _record_of(document), _record_of(fresh)
    return read_link(record) is None or digest_of(record) == digest_of(rewritten)


def _record_of(document: Document) -> Document:
    letter = document.get("dead_letter")
    inner = letter.get("record") if isinstance(letter, Mapping) else None
    return orjson.loads(inner) if isinstance(inner, str) else document


def _record_without(record: Document, whom: Forgotten) -> Document:
    recipient = record.get("recipient")
    own = isinstance(recipient, str) and recipient.lower() == whom.address.lower()
    fresh = dict(record)
    if own:
        del fresh["recipient"]
        fresh.setdefault("recipient_hash", whom.keyed_hash)
    if own and "recipient_hash" in record:  # its words were protected as it was written
        return fresh
    return _words_without(fresh, whom, own=own)


def _words_without(record: dict[str, Any], whom: Forgotten, *, own: bool) -> dict[str, Any]:
    """Take the address out of what the server said, in its own record and in those of others."""
    reply = record.get("reply")
    if isinstance(record.get("reason"), str):
        record["reason"] = without_own(record["reason"], whom.address, words=False)
    if isinstance(reply, Mapping) and isinstance(reply.get("text"), str):
        record["reply"] = {**reply, "text": without_own(reply["text"], whom.address, words=own)}
    return record


def _letter_without(document: Document, letter: Document, whom: Forgotten) -> Document:
    """The dead letter: what it is found by, why it was refused, and the record in it."""
    fresh = _record_without(document, whom)
    inner = letter.get("record")
    kept = {
        name: without_own(value, whom.address, words=False) if isinstance(value, str) and name != "record" else value
        for name, value in letter.items()
    }
    if isinstance(inner, str):
        record = orjson.loads(inner)
        rewritten = _record_without(record, whom)
        kept["record"] = inner if rewritten == record else orjson.dumps(rewritten).decode()
    return {**fresh, "dead_letter": kept}
