"""Searches that are answered whole, or not at all, also at the moment at which an index goes.

A month that was migrated gives its name to its copy, and one that was pruned is gone. A search that is under
way then has chosen the old index and finds it removed: OpenSearch says so, and the same search, asked again,
finds what took its place. It says so only where `ignore_unavailable` is not set, which would have it answer
for the other indices alone, `allow_partial_search_results` or not.
"""

import asyncio
from typing import Any

from worker.audit.link import Call, OpenSearchLink, RequestRefused, ShardsMissing

_NOT_FOUND = 404
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)


async def ask_whole(link: OpenSearchLink, call: Call) -> Any:
    """Ask a search by pattern, outside of a point in time, again while indices go. Raises AuditUnavailable."""
    for pause_s in _PAUSES_S:
        try:
            return await link.request(call)
        except (ShardsMissing, RequestRefused) as missing:
            if isinstance(missing, RequestRefused) and missing.status != _NOT_FOUND:
                raise
        await asyncio.sleep(pause_s)
    return await link.request(call)
