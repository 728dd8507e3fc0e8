"""Walking the chains of a range: each writer's numbers, one step beyond both ends, and the head that covers the last.

Records of a range are not always a stretch of numbers: their times are those of what happened. So every gap is
looked up without the range before it counts as one. And the last number of a range is only vouched for by the first
head at or behind it: the records up to there are followed, whatever their time.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from worker.proof.findings import Counts, Finding, Kind
from worker.proof.ports import ProofReader
from worker.proof.verify_chain import ChainCheck, Group, Vouch
from worker.proof.verify_pruned import Pruned
from worker.proof.verify_record import Member, void_of
from worker.proof.verify_sources import Ahead, Reading, groups, next_writer


@dataclass(slots=True)
class Walked:
    """What is to be asked when all chains are walked.

    `voids`: id of the void's record by the void. `running`: writers whose last record may yet be covered.
    """

    voids: list[Member] = field(default_factory=list)
    running: list[str] = field(default_factory=list)


class Walk:
    """One walk over the chains."""

    def __init__(
        self,
        reader: ProofReader,
        reading: Reading,
        pruned: Pruned,
        counts: Counts,
        *,
        name: Callable[[Finding], None],
        young: Callable[[Member], bool],
    ) -> None:
        """`name` is called with each finding; `young` says of a last record that its head may be on its way."""
        self._reader = reader
        self._reading = reading
        self._pruned = pruned
        self._counts = counts
        self._name = name
        self._young = young
        self.walked = Walked()

    async def run(self, sources: Sequence[Ahead]) -> None:
        """Walk all that the sources have. Raises AuditUnavailable."""
        while (writer := await next_writer(sources)) is not None:
            self._counts.writers += 1
            await self._chain(writer, sources)

    async def _chain(self, writer: str, sources: Sequence[Ahead]) -> None:
        check = ChainCheck(writer, self._name, self._pruned.of(writer))
        at, covered = None, 0
        async for group, headed in groups(sources, writer):
            if headed:
                covered = group.seq
            self._note_voids(group.members)
            if not group.members and not group.vouches:
                continue  # a head that is not believed says nothing of its number
            if at is None:
                at = await self._begin(check, writer, group.seq)
            await self._reach(check, writer, at, group)
            at = group.seq
        if at is not None:
            await self._end(check, writer, at, covered)

    async def _begin(self, check: ChainCheck, writer: str, seq: int) -> int:
        """Feed the number before the first one; returns from which on numbers are expected."""
        below = await self._reader.last_before(writer, seq) if seq > 1 else 0
        if below:
            check.begin_beside()
            async for group in self._between(writer, below, below):
                check.feed(group)
        return below

    async def _reach(self, check: ChainCheck, writer: str, at: int, group: Group) -> None:
        """Feed what lies between `at` and the group, and the group with whatever else is found of its number."""
        high = group.seq - 1 if group.members else group.seq
        if high > at:
            async for found in self._between(writer, at + 1, high):
                if found.seq == group.seq:
                    group.members = found.members
                else:
                    check.feed(found)
        check.feed(group)

    async def _end(self, check: ChainCheck, writer: str, at: int, covered: int) -> None:
        if covered < at:
            covered = max(covered, await self._follow(check, writer, at))
        check.end()
        last = check.last
        if last is None or covered >= last.link.seq:
            return
        if self._young(last):
            self.walked.running.append(writer)
        else:
            self._name(_uncovered(last, covered))

    async def _follow(self, check: ChainCheck, writer: str, at: int) -> int:
        """Go on to the first head at or behind `at`; returns its number, 0 where there is none."""
        stored = await self._reader.head_from(writer, at)
        vouch: Vouch | None = None if stored is None else self._reading.head(stored)
        if vouch is None or not vouch.hash:
            async for found in self._between(writer, at + 1, at + 1):
                check.feed(found)
        elif vouch.seq == at:
            check.vouch(vouch)
        else:
            await self._reach(check, writer, at, Group(vouch.seq, vouches=[vouch]))
        return 0 if vouch is None else vouch.seq

    async def _between(self, writer: str, low: int, high: int) -> AsyncIterator[Group]:
        """What there is of these numbers, whatever its time."""
        if not any(self._pruned.of(writer).without(low, high)):
            return
        voids = [void for stored in await self._reader.voids(writer, low, high) if (void := void_of(stored))]
        self._note_voids(voids)
        group = Group(low)
        async for member in self._merged(writer, low, high, voids):
            if member.link.seq != group.seq:
                if group.members:
                    yield group
                group = Group(member.link.seq)
            group.members.append(member)
        if group.members:
            yield group

    async def _merged(self, writer: str, low: int, high: int, voids: list[Member]) -> AsyncIterator[Member]:
        waiting = sorted(voids, key=lambda void: void.link.seq, reverse=True)
        async for page in self._reader.numbers(writer, low, high):
            self._counts.beside += len(page)
            for stored in page:
                member = self._reading.record(stored)
                if member is None:
                    continue
                while waiting and waiting[-1].link.seq < member.link.seq:
                    yield waiting.pop()
                yield member
        while waiting:
            yield waiting.pop()

    def _note_voids(self, members: Sequence[Member]) -> None:
        self.walked.voids.extend(member for member in members if member.void)


def _uncovered(last: Member, covered: int) -> Finding:
    link, stored = last.link, last.stored
    says = "the writer has no head" if not covered else f"the writer's last head is of number {covered}"
    time = stored.document.get("@timestamp")
    return Finding(
        Kind.UNCOVERED,
        says,
        link.writer,
        link.seq,
        index=stored.place,
        document_id=stored.document_id,
        time=time if isinstance(time, str) else None,
    )
