"""What verifying needs of a place where records and proofs are kept, declared here by its consumer.

All that walks gives pages, and holds no more than one of them.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, NamedTuple, Protocol


class Span(NamedTuple):
    """A range of times in milliseconds since 1970, both ends included."""

    since_ms: int
    until_ms: int


class Stored(NamedTuple):
    """A document as it was found.

    `place` is the index or table. `document` is the record that was written, out of its dead letter where it is one.
    `month` is what the place says (``YYYY.MM``), None where it says nothing. `disagrees` names fields that stand around
    the record for searches and say something else than it does.
    """

    place: str
    document_id: str
    document: dict[str, Any]
    month: str | None = None
    disagrees: tuple[str, ...] = ()


Pages = AsyncIterator[Sequence[Stored]]


class ProofReader(Protocol):
    """Reads records by their place in a chain, and what stands beside them; everything raises AuditUnavailable.

    A record without a time that can be read belongs to every range. What was written up to `settles_ms` ago may
    not be seen yet.
    """

    settles_ms: int

    def chained(self, span: Span, writer: str | None) -> Pages:
        """The records of a range that name a writer and a number, by both; of one writer, where it is given."""
        ...

    def unchained(self, span: Span) -> Pages:
        """The records of a range that don't, in any order."""
        ...

    async def count_unchained(self, span: Span) -> int:
        """How many of these have a time within the range."""
        ...

    def proofs(self, span: Span, writer: str | None) -> Pages:
        """Heads and voids of a range, by writer and number."""
        ...

    def numbers(self, writer: str, low: int, high: int) -> Pages:
        """A writer's records of these numbers, both included, of any time, by number."""
        ...

    async def at(self, writer: str, numbers: Sequence[int]) -> Sequence[Stored]:
        """A writer's records and voids of any of these numbers, 500 at most."""
        ...

    async def last_before(self, writer: str, seq: int) -> int:
        """The highest number below `seq` that a record or void of this writer has; 0 where there is none."""
        ...

    async def voids(self, writer: str, low: int, high: int) -> Sequence[Stored]:
        """A writer's voids of these numbers, both included, by number."""
        ...

    async def head_from(self, writer: str, seq: int) -> Stored | None:
        """The writer's first head of this number or a higher one, of any time."""
        ...

    async def first_chained_ms(self) -> int | None:
        """The time of the oldest record that has a chain, None where none has."""
        ...

    async def prunings(self) -> Sequence[Stored]:
        """Every chained record that says that something was pruned."""
        ...

    async def pruned(self) -> Sequence[Stored]:
        """Every document that says which numbers went."""
        ...

    async def existing(self, ids: Collection[str]) -> frozenset[str]:
        """Of these ids, 500 at most, those under which a record stands."""
        ...
