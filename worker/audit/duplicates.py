"""What a 409 means: is the document that is there ours, or another's?

Two workers may have sent the same event at the same moment, each told 250. The id of `accepted` is
the same for both, so the second create is answered 409, just as a bulk that is sent again or a
journal that is shipped again. Only the stored document tells them apart (see `worker.proof.contested`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from worker.audit.entries import Entry
from worker.audit.link import Call, OpenSearchLink
from worker.errors import AuditUnavailable
from worker.proof.contested import TOLD_APART_BY, Standing, compare, may_differ

_ANSWER = {"refresh": "true", "filter_path": "docs.found,docs._source,docs.error.type"}


async def standings(link: OpenSearchLink, entries: Sequence[Entry]) -> list[Standing | None]:
    """Say of each entry that was answered 409 what it is; None: nothing is there any more. Raises AuditUnavailable."""
    records = {entry: orjson.loads(entry.document) for entry in entries if not entry.proof}
    contested = [entry for entry, record in records.items() if may_differ(record)]
    stored = await _stored(link, contested) if contested else {}
    return [_standing(records[entry], stored[entry]) if entry in stored else Standing.OURS for entry in entries]


def _standing(record: Mapping[str, Any], stored: Mapping[str, Any] | None) -> Standing | None:
    return None if stored is None else compare(record, stored)


async def _stored(link: OpenSearchLink, entries: Sequence[Entry]) -> dict[Entry, dict[str, Any] | None]:
    asked = [{"_index": e.index, "_id": e.document_id, "_source": list(TOLD_APART_BY)} for e in entries]
    call = Call("POST", "/_mget", orjson.dumps({"docs": asked}), _ANSWER, timeout_s=10.0)
    answer = await link.request(call)
    try:
        docs = [doc.get("_source", {}) if doc["found"] else None for doc in answer["docs"]]
        return dict(zip(entries, docs, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        msg = "OpenSearch cannot say whose record is there"
        raise AuditUnavailable(msg) from error
