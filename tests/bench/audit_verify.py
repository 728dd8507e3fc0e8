"""What verifying costs a record: `python -m tests.bench.audit_verify [--records N]`.

Processor time of the walk alone, over records that are in memory already: their digests and links, their ids and
places, their order, and a signed head for every thousand.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson

from schemas.audit import AuditRecord, ConfigUsed, Outcome, Reply, Timings, TlsUsed
from schemas.audit_times import epoch_ms
from worker.delivery.ports import Document
from worker.proof.chain import Chain
from worker.proof.ports import Pages, Span, Stored
from worker.proof.signing import Signer
from worker.proof.verify_heads import HeadKeys
from worker.proof.verifying import Question, verify

RECORDS = 50_000
_PAGE = 2000
_HEAD_EVERY = 1000
_BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class InMemory:
    """A whole chain, as a reader of it would give it."""

    records: list[Stored] = field(default_factory=list)
    heads: list[Stored] = field(default_factory=list)
    settles_ms: int = 0

    def chained(self, _span: Span, _writer: str | None) -> Pages:
        return _pages(self.records)

    def proofs(self, _span: Span, _writer: str | None) -> Pages:
        return _pages(self.heads)

    def unchained(self, _span: Span) -> Pages:
        return _pages([])

    async def count_unchained(self, _span: Span) -> int:
        return 0

    async def first_chained_ms(self) -> int | None:
        return epoch_ms(_BEGAN)

    async def pruned(self) -> Sequence[Stored]:
        return ()


async def _pages(of: list[Stored]) -> AsyncIterator[Sequence[Stored]]:
    for begin in range(0, len(of), _PAGE):
        yield of[begin : begin + _PAGE]


def _record(number: int) -> AuditRecord:
    return AuditRecord(
        timestamp=_BEGAN + timedelta(seconds=number),
        outcome=Outcome.ACCEPTED,
        partner="acme",
        org="dev",
        event_id=f"event-{number}",
        event_source="/billing",
        event_time=_BEGAN,
        recipient=f"user{number}@example.org",
        config=ConfigUsed(
            scope="org:acme/dev", name="default", version=3, fingerprint="ab" * 8, host="smtp.example.org", port=587
        ),
        tls=TlsUsed(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", verified=True),
        reply=Reply(code=250, enhanced="2.0.0", text="2.0.0 Ok: queued as 4XyZ", phase="final"),
        remote_queue_id="4XyZ",
        message_id=f"<{number}@postbote.example>",
        timings=Timings(queued_ms=1.5, resolve_ms=0.1, render_ms=0.2, connect_ms=0.0, transaction_ms=12.25),
        worker_id="worker-1",
    )


def written(count: int, signer: Signer) -> InMemory:
    """A chain of so many deliveries."""
    chain, found = Chain("worker-1/0000000a", signer), InMemory()
    for number in range(count):
        record = _record(number)
        (sealed,) = chain.seal([Document(record.document_id, record.index_month, record.to_json())])
        month = record.index_month
        found.records.append(Stored(f"systemaudit-{month}", record.document_id, orjson.loads(sealed.document), month))
        if number % _HEAD_EVERY == _HEAD_EVERY - 1 or number == count - 1:
            head = chain.head(record.timestamp)
            assert head is not None
            found.heads.append(Stored("systemaudit-proof", head.document_id, orjson.loads(head.document)))
    return found


def cost_us(count: int) -> float:
    """Microseconds of processor time for each of `count` records."""
    signer = Signer.new()[0]
    reader = written(count, signer)
    end = _BEGAN + timedelta(days=365)
    question = Question(Span(0, epoch_ms(end)), end, keys=HeadKeys.read([signer.public_key]))
    began = time.process_time()
    report = asyncio.run(verify(reader, question))  # type: ignore[arg-type] # what a whole chain is asked for
    took = time.process_time() - began
    assert report.whole, report.findings[:3]
    assert report.counts.records == count
    return took / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=RECORDS)
    count = parser.parse_args().records
    print(f"verifying: {cost_us(count):.1f} us of processor time a record, {count} records")


if __name__ == "__main__":
    # Its log would be a line for each head.
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    main()
