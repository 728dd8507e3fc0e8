"""Bringing the audit's months up to this version's template, without a reader or a writer noticing.

Most of a version is fields, which an index learns while it is used. A normalizer is in an index's settings,
which only a new index takes: such a month is copied into ``PREFIX-YYYY.MM-vN``, first while records go on
arriving, again and again until little is left, and at last with the writes of the old one blocked for as long
as that little takes. Counts are compared, and one request removes the old index and gives its name to the new
one, as an alias. The new one was hidden until then and stays so: its alias is what ``PREFIX-*`` sees, so that
a search sees each month once, at every moment. Writers `create` under the same name before and after; while
they may not, they wait.

Every step can be taken again: what was reached is in the `_meta` of the index that it was reached with (see
`retention_months`), and the record of a migration that was not written yet is announced there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

import orjson
import structlog

from schemas.audit_change import Action, ChangedBy, ChangeRecord, ChangeType
from worker.audit.claims_index import ensure_claims_template
from worker.audit.create_only import NO_PIPELINE, enforce
from worker.audit.index_template import VERSION, VERSION_KEY, ensure_template, installed_version, mappings
from worker.audit.link import Call, OpenSearchLink
from worker.audit.migration_copy import Pass, copied_up_to, copy
from worker.audit.proof_index import ensure_proof_template
from worker.audit.retention_months import (
    MonthIndex,
    block,
    cancel_copies,
    count,
    delete,
    hold,
    put_mapping,
    read_indices,
    refresh,
    release_all,
    set_meta,
    unblock,
)
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

_COPY_OF = "copy_of"
_COPIED = "copied_up_to"
_UNRECORDED = "migrated_at"
_LITTLE = 1000  # records that a pass may find and the last one, without writers, follow
_PASSES = 10
_TIMEOUT_S = 60.0


class Step(Enum):
    """What a month needs."""

    NOTHING = "up to date"
    FIELDS = "new fields"
    COPY = "a copy"
    RECORD = "its record"


class Recorder(Protocol):
    """Where a migration is put on record; raises AuditUnavailable."""

    async def record(self, change: ChangeRecord) -> None:
        """Return once the chained record is durable."""
        ...

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> ``YYYY.MM``), those that exist."""
        ...


@dataclass(frozen=True, slots=True)
class Planned:
    """A month, what it needs, and how many documents it has."""

    month: MonthIndex
    step: Step
    records: int


Report = Callable[[Planned, int, int], None]
"""Told of a month under way: documents done, and of how many."""


def step_of(month: MonthIndex) -> Step:
    """What an index needs to be of this version."""
    if month.version > VERSION:
        return Step.NOTHING
    if not month.has_domain:
        return Step.COPY
    if month.version < VERSION:
        return Step.FIELDS
    return Step.RECORD if _UNRECORDED in month.meta else Step.NOTHING


class Migration:
    """Brings the indices of one prefix up to this version."""

    def __init__(self, link: OpenSearchLink, prefix: str, actor: ChangedBy, still_ours: Callable[[], bool]) -> None:
        """`still_ours`: whether nobody else may be migrating or pruning; asked before what cannot be undone."""
        self._link = link
        self._prefix = prefix
        self._actor = actor
        self._still_ours = still_ours

    async def plan(self) -> list[Planned]:
        """What every month needs, oldest first, and the dead letters. Raises AuditUnavailable."""
        newest = await installed_version(self._link, self._prefix)
        if newest > VERSION:
            msg = f"the audit is of version {newest}, and this is {VERSION}: migrate with the newest Postbote that runs"
            raise AuditUnavailable(msg)
        months = [month for month in await read_indices(self._link, self._prefix) if month.live]
        return [Planned(month, step_of(month), await count(self._link, month.index)) for month in months]

    async def prepare(self) -> None:
        """Install the templates, and lift what a command that was killed has left. Raises AuditUnavailable."""
        await ensure_template(self._link, self._prefix)
        await ensure_proof_template(self._link, self._prefix)
        await ensure_claims_template(self._link, self._prefix)
        await release_all(self._link, await read_indices(self._link, self._prefix))

    async def carry_out(self, planned: Planned, recorder: Recorder, report: Report) -> None:
        """Bring one month up to date, and record it. Raises AuditUnavailable; doing it again goes on from there."""
        month = planned.month
        match planned.step:
            case Step.NOTHING:
                return
            case Step.FIELDS:
                month = await self._add_fields(month)
            case Step.COPY:
                month = await self._copy(planned, report)
            case Step.RECORD:
                pass
        await self._record(month, recorder)

    async def _add_fields(self, month: MonthIndex) -> MonthIndex:
        meta = {**month.meta, VERSION_KEY: VERSION, _UNRECORDED: _now()}
        await enforce(self._link, self._prefix, month.index)
        await put_mapping(self._link, month.index, {**mappings(), "_meta": meta})
        return _with_meta(month, meta)

    async def _record(self, month: MonthIndex, recorder: Recorder) -> None:
        record = self._record_of(month)
        if not await recorder.recorded({record.document_id: record.index_month}):
            await recorder.record(record)
        await set_meta(self._link, month.index, {**month.meta, **dict.fromkeys((_UNRECORDED, _COPY_OF, _COPIED))})

    def _record_of(self, month: MonthIndex) -> ChangeRecord:
        return ChangeRecord.model_validate(
            {
                "@timestamp": month.meta[_UNRECORDED],
                "id": f"audit migrated {month.name} {month.uuid} {VERSION}",
                "type": ChangeType.AUDIT,
                "action": Action.MIGRATED,
                "subject": month.name,
                "version": VERSION,
                "actor": self._actor,
            }
        )

    async def _copy(self, planned: Planned, report: Report) -> MonthIndex:
        month = planned.month
        target = await self._target(month)
        since = target.meta.get(_COPIED)
        for _ in range(_PASSES):
            here = await copied_up_to(self._link, month.index)
            await refresh(self._link, month.index)
            one = Pass(month.index, target.index, since)
            read = await copy(self._link, one, lambda done, of: report(planned, done, of))
            since = here
            target = _with_meta(target, {**target.meta, _COPIED: since})
            await set_meta(self._link, target.index, target.meta)
            if read <= _LITTLE:
                break
        return await self._swap(month, target)

    async def _target(self, month: MonthIndex) -> MonthIndex:
        """The copy in the making: a new one, or what an earlier try has left of it."""
        name = f"{self._prefix}-{month.name}-v{VERSION}"
        await cancel_copies(self._link, name)
        found = {each.index: each for each in await read_indices(self._link, self._prefix)}
        if name in found and found[name].meta.get(_COPY_OF) != month.uuid:
            await delete(self._link, name)
            del found[name]
        if name in found:
            await unblock(self._link, name)
            await _unenforced(self._link, name)
            return found[name]
        return await self._new(month, name)

    async def _new(self, month: MonthIndex, name: str) -> MonthIndex:
        meta = {VERSION_KEY: VERSION, _COPY_OF: month.uuid}
        # While it is made, it keeps the versions of what it copies.
        body = {"settings": {"index": {"hidden": True, "final_pipeline": NO_PIPELINE}}, "mappings": {"_meta": meta}}
        await self._link.request(Call("PUT", f"/{name}", orjson.dumps(body), timeout_s=_TIMEOUT_S))
        made = {each.index: each for each in await read_indices(self._link, self._prefix)}[name]
        if not made.has_domain:
            await delete(self._link, name)
            msg = f"the index template of {self._prefix}-* has no recipient.domain: a copy would gain nothing"
            raise AuditUnavailable(msg)
        return made

    async def _swap(self, month: MonthIndex, target: MonthIndex) -> MonthIndex:
        """The last records, the comparison, and the name; the month takes records again, whatever happens."""
        try:
            await hold(self._link, month)
            await refresh(self._link, month.index)
            await copy(self._link, Pass(month.index, target.index, target.meta[_COPIED]), lambda _done, _of: None)
            await self._compare(month, target)
            target = _with_meta(target, {**target.meta, _UNRECORDED: _now()})
            await set_meta(self._link, target.index, target.meta)
            await enforce(self._link, self._prefix, target.index)
            if month.blocked:  # by an operator, who did not block the copy
                await block(self._link, target.index)
            await self._exchange(month, target)
        except BaseException:
            await self._release(month)
            raise
        return target

    async def _compare(self, month: MonthIndex, target: MonthIndex) -> None:
        await refresh(self._link, target.index)
        old, new = await count(self._link, month.index), await count(self._link, target.index)
        if old != new:
            await delete(self._link, target.index)
            msg = f"{month.index} has {old} records and its copy {new}: the copy was removed; run the command again"
            raise AuditUnavailable(msg)

    async def _exchange(self, month: MonthIndex, target: MonthIndex) -> None:
        if not self._still_ours():
            msg = "this command was away for too long, and another may be at work: run it again"
            raise AuditUnavailable(msg)
        alias = {"index": target.index, "alias": f"{self._prefix}-{month.name}", "is_write_index": True}
        body = orjson.dumps({"actions": [{"remove_index": {"index": month.index}}, {"add": alias}]})
        await self._link.request(Call("POST", "/_aliases", body, timeout_s=_TIMEOUT_S))

    async def _release(self, month: MonthIndex) -> None:
        """Lift the block, if the index is there still: an answer may have been lost, and its work done."""
        try:
            found = await read_indices(self._link, self._prefix)
            await release_all(self._link, [each for each in found if each.uuid == month.uuid])
        except AuditUnavailable:
            log.exception("the month takes no records: run `postbote audit migrate` again", index=month.index)


async def _unenforced(link: OpenSearchLink, index: str) -> None:
    body = orjson.dumps({"index.final_pipeline": NO_PIPELINE})
    await link.request(Call("PUT", f"/{index}/_settings", body, timeout_s=_TIMEOUT_S))


def _with_meta(month: MonthIndex, meta: Mapping[str, Any]) -> MonthIndex:
    return replace(month, meta=meta)


def _now() -> str:
    return datetime.now(UTC).isoformat()
