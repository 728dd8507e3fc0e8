"""Copying one index into another, by OpenSearch itself: `_reindex` as a task that is polled.

A document keeps its id, its source and its version (`version_type` external): what the copy has already is
a conflict that counts as done, and what was changed in the meantime, such as a recipient that was forgotten,
is copied again. So a copy may be begun again at any time, over whatever an earlier one has left.

What came after a copy is found by its sequence number, which OpenSearch gives every write of a shard in
ascending order: a later pass reads that alone, however large the index is.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from worker.audit.link import Call, OpenSearchLink
from worker.audit.retention_months import cancel
from worker.errors import AuditUnavailable

_BATCH = 2000
_POLL_S = (0.05, 1.0)  # the first pause and the longest: a small month is not waited for
_TIMEOUT_S = 60.0

Progress = Callable[[int, int], None]
"""Told of the documents that are done, and of how many there are."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a copy: everything, or what was written after the sequence number `after`."""

    source: str
    target: str
    after: int | None = None

    def to_body(self) -> dict[str, Any]:
        """The request."""
        source: dict[str, Any] = {"index": self.source, "size": _BATCH}
        if self.after is not None:
            source["query"] = {"range": {"_seq_no": {"gt": self.after}}}
        return {
            "conflicts": "proceed",
            "source": source,
            "dest": {"index": self.target, "version_type": "external"},
        }


async def copied_up_to(link: OpenSearchLink, index: str) -> int:
    """The number up to which every shard has all its writes; -1 where one has none. Raises AuditUnavailable."""
    params = {"level": "shards", "filter_path": "indices.*.shards.*.seq_no,indices.*.shards.*.routing.primary"}
    answer = await link.request(Call("GET", f"/{index}/_stats/docs", params=params, timeout_s=_TIMEOUT_S))
    try:
        shards = answer["indices"][index]["shards"].values()
        return min(int(copy["seq_no"]["local_checkpoint"]) for copies in shards for copy in copies if _primary(copy))
    except (KeyError, TypeError, ValueError) as error:
        msg = f"OpenSearch's numbers of {index} cannot be read"
        raise AuditUnavailable(msg) from error


def _primary(copy: Mapping[str, Any]) -> bool:
    return copy.get("routing", {}).get("primary") is True


async def copy(link: OpenSearchLink, one: Pass, progress: Progress) -> int:
    """Carry out a pass, and return how many documents it read. Raises AuditUnavailable; the task is ended then."""
    params = {"slices": "auto", "wait_for_completion": "false", "refresh": "true"}
    begun = await link.request(Call("POST", "/_reindex", orjson.dumps(one.to_body()), params, _TIMEOUT_S))
    task = str(begun["task"])
    try:
        response = await _end_of(link, task, progress)
    except BaseException:
        await cancel(link, task)
        raise
    failures = response.get("failures")
    if failures or response.get("canceled"):
        msg = f"copying {one.source} into {one.target} failed: {str(failures or response.get('canceled'))[:300]}"
        raise AuditUnavailable(msg)
    return int(response["total"])


async def _end_of(link: OpenSearchLink, task: str, progress: Progress) -> Mapping[str, Any]:
    pause_s, longest_s = _POLL_S
    while True:
        answer = await link.request(Call("GET", f"/_tasks/{task}", timeout_s=_TIMEOUT_S))
        status = answer.get("task", {}).get("status", {})
        done = sum(int(status.get(name, 0)) for name in ("created", "updated", "version_conflicts"))
        progress(done, int(status.get("total", 0)))
        if answer.get("completed"):
            if "response" not in answer:
                msg = f"copying failed: {str(answer.get('error'))[:300]}"
                raise AuditUnavailable(msg)
            found: Mapping[str, Any] = answer["response"]
            return found
        await asyncio.sleep(pause_s)
        pause_s = min(longest_s, pause_s * 1.5)
