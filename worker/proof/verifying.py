"""`postbote audit verify`: every changed, missing, inserted or reordered record of a range, and every uncovered writer.

What is proven, and against whom, stands in docs/audit-proof.md.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any, TypeVar

from schemas.audit_times import epoch_ms
from worker.proof.findings import Counts, Finding, Kind, Report
from worker.proof.ports import ProofReader, Span, Stored
from worker.proof.verify_heads import HeadKeys, Witness
from worker.proof.verify_pruned import Pruned, Ranges, read_pruned
from worker.proof.verify_record import HashOf, Member, examined, link_of, void_of
from worker.proof.verify_sources import Ahead, Reading, remembered, stranger
from worker.proof.verify_walk import Walk

T = TypeVar("T")

MOST_FINDINGS = 100_000
"""So many are named; a walk that finds more ends there, and says so."""

_AT_ONCE = 500
_HEADS_LATE = 3  # intervals after which a head that is not there is missing
_NAMED_RUNNING = 5
_OUTBOX_TYPE = "audit.outbox"
_OUTBOX_LETTER = frozenset({"@timestamp", "category", "type", "dead_letter"})


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be verified, and with what knowledge.

    `keys`: heads have to be signed with one of these, where there are any. `hash_of`: an address's keyed hash.
    `head_s`: seconds between a running writer's heads. `witnesses`: heads that a log kept elsewhere remembers.
    """

    span: Span
    now: datetime
    writer: str | None = None
    keys: HeadKeys = field(default_factory=HeadKeys)
    hash_of: HashOf = lambda _: None
    head_s: float = 60.0
    witnesses: Sequence[Witness] = ()


class _EnoughFound(Exception):
    """There are more findings than anybody reads."""


async def verify(
    reader: ProofReader, question: Question, progress: Callable[[Counts], None] = lambda _: None
) -> Report:
    """Walk the range. Raises AuditUnavailable; `progress` is called after every page."""
    report, began = Report(), time.perf_counter()
    try:
        await _Verification(reader, question, report, progress).run()
    except _EnoughFound:
        report.cut = True
    report.took_s = time.perf_counter() - began
    return report


class _Verification:
    """One run; what it finds goes into the report."""

    def __init__(
        self, reader: ProofReader, question: Question, report: Report, progress: Callable[[Counts], None]
    ) -> None:
        self._reader = reader
        # What is younger may be written and not be seen yet, be it a head before its record or the other way round.
        span, settled = question.span, epoch_ms(question.now) - reader.settles_ms
        self._question = replace(question, span=span._replace(until_ms=min(span.until_ms, settled)))
        self._report = report
        self._progress = progress
        self._reading = Reading(self._name, report.counts, question.keys, question.hash_of)

    async def run(self) -> None:
        question = self._question
        pruned = await read_pruned(self._reader, question.keys.signed if question.keys else None)
        await self._chains(pruned)
        await self._others(pruned)
        if question.writer is None:
            await self._unchained()
        self._note(pruned)

    def _name(self, finding: Finding) -> None:
        self._report.findings.append(finding)
        if len(self._report.findings) >= MOST_FINDINGS:
            raise _EnoughFound

    async def _chains(self, pruned: Pruned) -> None:
        span, writer, counts = self._question.span, self._question.writer, self._report.counts
        within = [each for each in self._witnesses() if each.at_ms is not None and _contains(span, each.at_ms)]
        sources = (
            Ahead(self._watched(self._reading.records(self._reader.chained(span, writer)))),
            Ahead(self._reading.proofs(self._reader.proofs(span, writer))),
            Ahead(remembered(within)),
        )
        walk = Walk(self._reader, self._reading, pruned, counts, name=self._name, young=self._young)
        await walk.run(sources)
        counts.voids = len(walk.walked.voids)
        await self._voids(walk.walked.voids, pruned)
        if running := walk.walked.running:
            names = ", ".join(running[:_NAMED_RUNNING]) + (" …" if len(running) > _NAMED_RUNNING else "")
            self._report.notes.append(f"still running, the last records have no head yet: {names}")

    async def _watched(self, pages: Any) -> Any:
        async for page in pages:
            yield page
            self._progress(self._report.counts)

    def _young(self, member: Member) -> bool:
        at = _ms_of(member.stored)
        return at is not None and epoch_ms(self._question.now) - at < _HEADS_LATE * 1000 * self._question.head_s

    async def _voids(self, voids: Sequence[Member], pruned: Pruned) -> None:
        """A void explains a number by another record of the same thing: which must be there, unless it was removed."""
        if pruned.months:
            return
        for some in _batches(voids):
            there = await self._reader.existing({void.stored.document["document_id"] for void in some})
            for void in some:
                if void.stored.document["document_id"] not in there:
                    says = "a void stands for it, and the record that the void names is not there"
                    self._name(Finding(Kind.MISSING, says, void.link.writer, void.link.seq))

    # Heads that a log remembers

    def _witnesses(self) -> Iterator[Witness]:
        only = self._question.writer
        return (each for each in self._question.witnesses if only is None or each.writer == only)

    async def _others(self, pruned: Pruned) -> None:
        """Heads of the log from outside of the range: the records of their numbers alone are looked at."""
        self._report.counts.witnessed = sum(1 for _ in self._witnesses())
        for witness in self._witnesses():
            if (doubt := self._question.keys.doubts(witness)) is not None:
                self._name(doubt)
        span = self._question.span
        outside = (each for each in self._witnesses() if each.at_ms is None or not _contains(span, each.at_ms))
        for writer, heads in groupby(outside, key=lambda each: each.writer):
            gone = [head for some in _batches(list(heads)) for head in await self._unmatched(writer, some)]
            await self._gone(writer, gone, pruned)

    async def _unmatched(self, writer: str, heads: Sequence[Witness]) -> list[Witness]:
        """Those of whose numbers nothing is there."""
        found: dict[int, list[Member]] = {}
        for stored in await self._reader.at(writer, sorted({head.seq for head in heads})):
            member = self._member(stored)
            if member is not None:
                found.setdefault(member.link.seq, []).append(member)
        for head in heads:
            if head.seq in found and not any(each.link.hash == head.hash for each in found[head.seq]):
                self._name(_unlike(head, found[head.seq][0]))
        return [head for head in heads if head.seq not in found]

    def _member(self, stored: Stored) -> Member | None:
        if "kind" in stored.document:
            return void_of(stored)
        link = link_of(stored.document)
        return None if link is None else examined(stored, link, self._question.hash_of)

    async def _gone(self, writer: str, heads: Sequence[Witness], pruned: Pruned) -> None:
        known = [*pruned.of(writer).ranges, *self._missing(writer)]
        for head in sorted(heads, key=lambda each: each.seq, reverse=True):
            if not any(Ranges.of(known).without(head.seq, head.seq)):
                continue
            low = await self._reader.last_before(writer, head.seq) + 1
            for begin, end in Ranges.of(known).without(low, head.seq):
                says = f"the log remembers a head of number {head.seq}"
                self._name(Finding(Kind.MISSING, says, writer, begin, end))
            known.append((low, head.seq))

    def _missing(self, writer: str) -> Iterator[tuple[int, int]]:
        for each in self._report.findings:
            if each.kind is Kind.MISSING and each.writer == writer and each.seq is not None:
                yield each.seq, each.last or each.seq

    # Records without a chain

    async def _unchained(self) -> None:
        first, span = await self._reader.first_chained_ms(), self._question.span
        older = span if first is None else Span(span.since_ms, min(span.until_ms, first - 1))
        if older.since_ms <= older.until_ms:
            self._report.counts.unchained = await self._reader.count_unchained(older)
        letters = 0
        if first is not None and first <= span.until_ms:
            letters = await self._strangers(Span(max(span.since_ms, first), span.until_ms))
        if letters:
            self._report.notes.append(f"{letters} messages of the outbox that could not be read: not part of a chain")

    async def _strangers(self, span: Span) -> int:
        """Name what should have a chain; returns how many letters of the outbox there were, which have none."""
        letters = 0
        async for page in self._reader.unchained(span):
            for stored in page:
                if _is_outbox_letter(stored):
                    letters += 1
                else:
                    self._name(stranger(stored, "it has no chain, and is younger than the first record that has one"))
            self._progress(self._report.counts)
        return letters

    def _note(self, pruned: Pruned) -> None:
        notes, counts = self._report.notes, self._report.counts
        if pruned.months:
            notes.append(f"removed, and on record: {', '.join(pruned.months)}")
        if pruned.refused:
            notes.append(f"not believed, since no chained record tells of it: {', '.join(pruned.refused)}")
        if not self._question.keys and counts.heads:
            notes.append("signatures were not looked at: no key is set (POSTBOTE_AUDIT_VERIFY_KEYS)")
        if counts.unchained:
            notes.append(f"{counts.unchained} records are older than the first chain, and proven by nothing")


def _contains(span: Span, at_ms: int) -> bool:
    return span.since_ms <= at_ms <= span.until_ms


def _ms_of(stored: Stored) -> int | None:
    try:
        return epoch_ms(datetime.fromisoformat(stored.document["@timestamp"]))
    except (KeyError, TypeError, ValueError):  # also a time without a zone
        return None


def _is_outbox_letter(stored: Stored) -> bool:
    found: Mapping[str, Any] = stored.document
    return stored.month is None and found.get("type") == _OUTBOX_TYPE and found.keys() == _OUTBOX_LETTER


def _unlike(head: Witness, member: Member) -> Finding:
    stored = member.stored
    says = f"the log says {head.hash[:12]}…, what stands there {member.link.hash[:12]}…"
    return Finding(
        Kind.REWRITTEN,
        f"{says}: it or one before it was written anew",
        head.writer,
        head.seq,
        index=stored.place,
        document_id=stored.document_id,
        time=head.at,
    )


def _batches(given: Sequence[T]) -> Iterator[Sequence[T]]:
    return (given[begin : begin + _AT_ONCE] for begin in range(0, len(given), _AT_ONCE))
