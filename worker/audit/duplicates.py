"""What a 409 on an `accepted` record means: is the document that is there ours, or another's?

Two workers may have sent the same event at the same moment, each told 250. The id of `accepted` is
the same for both, so the second create is answered 409, just as a bulk that is sent again or a
journal that is shipped again. Only the stored document tells them apart: worker and time are those
of one acceptance.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

import orjson

from schemas.audit import Outcome
from worker.audit.entries import Entry
from worker.audit.link import Call, OpenSearchLink
from worker.errors import AuditUnavailable

_TOLD_APART_BY = ("worker_id", "@timestamp")
_ANSWER = {"filter_path": "docs.found,docs._source,docs.error.type"}


class Stored(Enum):
    """Whose document is there."""

    OURS = auto()
    ANOTHERS = auto()
    GONE = auto()


async def whose(link: OpenSearchLink, entries: Sequence[Entry]) -> list[Stored]:
    """Say of each entry that was answered 409 whose document stands under its id; raises AuditUnavailable."""
    documents = [orjson.loads(entry.document) for entry in entries]
    contested = [
        entry
        for entry, document in zip(entries, documents, strict=True)
        if document.get("outcome") == Outcome.ACCEPTED and not entry.dead
    ]
    stored = await _stored(link, contested) if contested else {}
    return [
        _compare(document, stored[entry]) if entry in stored else Stored.OURS
        for entry, document in zip(entries, documents, strict=True)
    ]


def _compare(ours: dict[str, Any], stored: dict[str, Any] | None) -> Stored:
    if stored is None:
        return Stored.GONE
    same = all(ours.get(name) == stored.get(name) for name in _TOLD_APART_BY)
    return Stored.OURS if same else Stored.ANOTHERS


async def _stored(link: OpenSearchLink, entries: Sequence[Entry]) -> dict[Entry, dict[str, Any] | None]:
    asked = [{"_index": e.index, "_id": e.document_id, "_source": list(_TOLD_APART_BY)} for e in entries]
    call = Call("POST", "/_mget", orjson.dumps({"docs": asked}), _ANSWER, timeout_s=10.0)
    answer = await link.request(call)
    try:
        docs = [doc.get("_source", {}) if doc["found"] else None for doc in answer["docs"]]
        return dict(zip(entries, docs, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        msg = "OpenSearch cannot say whose record is there"
        raise AuditUnavailable(msg) from error
