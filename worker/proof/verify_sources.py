"""Records, voids and heads as they are read, page by page, and brought together number by number."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple

from schemas.audit_chain import ProofKind
from worker.proof.findings import Counts, Finding, Kind
from worker.proof.ports import Pages, Stored
from worker.proof.verify_chain import Group, Vouch
from worker.proof.verify_heads import HeadKeys, Witness, vouch_of
from worker.proof.verify_record import HashOf, Member, examined, link_of, void_of

Name = Callable[[Finding], None]


class Item(NamedTuple):
    """Something of a writer's number. A vouch without a hash is that of a head which is not believed."""

    writer: str
    seq: int
    what: Member | Vouch


class Ahead:
    """Items by writer and number, of which the next ones are known."""

    def __init__(self, pages: AsyncIterator[Sequence[Item]]) -> None:
        """Nothing is read before `fill`."""
        self._pages = pages
        self.items: deque[Item] = deque()

    async def fill(self) -> None:
        """Read until there is an item, or no more."""
        while not self.items:
            page = await anext(self._pages, None)
            if page is None:
                return
            self.items.extend(page)


class Reading:
    """How documents become items, and what is wrong with those that cannot."""

    def __init__(self, name: Name, counts: Counts, keys: HeadKeys, hash_of: HashOf) -> None:
        """`name` is called with each finding."""
        self._name = name
        self._counts = counts
        self._keys = keys
        self._hash_of = hash_of

    async def records(self, pages: Pages) -> AsyncIterator[list[Item]]:
        """The records of the range."""
        async for page in pages:
            self._counts.records += len(page)
            yield [Item(m.link.writer, m.link.seq, m) for stored in page if (m := self.record(stored)) is not None]

    async def proofs(self, pages: Pages) -> AsyncIterator[list[Item]]:
        """Heads and voids of the range."""
        async for page in pages:
            yield [item for stored in page if (item := self._proof(stored)) is not None]

    def record(self, stored: Stored) -> Member | None:
        """A record; None, and named, where its link is none of ours."""
        link = link_of(stored.document)
        if link is None:
            self._name(stranger(stored, "its chain is not one that a writer makes"))
            return None
        return examined(stored, link, self._hash_of)

    def head(self, stored: Stored) -> Vouch | None:
        """A head; None where it cannot be read, and named where it is not to be believed."""
        vouch = vouch_of(stored)
        if vouch is None:
            return None
        self._counts.heads += 1
        fault = self._keys.fault(stored)
        if fault is None:
            return vouch
        self._name(fault)
        return vouch._replace(hash="")

    def _proof(self, stored: Stored) -> Item | None:
        writer = stored.document.get("writer")
        if not isinstance(writer, str):
            return None
        if stored.document.get("kind") == ProofKind.HEAD:
            vouch = self.head(stored)
            return None if vouch is None else Item(writer, vouch.seq, vouch)
        member = void_of(stored)
        return None if member is None else Item(writer, member.link.seq, member)


def stranger(stored: Stored, says: str) -> Finding:
    """A record that nobody of ours wrote."""
    time = stored.document.get("@timestamp")
    shown = time if isinstance(time, str) else None
    return Finding(Kind.INSERTED, says, index=stored.place, document_id=stored.document_id, time=shown)


async def remembered(witnesses: Iterable[Witness]) -> AsyncIterator[list[Item]]:
    """Heads that a log remembers, by writer and number."""
    yield [Item(each.writer, each.seq, Vouch(each.seq, each.hash, "the log")) for each in witnesses]


async def groups(sources: Sequence[Ahead], writer: str) -> AsyncIterator[tuple[Group, bool]]:
    """What the sources have of a writer, number by number; and whether a head stands there, believed or not."""
    while seq := await _lowest(sources, writer):
        group, headed = Group(seq), False
        for source in sources:
            while (items := source.items) and items[0].seq == seq and items[0].writer == writer:
                what = items.popleft().what
                if isinstance(what, Member):
                    group.members.append(what)
                    group.inside = True
                else:
                    headed = True
                    if what.hash:
                        group.vouches.append(what)
                if not items:
                    await source.fill()
        yield group, headed


async def _lowest(sources: Sequence[Ahead], writer: str) -> int:
    """The writer's next number; 0 where the sources have no more of it."""
    lowest = 0
    for source in sources:
        if not source.items:
            await source.fill()
        if source.items and (first := source.items[0]).writer == writer and (not lowest or first.seq < lowest):
            lowest = first.seq
    return lowest


async def next_writer(sources: Sequence[Ahead]) -> str | None:
    """The first writer that a source has something of."""
    for source in sources:
        await source.fill()
    return min((source.items[0].writer for source in sources if source.items), default=None)
