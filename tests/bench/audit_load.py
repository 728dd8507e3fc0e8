"""Fill an audit with records as a year's ones look: `python -m tests.bench.audit_load [--records N]`.

Four months up to the end of this day, 200 tenants, 50 providers, chained by four writers. The records are
computed from their numbers alone, so that a load that was interrupted begins again and an index that is
complete is found and used once more. Memory is that of two bulks.
"""

import argparse
import http.client
import itertools
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson

from schemas.audit import CATEGORY, Outcome, document_id
from schemas.audit_chain import chained, genesis
from worker.audit.index_template import ensure_template
from worker.audit.link import OpenSearchAccess, OpenSearchLink

RECORDS = 1_000_000
SPAN = timedelta(days=120)
ORGS_OF_A_PARTNER = 5
TENANTS, PROVIDERS, RECIPIENTS = 200, 50, 120_000
_WRITERS = tuple(f"bench-worker-{n}/0000000{n}" for n in range(4))
_PREFIX = "bench-reads-"
_CHUNK = 2_000
_SEED = 20
_PROGRESS_S = 10.0
_SETTLED = {"index": {"refresh_interval": None, "translog.durability": None}}
_LOADING = {"index": {"refresh_interval": "-1", "translog.durability": "async"}}

# Outcome, its share in percent, reply code, enhanced code, what the server said, and the reason.
_ENDS: tuple[tuple[Outcome, float, int | None, str | None, str, str | None], ...] = (
    (Outcome.ACCEPTED, 88.0, 250, "2.0.0", "2.0.0 Ok: queued as {queue}", None),
    (Outcome.DEFERRED, 5.0, 451, "4.7.1", "4.7.1 {domain}: greylisted, please come back later", "greylisted: wait"),
    (Outcome.THROTTLED, 2.0, 421, "4.7.0", "4.7.0 too many messages from your host, slow down", "rate-limited: less"),
    (Outcome.REFUSED, 3.0, 550, "5.1.1", "5.1.1 <{recipient}>: Recipient address rejected: User unknown", "no-such-recipient: the mailbox is not there"),
    (Outcome.REFUSED, 0.8, 554, "5.7.1", "5.7.1 message refused: policy of {domain}", "policy: the server's rules"),
    (Outcome.EXHAUSTED, 0.7, 452, "4.2.2", "4.2.2 mailbox of {recipient} is full", "mailbox-full: over its quota"),
    (Outcome.CONFIG_FAULT, 0.3, 535, "5.7.8", "5.7.8 authentication failed", "credentials: they are not accepted"),
    (Outcome.IN_DOUBT, 0.2, None, None, "", "connection-lost: after the final dot"),
)  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """An audit that is there: `end` is the moment after its last record."""

    url: str
    prefix: str
    records: int
    end: datetime
    seconds: float = 0.0
    _months: tuple[str, ...] = field(default=(), repr=False)


def recipient_of(number: int) -> str:
    """The address of one of the `RECIPIENTS`."""
    return f"user{number}@mail{number % 900}.example"


def end_of(day: datetime) -> datetime:
    """The end of the day: so the documented question about the last hour finds records all day long."""
    return day.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def documents(count: int, end: datetime) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """`count` records up to `end`, the oldest first, as (`YYYY.MM`, `_id`, document)."""
    random_ = random.Random(_SEED)
    step, writers = SPAN / count, {name: (0, genesis(name)) for name in _WRITERS}
    shares = list(itertools.accumulate(each[1] for each in _ENDS))
    ends = random_.choices(_ENDS, cum_weights=shares, k=1_000_003)  # a prime: no pattern with what else repeats
    for number in range(count):
        at = end - SPAN + step * number
        record = _record(number, at, ends[number % len(ends)], random_)
        name = _WRITERS[number % len(_WRITERS)]
        seq, prev = writers[name]
        document, link = chained(record, name, seq + 1, prev)
        writers[name] = (link.seq, link.hash)
        yield f"{at:%Y.%m}", _id_of(record), document


def _record(number: int, at: datetime, end: tuple[Any, ...], random_: random.Random) -> dict[str, Any]:
    outcome, _, code, enhanced, words, reason = end
    tenant, recipient = int(TENANTS * random_.random() ** 2), recipient_of(random_.randrange(RECIPIENTS))
    queue, domain = f"{number:X}Zb", recipient.partition("@")[2]
    total = random_.lognormvariate(5.0, 0.8)
    reply = {"code": code, "enhanced": enhanced, "phase": "final"} if code else {"phase": "final"}
    record: dict[str, Any] = {
        "@timestamp": _spelt(at),
        "category": CATEGORY,
        "type": "email.delivery",
        "outcome": outcome.value,
        "partner": f"partner-{tenant // ORGS_OF_A_PARTNER}",
        "org": f"org-{tenant}",
        "event_id": f"{number:032x}",
        "event_source": f"/shop/{tenant % 7}",
        "event_type": "com.example.mail.requested",
        "event_category": "transactional",
        "event_time": _spelt(at - timedelta(milliseconds=total)),
        "recipient": recipient,
        "attempt": 1 + (number % 3 if outcome is not Outcome.ACCEPTED else 0),
        "config": _config(tenant),
        "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "verified": True},
        "reply": {**reply, "text": words.format(queue=queue, domain=domain, recipient=recipient)},
        "message_id": f"<{number:032x}@mail.example>",
        "possible_duplicate": number % 5_000 == 0,
        "timings": _timings(total, random_),
        "worker_id": f"bench-worker-{number % len(_WRITERS)}",
        "trace_id": f"{number * 7919:032x}",
    }
    more = {"reason": reason} if reason else {"remote_queue_id": queue}
    return {**record, **more}


def _config(tenant: int) -> dict[str, Any]:
    org, partner = f"org:partner-{tenant // ORGS_OF_A_PARTNER}/org-{tenant}", f"partner:partner-{tenant // 5}"
    scope = (org, org, partner, "controller")[tenant % 4]
    found = {"scope": scope, "name": f"relay-{tenant % 3}", "version": 1 + tenant % 9}
    return {**found, "fingerprint": f"{tenant:016x}", "host": f"smtp{tenant % PROVIDERS}.provider.example", "port": 587}


def _timings(total: float, random_: random.Random) -> dict[str, float]:
    parts = {"queued_ms": random_.lognormvariate(3.0, 1.2), "resolve_ms": 0.1, "render_ms": 0.4, "connect_ms": 0.0}
    return {
        name: round(value, 3) for name, value in {**parts, "transaction_ms": total * 0.8, "total_ms": total}.items()
    }


def _id_of(record: dict[str, Any]) -> str:
    return document_id(
        partner=record["partner"],
        org=record["org"],
        source=record["event_source"],
        event_id=record["event_id"],
        recipient=record["recipient"],
        outcome=Outcome(record["outcome"]),
        attempt=record["attempt"],
    )


def _spelt(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


class Server:
    """One connection to OpenSearch, kept open; raises OSError, and RuntimeError with what it said."""

    def __init__(self, url: str) -> None:
        """Take http://host:port; it connects with the first request."""
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The answer, read."""
        status, said = self.raw(method, path, body)
        if status >= http.HTTPStatus.BAD_REQUEST:
            msg = f"{method} {path}: {status} {said[:300].decode(errors='replace')}"
            raise RuntimeError(msg)
        return orjson.loads(said) if said else None

    def raw(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """The answer's status and bytes."""
        kind = "application/x-ndjson" if "_bulk" in path else "application/json"
        self._connection.request(method, path, body, {"Content-Type": kind})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


async def load(url: str, count: int = RECORDS) -> Loaded:
    """An audit of `count` records, found or made; earlier days' ones of the bench are deleted."""
    end, began = end_of(datetime.now(UTC)), time.monotonic()
    prefix = f"{_PREFIX}{end:%Y%m%d}-{count}"
    months = sorted({f"{end - SPAN + timedelta(days=day):%Y.%m}" for day in range(SPAN.days)})
    server = Server(url)
    try:
        if _count(server, prefix) == count:
            print(f"{prefix}: {count:,} records are there already", flush=True)
            return Loaded(url, prefix, count, end, 0.0, tuple(months))
        await _prepare(server, url, prefix, months)
        _fill(server, url, prefix, documents(count, end), count)
        _settle(server, prefix)
        found = _count(server, prefix)
    finally:
        server.close()
    if found != count:
        msg = f"{found:,} of {count:,} records are in {prefix}-*"
        raise RuntimeError(msg)
    return Loaded(url, prefix, count, end, time.monotonic() - began, tuple(months))


def _count(server: Server, prefix: str) -> int:
    # Without the changes that an API over this audit has recorded, such as the token it was asked with.
    mails = orjson.dumps({"query": {"term": {"type": "email.delivery"}}})
    answer = server.ask("POST", f"/{prefix}-*/_count?ignore_unavailable=true&allow_no_indices=true", mails)
    if answer["_shards"]["failed"]:  # a part of the count would have the whole of it loaded once more
        msg = f"{prefix}: not every index can be counted now: {answer['_shards']}"
        raise RuntimeError(msg)
    return int(answer["count"])


async def _prepare(server: Server, url: str, prefix: str, months: list[str]) -> None:
    server.ask("DELETE", f"/{_PREFIX}*-{prefix.rpartition('-')[2]}-*")
    link = OpenSearchLink(OpenSearchAccess(url))
    try:
        await ensure_template(link, prefix)
    finally:
        await link.close()
    for month in months:
        server.ask("PUT", f"/{prefix}-{month}", orjson.dumps({"settings": _LOADING}))


def _fill(server: Server, url: str, prefix: str, found: Iterator[tuple[str, str, dict[str, Any]]], count: int) -> None:
    """Send bulk after bulk; while one is on its way the next is made."""
    sender, done, told = Server(url), 0, time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        under_way: Future[None] | None = None
        while chunk := list(itertools.islice(found, _CHUNK)):
            body = b"".join(_lines(prefix, *each) for each in chunk)
            if under_way is not None:
                under_way.result()
            under_way, done = thread.submit(_send, sender, body), done + len(chunk)
            if time.monotonic() - told > _PROGRESS_S:
                told = time.monotonic()
                print(f"  {done:,} of {count:,} records", flush=True)
        if under_way is not None:
            under_way.result()
    sender.close()
    server.ask("PUT", f"/{prefix}-*/_settings", orjson.dumps(_SETTLED))


def _lines(prefix: str, month: str, identity: str, document: dict[str, Any]) -> bytes:
    return b'{"index":{"_index":"%b","_id":"%b"}}\n%b\n' % (
        f"{prefix}-{month}".encode(),
        identity.encode(),
        orjson.dumps(document),
    )


def _send(server: Server, body: bytes) -> None:
    path, busy = "/_bulk?filter_path=errors,items.*.error", http.HTTPStatus.TOO_MANY_REQUESTS
    while (found := server.raw("POST", path, body))[0] == busy:
        time.sleep(1)  # it says that its memory is full, and not for how long
    answer = orjson.loads(found[1])
    if answer.get("errors", True):
        msg = f"OpenSearch refused records: {found[1][:300].decode(errors='replace')}"
        raise RuntimeError(msg)


def _settle(server: Server, prefix: str) -> None:
    """Make all searchable, and let merges come to their end: they are no part of what is measured."""
    server.ask("POST", f"/{prefix}-*/_refresh")
    server.ask("POST", f"/{prefix}-*/_flush")
    path = f"/{prefix}-*/_stats/merge?filter_path=_all.total.merges.current"
    while server.ask("GET", path)["_all"]["total"]["merges"]["current"]:
        time.sleep(0.5)  # polling: OpenSearch announces nothing


def main() -> None:
    """Load into the OpenSearch that the environment names, or that is given."""
    import asyncio

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("POSTBOTE_TEST_OPENSEARCH_URL", "http://127.0.0.1:9200"))
    parser.add_argument("--records", type=int, default=RECORDS)
    arguments = parser.parse_args()
    loaded = asyncio.run(load(arguments.url, arguments.records))
    print(f"{loaded.records:,} records in {loaded.prefix}-*, in {loaded.seconds:.0f} s")


if __name__ == "__main__":
    main()
