"""How long the audit is kept: which months may go, and the order in which one goes.

A month is removed whole, and only after what went with it is on record: a document names the numbers of
every writer that the month held, and a chained record names that document's digest. Both are durable
before anything is deleted, and both are the same when it is done again, so that a pruning which was
interrupted at any moment is finished by the next one, and nothing is told twice.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from schemas.audit_chain import ProofKind, digest_of, proof_id, pruned_document
from schemas.audit_change import Action, ChangedBy, ChangeRecord, ChangeType

_AGE = re.compile(r"(\d{1,5})([dwy])\Z", re.ASCII)
_DAYS = {"d": 1, "w": 7, "y": 365}
_MONTH = re.compile(r"(\d{4})\.(0[1-9]|1[0-2])\Z", re.ASCII)
_DECEMBER = 12


@dataclass(frozen=True, slots=True)
class Month:
    """What the audit holds of a month (``YYYY.MM``, UTC); `octets` on disk, as far as the store can tell."""

    name: str
    records: int
    octets: int


class Pruning(NamedTuple):
    """What a record of an earlier pruning says: the month that went, and the digest of its document."""

    month: str
    digest: str


class Retention(Protocol):
    """What pruning needs of an audit; every method raises AuditUnavailable."""

    async def months(self) -> Sequence[Month]:
        """All there are, oldest first."""
        ...

    async def close_month(self, month: str) -> Mapping[str, str]:
        """Take no more records for it, where that can be had, and return its numbers by writer: ``1-500,503``."""
        ...

    async def reopen(self, month: str) -> None:
        """Take its records again: it stays."""
        ...

    async def remove(self, month: str, ranges: Mapping[str, str]) -> bool:
        """Delete it, if these are its numbers still; False where others have come, and nothing was deleted."""
        ...

    async def proof(self, document_id: str) -> Mapping[str, Any] | None:
        """A document from the proofs."""
        ...

    async def prunings(self, month: str) -> Sequence[Pruning]:
        """What records in this month tell of earlier prunings."""
        ...

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> ``YYYY.MM``), those that exist."""
        ...


class Recorder(Protocol):
    """Where the pruning is put on record; what it has answered is durable. Raises AuditUnavailable."""

    async def record(self, change: ChangeRecord) -> None:
        """Write a chained record."""
        ...

    async def write_proof(self, document: Mapping[str, Any], document_id: str) -> None:
        """Write a document to the proofs; one that is there already stays as it is."""
        ...


class AgeError(ValueError):
    """An age that nobody can mean; its text says what one looks like."""


def parse_age(text: str) -> timedelta:
    """Read ``400d``, ``60w`` or ``2y`` (of 365 days): a day at least. Raises AgeError."""
    found = _AGE.match(text)
    if found is None:
        msg = "expected a number and d, w or y (days, weeks, years of 365 days), such as 400d"
        raise AgeError(msg)
    age = timedelta(days=int(found[1]) * _DAYS[found[2]])
    if age < timedelta(days=1):
        msg = "a month of records is kept for a day at least: 1d or more"
        raise AgeError(msg)
    return age


def month_end(month: str) -> datetime:
    """The first moment after a month (``YYYY.MM``), in UTC. Raises ValueError for what is no month."""
    found = _MONTH.match(month)
    if found is None:
        msg = f"{month!r} is no month"
        raise ValueError(msg)
    year, number = int(found[1]), int(found[2])
    return datetime(year + number // _DECEMBER, number % _DECEMBER + 1, 1, tzinfo=UTC)


def is_month(text: str) -> bool:
    """Whether this is the name of a month that can end: ``YYYY.MM``, of a year that a calendar has."""
    return _MONTH.match(text) is not None and 1 <= int(text[:4]) < 9999  # noqa: PLR2004 # datetime's own bounds


def prunable(months: Iterable[Month], now: datetime, age: timedelta) -> tuple[Month, ...]:
    """Those whose last moment is older than `age`, oldest first; never the current month or one to come."""
    old = (month for month in months if now - month_end(month.name) >= age)
    return tuple(sorted(old, key=lambda month: month.name))


class Ranges:
    """Numbers by writer as they come, kept as ranges: what it takes grows with the gaps, not with the records."""

    def __init__(self) -> None:
        """Begin with none."""
        self._found: dict[str, list[tuple[int, int]]] = {}

    def add(self, writer: str, number: int) -> None:
        """Take the next number of a writer; they come in ascending order, and one that comes twice counts once."""
        spans = self._found.setdefault(writer, [])
        if spans and number <= spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], max(spans[-1][1], number))
        else:
            spans.append((number, number))

    def texts(self) -> dict[str, str]:
        """By writer, in the writers' order: ``1-500,503``."""
        return {
            writer: ",".join(f"{low}-{high}" if low < high else str(low) for low, high in spans)
            for writer, spans in sorted(self._found.items())
        }


async def prune_month(audit: Retention, recorder: Recorder, month: str, now: datetime, actor: ChangedBy) -> None:
    """Put on record what goes with a month, and remove it. Raises AuditUnavailable; the month is open again then."""
    try:
        while True:
            ranges = await audit.close_month(month)
            await _tell(audit, recorder, month, ranges, now, actor)
            if await audit.remove(month, ranges):
                return
    except BaseException:
        await audit.reopen(month)
        raise


async def _tell(
    audit: Retention, recorder: Recorder, month: str, ranges: Mapping[str, str], now: datetime, actor: ChangedBy
) -> None:
    """Write the document and its records, unless an earlier try has."""
    # Of the numbers too: a month that was removed can come again, with a late record of its time, and go again.
    own_id = proof_id(ProofKind.PRUNED, month, digest_of(dict(ranges)))
    document = await audit.proof(own_id)
    if document is None:
        document = pruned_document(month, ranges, now.isoformat())
        await recorder.write_proof(document, own_id)
    at = datetime.fromisoformat(document["@timestamp"])
    # Whoever believes an earlier pruning does so for a record that may go with this month: it is told again.
    told = [Pruning(month, digest_of(document)), *await audit.prunings(month)]
    records = [_record(pruning, month, at, actor) for pruning in told]
    known = await audit.recorded({record.document_id: record.index_month for record in records})
    for record in records:
        if record.document_id not in known:
            await recorder.record(record)


def _record(pruning: Pruning, with_month: str, at: datetime, actor: ChangedBy) -> ChangeRecord:
    return ChangeRecord.model_validate(
        {
            "@timestamp": at,
            "id": f"audit pruned {pruning.month} {pruning.digest} told with {with_month}",
            "type": ChangeType.AUDIT,
            "action": Action.PRUNED,
            "subject": pruning.month,
            "changed": (pruning.digest,),
            "actor": actor,
        }
    )
