"""What a walk over the audit found, as values."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What is wrong.

    changed    the record is there, and is not what was written
    missing    a number that was written is not there, and nothing says why
    inserted   a record that no writer of ours put there
    reordered  the record fits itself, and does not continue the one before it
    rewritten  a head says another hash: the record or one before it was written anew
    forged     a head's signature is not that of a known key
    unsigned   a head without a signature where signatures are asked for
    uncovered  no head covers the writer's last records
    """

    CHANGED = "changed"
    MISSING = "missing"
    INSERTED = "inserted"
    REORDERED = "reordered"
    REWRITTEN = "rewritten"
    FORGED = "forged"
    UNSIGNED = "unsigned"
    UNCOVERED = "uncovered"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, at one place.

    `seq` is the number, and `last` the last one where a whole stretch is meant. `time` is the record's own, as text.
    """

    kind: Kind
    says: str
    writer: str | None = None
    seq: int | None = None
    last: int | None = None
    index: str | None = None
    document_id: str | None = None
    time: str | None = None

    @property
    def number(self) -> str | None:
        """``7``, or ``7-9``."""
        if self.seq is None:
            return None
        return str(self.seq) if self.last in (None, self.seq) else f"{self.seq}-{self.last}"

    def to_document(self) -> dict[str, Any]:
        """For ``--json``; absent values are left out."""
        shown = {
            "kind": self.kind.value,
            "writer": self.writer,
            "number": self.seq,
            "last": self.last,
            "index": self.index,
            "id": self.document_id,
            "time": self.time,
            "says": self.says,
        }
        return {name: value for name, value in shown.items() if value is not None}


@dataclass(slots=True)
class Counts:
    """How much was looked at: `records` of the range, `beside` it, where a chain had to be followed."""

    records: int = 0
    beside: int = 0
    unchained: int = 0
    writers: int = 0
    heads: int = 0
    voids: int = 0
    witnessed: int = 0


@dataclass(slots=True)
class Report:
    """The whole answer. `cut`: there were more findings than are kept, and the walk ended there."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    cut: bool = False
    took_s: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def sorted(self) -> list[Finding]:
        """The findings by kind, writer and number."""
        order = list(Kind)
        return sorted(
            self.findings, key=lambda f: (order.index(f.kind), f.writer or "", f.seq or 0, f.document_id or "")
        )
