"""One writer's chain, number by number: who continues whom, what is missing, and who is at fault where it breaks.

A later record's `prev` says which hash the one before it had, so the chain is judged backwards: a record is
*vouched for* by a head with its hash, or by the record after it. Where two that follow each other don't fit, and the
later one is vouched for, the earlier one is not what was written; else the later one is at fault itself. Of several
records of one number the one that is continued is the writer's own. That may become clear only some numbers later:
numbers are held open until one comes that leaves no choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from schemas.audit_chain import genesis
from worker.proof.findings import Finding, Kind
from worker.proof.verify_pruned import NOTHING, Ranges
from worker.proof.verify_record import Member

_SHOWN_DIGITS = 12


class Vouch(NamedTuple):
    """What a head says that is believed: the hash of its number; `source` names where it stands, in words."""

    seq: int
    hash: str
    source: str


@dataclass(slots=True)
class Group:
    """Everything that is there of one number. `inside`: a record of it belongs to the range that is walked."""

    seq: int
    members: list[Member] = field(default_factory=list)
    vouches: list[Vouch] = field(default_factory=list)
    inside: bool = False


@dataclass(slots=True)
class _Judged:
    """The record of a number: `named`, something was found about it; `headed`, a head has its hash."""

    member: Member
    headed: bool = False
    named: bool = False
    continues: bool | None = None


class ChainCheck:
    """Takes a writer's groups in the order of their numbers, and names what is wrong with them."""

    def __init__(self, writer: str, name: Callable[[Finding], None], pruned: Ranges = NOTHING) -> None:
        """`name` is called with each finding; `pruned` are the numbers whose absence is explained."""
        self._writer = writer
        self._name = name
        self._pruned = pruned
        self._open: list[Group] = []
        self._at: int | None = 0
        self._claimed = 0
        self._before: _Judged | None = None
        self.last: Member | None = None
        """The writer's last record of the range that is its own, once `end` was called."""

    def begin_beside(self) -> None:
        """The first group is not the chain's beginning, and what comes before it is not asked for."""
        self._at = None

    def feed(self, group: Group) -> None:
        """Take the next number; one that only a head knows of, too."""
        if not group.members:
            self._claimed = max(self._claimed, group.seq)
            return
        gap = self._at is not None and group.seq > self._at + 1
        if gap:
            self._settle(None)
            self._miss(group.seq - 1)
            self._before = None
        self._open.append(group)
        self._at = group.seq
        if len(self._open) > 1 and (chosen := _only(group)) is not None:
            self._open.pop()
            self._settle(chosen)
            self._open.append(group)

    def vouch(self, vouch: Vouch) -> None:
        """A head of the number that was fed last."""
        if self._open and self._open[-1].seq == vouch.seq:
            self._open[-1].vouches.append(vouch)

    def end(self) -> None:
        """Nothing more comes."""
        self._settle(None)
        self._miss(self._claimed)

    def _miss(self, until: int) -> None:
        """Name what is not there of the numbers from here to `until`."""
        if self._at is None or until <= self._at:
            return
        for low, high in self._pruned.without(self._at + 1, until):
            says = "it is not there" if low == high else f"{high - low + 1} records are not there"
            self._name(Finding(Kind.MISSING, says, self._writer, low, high))

    def _settle(self, following: Member | None) -> None:
        """Choose the record of every open number, backwards, and judge them forwards."""
        if len(self._open) == 1 and len(self._open[0].members) == 1:  # as it nearly always is
            group = self._open.pop()
            self._judge(group, group.members[0], following)
            return
        chosen: list[tuple[Group, Member, Member | None]] = []
        for position in reversed(range(len(self._open))):
            group = self._open[position]
            before = self._open[position - 1].members if position else ()
            pick = group.members[0] if len(group.members) == 1 else self._choose(group, before, following)
            chosen.append((group, pick, following))
            following = pick
        self._open.clear()
        for group, pick, after in reversed(chosen):
            self._judge(group, pick, after)

    def _choose(self, group: Group, before: Sequence[Member], following: Member | None) -> Member:
        heads = {vouch.hash for vouch in group.vouches}
        earlier = {member.link.hash for member in before}
        if not before and self._before is not None:
            earlier = {self._before.member.link.hash}
        wanted = None if following is None else following.link.prev

        def rank(member: Member) -> tuple[bool, ...]:
            own = member.link
            continued = own.hash == wanted
            return (own.hash in heads, continued, member.fits, own.prev in earlier, not member.fault, not member.void)

        return max(group.members, key=rank)

    def _judge(self, group: Group, pick: Member, after: Member | None) -> None:
        if len(group.members) > 1:
            for other in group.members:
                if other is not pick:
                    self._stranger(other, pick)
        vouches = group.vouches
        judged = _Judged(pick, headed=bool(vouches) and any(vouch.hash == pick.link.hash for vouch in vouches))
        if not pick.fits:
            self._blame(judged, Kind.CHANGED, "its hash does not follow from what it says")
        elif not self._rewritten(group, judged, after):
            self._compare(judged, after)
            if pick.fault and not judged.named:
                self._blame(judged, Kind.CHANGED, pick.fault)
        self._before = judged
        if group.inside and not (judged.named and judged.continues is False):
            self.last = pick

    def _stranger(self, other: Member, pick: Member) -> None:
        """A second one of a number. A void beside the very record that it speaks of does no harm."""
        if other.void and other.link.hash == pick.link.hash:
            return
        if other.void:
            says = f"a void that says of number {other.link.seq} what its record does not"
            self._name(_finding(other, Kind.FORGED, says))
            return
        same = other.fits and other.link.hash == pick.link.hash
        says = f"a copy of the record {pick.stored.document_id}" if same else "the writer's own record is another one"
        self._name(_finding(other, Kind.INSERTED, f"{says} of this number"))

    def _rewritten(self, group: Group, judged: _Judged, after: Member | None) -> bool:
        if not group.vouches:
            return False
        own = judged.member.link.hash
        other = next((vouch for vouch in group.vouches if vouch.hash != own), None)
        if other is None:
            return False
        if after is not None and after.link.prev == other.hash:
            self._blame(judged, Kind.CHANGED, f"{other.source} and the record after it say another hash")
        else:
            says = f"{other.source} says {other.hash[:_SHOWN_DIGITS]}…, the record {own[:_SHOWN_DIGITS]}…"
            self._blame(judged, Kind.REWRITTEN, f"{says}: it or one before it was written anew")
        return True

    def _compare(self, judged: _Judged, after: Member | None) -> None:
        """Hold the record against the one before it, and name whichever is at fault."""
        before, link = self._before, judged.member.link
        if before is None:
            judged.continues = None if link.seq > 1 else link.prev == genesis(link.writer)
            if judged.continues is False:
                self._blame(judged, Kind.INSERTED, "it is the first one and does not begin as the writer's chain does")
            return
        judged.continues = link.prev == before.member.link.hash
        if judged.continues or not before.member.fits:
            return
        vouched = judged.headed or (after is not None and after.link.prev == link.hash)
        if vouched and not before.headed:
            self._unlike(before)
        elif after is None and before.headed:
            self._blame(judged, Kind.INSERTED, "it does not continue the record before it, with which a head ends")
        else:
            self._blame(judged, Kind.REORDERED, "what it continues is not the record before it")

    def _unlike(self, before: _Judged) -> None:
        if before.named:
            return
        if before.continues is False:
            self._blame(before, Kind.REORDERED, "neither does it continue the one before, nor the one after it")
        else:
            self._blame(before, Kind.CHANGED, "the record after it continues another one")

    def _blame(self, judged: _Judged, kind: Kind, says: str) -> None:
        judged.named = True
        self._name(_finding(judged.member, kind, says))


def _only(group: Group) -> Member | None:
    """The member that is surely the writer's own, whatever comes after it."""
    if len(group.members) == 1:
        return group.members[0]
    heads = {vouch.hash for vouch in group.vouches}
    headed = [member for member in group.members if member.link.hash in heads and member.fits]
    return headed[0] if len(headed) == 1 else None


def _finding(member: Member, kind: Kind, says: str) -> Finding:
    link, stored = member.link, member.stored
    time = stored.document.get("@timestamp")
    found = Finding(kind, says, link.writer, link.seq, index=stored.place, document_id=stored.document_id)
    return replace(found, time=time if isinstance(time, str) else None)
