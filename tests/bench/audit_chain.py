"""What sealing costs a record, in microseconds of CPU: ``python -m tests.bench.audit_chain [RECORDS]``.

Next to it, what the record costs anyway before it is sealed: its id and its JSON. CPU time of this
thread, so that whatever else the machine does is not counted; medians of rounds of a hundred.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from schemas.audit import AuditRecord, ConfigUsed, Outcome, Reply, Timings, TlsUsed
from worker.delivery.ports import Document
from worker.delivery.privacy import PLAIN
from worker.proof.chain import Chain, new_writer

AIM_US = 12.0
MOST_US = 20.0
"""What the issue promises."""

_ROUND = 100
_NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def typical(number: int) -> AuditRecord:
    """The record of a mail that was accepted, of about 900 bytes."""
    return AuditRecord(
        timestamp=_NOW + timedelta(microseconds=number),
        outcome=Outcome.ACCEPTED,
        reason="accepted: the server took responsibility for the message",
        partner="acme",
        org="dev",
        event_id=f"0193a1b2-0000-7000-8000-{number:012}",
        event_source="/billing/eu-west-1",
        event_type="com.example.invoice.created",
        event_category="transactional",
        event_time=_NOW,
        recipient=f"user{number}@dev.acme.example",
        config=ConfigUsed(scope="org:acme/dev", name="main", version=3, fingerprint="ab" * 8, host="mx.test", port=587),
        tls=TlsUsed(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", verified=True),
        reply=Reply(code=250, enhanced="2.0.0", text=f"2.0.0 Ok: queued as {number:010X}", phase="final"),
        remote_queue_id=f"{number:010X}",
        message_id=f"<{number}@postbote.acme.example>",
        timings=Timings(
            queued_ms=1.234, resolve_ms=0.101, render_ms=0.512, connect_ms=0.0, transaction_ms=5.123, total_ms=8.999
        ),
        worker_id="worker-host-7",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    )


def rounds_us(work: Callable[[Sequence[AuditRecord]], object], records: Sequence[AuditRecord]) -> list[float]:
    """Microseconds of CPU for each record, by round."""
    found = []
    for first in range(0, len(records), _ROUND):
        taken = records[first : first + _ROUND]
        before = time.thread_time_ns()
        work(taken)
        found.append((time.thread_time_ns() - before) / 1000 / len(taken))
    return found


def sealing_us(count: int) -> tuple[float, float]:
    """Medians: what a record costs unsealed, and what sealing adds."""
    records = [typical(number) for number in range(count)]
    chain = Chain(new_writer("worker-host-7"))
    made: list[list[Document]] = []
    plain = rounds_us(lambda taken: made.append([PLAIN.document(record) for record in taken]), records)
    waiting = iter(made)
    sealing = rounds_us(lambda _: chain.seal(next(waiting)), records)
    return statistics.median(plain), statistics.median(sealing)


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and judge: 1 where it costs more than the issue promises."""
    plain, sealing = sealing_us(int(arguments[0]) if arguments else 50_000)
    size = len(PLAIN.document(typical(1)).document)
    print(
        f"a record of {size} bytes: {plain:.1f} us without the chain, {sealing:.1f} us for sealing (aim {AIM_US:.0f})"
    )
    return 0 if sealing < MOST_US else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
