"""Chains for tests, as their writers make them, a place to tamper with them, and a reader over it."""

from dataclasses import dataclass, field
from datetime import timedelta

import orjson

from schemas.audit_chain import (
    Link,
    ProofKind,
    chained,
    digest_of,
    genesis,
    head_document,
    head_statement,
    proof_id,
    void_document,
)
from schemas.audit_times import epoch_ms
from tests.unit.audit.audit_samples import NOON, audit_record
from worker.proof.ports import Span, Stored
from worker.proof.verifying import Question, verify

W = "worker-1/0badcafe"
ALL = Span(0, epoch_ms(NOON + timedelta(days=3650)))


def stamp(moment):
    return moment.isoformat().replace("+00:00", "Z")


@dataclass
class Written:
    """A chain as it was written: place, id and document of each record; `heads` and `voids` beside them."""

    writer: str
    records: list = field(default_factory=list)
    proofs: list = field(default_factory=list)
    prev: str = ""
    seq: int = 0

    def add(self, record, document_id=None, month=None):
        document = orjson.loads(record.to_json()) if not isinstance(record, dict) else record
        sealed, link = chained(document, self.writer, self.seq + 1, self.prev or genesis(self.writer))
        self.seq, self.prev = link.seq, link.hash
        own = document_id or record.document_id
        self.records.append(Stored(f"audit-{month or record.index_month}", own, sealed, month or record.index_month))
        return link

    def head(self, signer=None, *, seconds=0.0):
        link, at = Link(self.writer, self.seq, "", self.prev), stamp(NOON + timedelta(seconds=seconds))
        signature = None if signer is None else signer.sign(head_statement(self.writer, self.seq, self.prev, at))
        document = head_document(link, at, signature, None if signer is None else signer.key_id)
        self.proofs.append(Stored("audit-proof", proof_id(ProofKind.HEAD, self.writer, self.seq), document))

    def void(self, record, names):
        _, link = chained(orjson.loads(record.to_json()), self.writer, self.seq + 1, self.prev or genesis(self.writer))
        document = void_document(link, digest_of(orjson.loads(record.to_json())), names, stamp(record.timestamp))
        self.proofs.append(Stored("audit-proof", proof_id(ProofKind.VOID, self.writer, self.seq + 1), document))
        self.seq, self.prev = link.seq, link.hash


def chain(count=6, writer=W, *, head=True, first=0):
    """A chain of `count` deliveries a second apart, with a head at its end."""
    written = Written(writer)
    for number in range(first, first + count):
        written.add(audit_record(f"{writer}-{number}", seconds=number))
    if head:
        written.head(seconds=first + count)
    return written


def resealed(document, **changes):
    """The document with other values, and its hash made to fit again: `seq` and `prev` may be changed, too."""
    link = document["chain"]
    values = {name: value for name, value in changes.items() if name not in {"seq", "prev", "writer"}}
    place = [changes.get(name, link[name]) for name in ("writer", "seq", "prev")]
    return chained({**document, **values}, *place)[0]


class MemoryReader:
    """Fulfils ProofReader over lists."""

    settles_ms = 0

    def __init__(self, *chains, page=2):
        self.records = [record for written in chains for record in written.records]
        self.proofs_there = [proof for written in chains for proof in written.proofs]
        self.page = page
        self.looked_up = []

    def change(self, position, **changes):
        self.records[position] = self.records[position]._replace(**changes)

    async def _paged(self, found):
        for begin in range(0, len(found), self.page):
            yield found[begin : begin + self.page]

    def _links(self):
        return [(record, record.document.get("chain")) for record in self.records]

    def chained(self, span, writer):
        found = [r for r, c in self._links() if isinstance(c, dict) and self._within(r, span)]
        found = [r for r in found if writer in (None, r.document["chain"]["writer"])]
        return self._paged(sorted(found, key=lambda r: (r.document["chain"]["writer"], r.document["chain"]["seq"])))

    def unchained(self, span):
        return self._paged([r for r, c in self._links() if not isinstance(c, dict) and self._within(r, span)])

    async def count_unchained(self, span):
        return sum(1 for r, c in self._links() if not isinstance(c, dict) and self._within(r, span))

    def proofs(self, span, writer):
        found = [p for p in self.proofs_there if p.document["kind"] != "pruned" and self._within(p, span)]
        found = [p for p in found if writer in (None, p.document["writer"])]
        return self._paged(sorted(found, key=lambda p: (p.document["writer"], p.document["seq"])))

    def numbers(self, writer, low, high):
        self.looked_up.append((writer, low, high))
        return self._paged(self._of(writer, low, high))

    def _of(self, writer, low, high):
        found = [
            r for r, c in self._links() if isinstance(c, dict) and c["writer"] == writer and low <= c["seq"] <= high
        ]
        return sorted(found, key=lambda r: r.document["chain"]["seq"])

    async def at(self, writer, numbers):
        found = [*self._of(writer, 1, 10**9)]
        return [r for r in found if r.document["chain"]["seq"] in numbers] + [
            v for v in await self.voids(writer, 1, 10**9) if v.document["seq"] in numbers
        ]

    async def last_before(self, writer, seq):
        own = [r.document["chain"]["seq"] for r in self._of(writer, 1, seq - 1)]
        return max(own + [v.document["seq"] for v in await self.voids(writer, 1, seq - 1)], default=0)

    async def voids(self, writer, low, high):
        return self._kind("void", writer, low, high)

    def _kind(self, kind, writer, low, high):
        of_kind = [p for p in self.proofs_there if p.document["kind"] == kind and p.document["writer"] == writer]
        return sorted((p for p in of_kind if low <= p.document["seq"] <= high), key=lambda p: p.document["seq"])

    async def head_from(self, writer, seq):
        return next(iter(self._kind("head", writer, seq, 10**9)), None)

    async def first_chained_ms(self):
        times = [self._ms(r) for r, c in self._links() if isinstance(c, dict)]
        return min((each for each in times if each is not None), default=None)

    async def prunings(self):
        return [r for r, c in self._links() if isinstance(c, dict) and r.document.get("action") == "pruned"]

    async def pruned(self):
        return [p for p in self.proofs_there if p.document["kind"] == "pruned"]

    async def existing(self, ids):
        return frozenset(r.document_id for r in self.records if r.document_id in ids)

    def _ms(self, stored):
        from worker.proof.verifying import _ms_of

        return _ms_of(stored)

    def _within(self, stored, span):
        at = self._ms(stored)
        return at is None or span.since_ms <= at <= span.until_ms


async def verified(reader, *, span=ALL, **options):
    return await verify(reader, Question(span, options.pop("now", NOON + timedelta(days=1)), **options))


def named(report):
    """Kind, writer and number of each finding."""
    return [(finding.kind.value, finding.writer, finding.number) for finding in report.sorted()]
