"""The audit's indices as they are: which month lies where, of which version, and whether it is held.

A month is an index ``PREFIX-YYYY.MM``, or, once it was migrated, an alias of that name on an index
``PREFIX-YYYY.MM-vN``. An index of such a name that no alias leads to is a copy in the making: it is hidden,
so that ``PREFIX-*`` does not see it before the alias, which is not hidden, makes it seen.

What is known of an index beyond its settings stands in its mapping's `_meta`. A month is held while it must
not change: its writes are blocked, and `_meta` says that it was us, so that whoever comes after a command
that was killed lifts that block, and leaves one that an operator set.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from worker.audit.index_template import DEAD_LETTER_MONTH, VERSION_KEY
from worker.audit.link import Call, OpenSearchLink, RequestRefused
from worker.errors import AuditUnavailable

HELD = "held"
_NOT_FOUND = 404
_FACTS = ",".join(
    f"*.{path}"
    for path in (
        "aliases",
        "mappings._meta",
        "mappings.properties.recipient.fields",
        "settings.index.uuid",
        "settings.index.blocks",
    )
)
_TIMEOUT_S = 60.0

Meta = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MonthIndex:
    """One index; `name` is the month's (``YYYY.MM``) or the dead letters' word, `index` its own.

    `live`: it answers under the month's name, else it is a copy in the making. `has_domain`: recipients are
    found by their domain. `blocked`: it takes no writes.
    """

    name: str
    index: str
    uuid: str
    live: bool
    has_domain: bool
    blocked: bool
    meta: Meta = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether a command of ours has blocked it."""
        return bool(self.meta.get(HELD))

    @property
    def version(self) -> int:
        """The template's version that it was made by or brought up to; 0 where it does not say."""
        found = self.meta.get(VERSION_KEY)
        return found if isinstance(found, int) else 0


async def read_indices(link: OpenSearchLink, prefix: str) -> list[MonthIndex]:
    """Every index of a month and of the dead letters, by name; a closed one is left out. Raises AuditUnavailable."""
    params = {"expand_wildcards": "open,hidden", "ignore_unavailable": "true", "filter_path": _FACTS}
    try:
        answer = await link.request(Call("GET", f"/{prefix}-*", params=params, timeout_s=_TIMEOUT_S))
        named = re.compile(rf"({re.escape(prefix)}-(\d{{4}}\.\d{{2}}|{DEAD_LETTER_MONTH}))(-v\d{{1,9}})?\Z", re.ASCII)
        found = [(match, facts) for index, facts in answer.items() if (match := named.match(index))]
        return sorted((_month_index(match, facts) for match, facts in found), key=lambda month: month.index)
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        return []
    except (AttributeError, KeyError, TypeError) as error:
        msg = "OpenSearch's list of indices cannot be read"
        raise AuditUnavailable(msg) from error


def _month_index(named: re.Match[str], facts: Mapping[str, Any]) -> MonthIndex:
    settings, mappings = facts["settings"]["index"], facts.get("mappings", {})
    fields = mappings.get("properties", {}).get("recipient", {}).get("fields", {})
    return MonthIndex(
        name=named[2],
        index=named[0],
        uuid=settings["uuid"],
        live=named[3] is None or named[1] in facts.get("aliases", {}),
        has_domain="domain" in fields,
        blocked=settings.get("blocks", {}).get("write") == "true",
        meta=mappings.get("_meta", {}),
    )


async def set_meta(link: OpenSearchLink, index: str, meta: Meta) -> None:
    """Let an index's `_meta` be this; raises AuditUnavailable."""
    kept = {name: value for name, value in meta.items() if value is not None}
    await put_mapping(link, index, {"_meta": kept})


async def put_mapping(link: OpenSearchLink, index: str, mapping: Mapping[str, Any]) -> None:
    """Add to an index's mapping; raises AuditUnavailable."""
    await link.request(Call("PUT", f"/{index}/_mapping", orjson.dumps(mapping), timeout_s=_TIMEOUT_S))


async def hold(link: OpenSearchLink, month: MonthIndex) -> None:
    """Return once no write is under way and none is taken any more; raises AuditUnavailable.

    One that an operator has blocked is left as it is.
    """
    if month.blocked and not month.held:
        return
    await set_meta(link, month.index, {**month.meta, HELD: True})  # first: a block is never without its reason
    await block(link, month.index)


async def block(link: OpenSearchLink, index: str) -> None:
    """Let an index take no writes; raises AuditUnavailable."""
    answer = await link.request(Call("PUT", f"/{index}/_block/write", timeout_s=_TIMEOUT_S))
    if not (answer.get("acknowledged") and answer.get("shards_acknowledged")):
        msg = f"OpenSearch did not block the writes of {index} in time"
        raise AuditUnavailable(msg)


async def unblock(link: OpenSearchLink, index: str) -> None:
    """Lift the block of an index; raises AuditUnavailable."""
    body = orjson.dumps({"index.blocks.write": None})
    await link.request(Call("PUT", f"/{index}/_settings", body, timeout_s=_TIMEOUT_S))


async def release_all(link: OpenSearchLink, months: Sequence[MonthIndex]) -> None:
    """Let those take writes again that a command of ours holds, be it one that was killed. Raises AuditUnavailable."""
    for month in months:
        if month.held and month.live:
            await unblock(link, month.index)
            await set_meta(link, month.index, {**month.meta, HELD: None})


async def refresh(link: OpenSearchLink, index: str) -> None:
    """Let searches see all that was written; raises AuditUnavailable."""
    await link.request(Call("POST", f"/{index}/_refresh", timeout_s=_TIMEOUT_S))


async def count(link: OpenSearchLink, index: str) -> int:
    """How many documents searches see in it; raises AuditUnavailable."""
    answer = await link.request(Call("GET", f"/{index}/_count", timeout_s=_TIMEOUT_S))
    return int(answer["count"])


async def delete(link: OpenSearchLink, index: str) -> None:
    """Remove an index, or find it gone; raises AuditUnavailable."""
    try:
        await link.request(Call("DELETE", f"/{index}", timeout_s=_TIMEOUT_S))
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise


async def cancel_copies(link: OpenSearchLink, target: str) -> None:
    """End copying into an index that a killed command has left under way; raises AuditUnavailable."""
    params = {"actions": "indices:data/write/reindex", "detailed": "true"}
    answer = await link.request(Call("GET", "/_tasks", params=params, timeout_s=_TIMEOUT_S))
    for node in answer.get("nodes", {}).values():
        for task, facts in node.get("tasks", {}).items():
            # A slice ends with the task that it is a part of.
            if f"to [{target}]" in facts.get("description", "") and "parent_task_id" not in facts:
                await cancel(link, task)


async def cancel(link: OpenSearchLink, task: str) -> None:
    """End a task, or find it ended; raises AuditUnavailable."""
    params = {"wait_for_completion": "true"}
    try:
        await link.request(Call("POST", f"/_tasks/{task}/_cancel", params=params, timeout_s=_TIMEOUT_S))
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
