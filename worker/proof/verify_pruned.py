"""Which numbers are gone because a month was removed, and whether that is to be believed.

What names the numbers stands beside the chain, where whoever removes records could write it, too. So it counts
where a chained record of the removal names its digest, and where heads are signed, a signed one reaches that record.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.audit_chain import digest_of
from worker.proof.ports import ProofReader, Stored
from worker.proof.verify_record import Member, examined, link_of

_FARTHEST = 100_000  # numbers between a record of a removal and the head that reaches it: a command writes some few


@dataclass(frozen=True, slots=True)
class Ranges:
    """Numbers, as ranges that ascend and don't touch; both ends belong to each."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, given: Sequence[tuple[int, int]]) -> "Ranges":
        """Put ranges of any order together."""
        joined: list[tuple[int, int]] = []
        for low, high in sorted(given):
            if joined and low <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        return cls(tuple(joined))

    def without(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """What is left of ``low`` to ``high`` once these are taken away."""
        position = max(0, bisect_left(self.ranges, (low, low)) - 1)
        for begin, end in self.ranges[position:]:
            if begin > high:
                break
            if end < low:
                continue
            if low < begin:
                yield low, begin - 1
            low = end + 1
        if low <= high:
            yield low, high

    @property
    def count(self) -> int:
        """How many numbers."""
        return sum(high - low + 1 for low, high in self.ranges)


NOTHING = Ranges()


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is believed to have been removed, by writer; `refused` are the ids of what nobody bears witness to."""

    by_writer: Mapping[str, Ranges] = field(default_factory=dict)
    months: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def of(self, writer: str) -> Ranges:
        """A writer's numbers."""
        return self.by_writer.get(writer, NOTHING)


def parse_ranges(text: object) -> list[tuple[int, int]]:
    """Read ``1-500,503``; raises ValueError."""
    if not isinstance(text, str):
        msg = "ranges are text"
        raise ValueError(msg)  # noqa: TRY004 # one error for what cannot be read
    found = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        pair = int(low), int(high if dash else low)
        if not 1 <= pair[0] <= pair[1]:
            msg = "a range begins at 1 or later and ends where it begins or later"
            raise ValueError(msg)
        found.append(pair)
    return found


async def read_pruned(reader: ProofReader, signed: Callable[[Mapping[str, Any]], bool] | None) -> Pruned:
    """Read what was removed; `signed` tells whether a head is, None where nobody can. Raises AuditUnavailable."""
    documents = await reader.pruned()
    if not documents:
        return Pruned()
    witnessed = await _witnessed(reader, signed)
    by_writer: dict[str, list[tuple[int, int]]] = {}
    months, refused = [], []
    for stored in documents:
        ranges = _ranges_of(stored, witnessed)
        if ranges is None:
            refused.append(stored.document_id)
            continue
        months.append(str(stored.document.get("month")))
        for writer, pairs in ranges.items():
            by_writer.setdefault(writer, []).extend(pairs)
    joined = {writer: Ranges.of(pairs) for writer, pairs in by_writer.items()}
    return Pruned(joined, tuple(sorted(months)), tuple(refused))


def _ranges_of(stored: Stored, witnessed: Collection[str]) -> dict[str, list[tuple[int, int]]] | None:
    """The numbers that a document names; None where no record tells of it, or where it cannot be read."""
    try:
        if digest_of(stored.document) not in witnessed:
            return None
        return {str(writer): parse_ranges(text) for writer, text in stored.document["ranges"].items()}
    except (KeyError, AttributeError, TypeError, ValueError):
        return None


async def _witnessed(reader: ProofReader, signed: Callable[[Mapping[str, Any]], bool] | None) -> frozenset[str]:
    """The digests that chained records of removals name."""
    found: set[str] = set()
    for stored in await reader.prunings():
        link = link_of(stored.document)
        if link is None:
            continue
        member = examined(stored, link, lambda _: None)
        named = stored.document.get("changed")
        if isinstance(named, list) and member.fits and (signed is None or await _reached(reader, member, signed)):
            found.update(digest for digest in named if isinstance(digest, str))
    return frozenset(found)


async def _reached(reader: ProofReader, member: Member, signed: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether a signed head stands at the end of the links that lead on from this record."""
    writer, seq, _, own, _ = member.link
    head = await reader.head_from(writer, seq)
    if head is None or not signed(head.document) or head.document["seq"] - seq > _FARTHEST:
        return False
    end, at = head.document["seq"], seq
    async for page in reader.numbers(writer, seq + 1, end):
        for stored in page:
            link = link_of(stored.document)
            if link is None or link.prev != own or not examined(stored, link, lambda _: None).fits:
                continue
            own, at = link.hash, link.seq
    return bool(at == end and own == head.document["hash"])
