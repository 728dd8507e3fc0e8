"""Reading the audit of a million records: the API beside bare requests of the same questions to OpenSearch.

`python -m tests.bench --audit`, or this module for the reads alone. The API is a process of its own, as users
run it, asked with a token. Each question is asked in turns, of the API and of OpenSearch itself as somebody would
write it by hand, by one client that keeps its connections; who comes first changes with every turn, since the
second finds OpenSearch's memory warm. Then the documented question once more by real `curl`. Aim: the API's p95
is at most 1.3 times the bare one's and 5 ms. At the end all records are exported, and the API's memory is watched.
"""

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography.fernet import Fernet

from schemas.audit_query import AuditQuery, Continuation, parse_audit_request
from schemas.audit_stats import parse_stats_query
from schemas.smtp_config import Scope
from tests.bench import report, venv
from tests.bench.audit_load import RECIPIENTS, RECORDS, SPAN, Loaded, Server, load, recipient_of
from tests.support.process import Postbote, run_postbote
from worker.api.audit_cursors import Cursors
from worker.audit.cursors import KEEP_ALIVE
from worker.audit.search import OpenSearchSearch
from worker.audit.search_body import filters_of
from worker.audit.stats import stats_body
from worker.control.principals import Kind, Principal, Role

TURNS, WARM_UP = 100, 10
FACTOR, EXTRA_MS = 1.3, 5.0
DEPTH = 500_000
PAGE = 100
_TOO_MANY = 429
_CONTROLLER = Principal(Kind.TOKEN, "bench", "bench", Scope(), Role.VIEWER)
_DOCUMENTED = "&filter.timefrom=now-1h&filter.offset=0&filter.limit=10&filter.category=SYSTEMAUDIT"


@dataclass(frozen=True)
class Question:
    """One question by its number: the path that the API is asked, and path and body for OpenSearch itself."""

    name: str
    asked: Callable[[int], str]
    bare: Callable[[int], tuple[str, bytes]]


@dataclass(frozen=True)
class Measured:
    """Milliseconds of `turns` turns each, by the API and bare."""

    name: str
    turns: int
    api_p50: float
    api_p95: float
    bare_p50: float
    bare_p95: float

    @property
    def bound(self) -> float:
        """What the API's p95 may be."""
        return FACTOR * self.bare_p95 + EXTRA_MS

    @property
    def reached(self) -> bool:
        """Whether the aim is."""
        return self.api_p95 <= self.bound

    def cells(self) -> tuple[str, ...]:
        """A row."""
        times = (f"{each:.1f}" for each in (self.api_p50, self.bare_p50, self.api_p95, self.bare_p95, self.bound))
        return (self.name, *times, "yes" if self.reached else "NO")


@dataclass(frozen=True)
class Exported:
    """One export of everything; MiB of the API's resident memory before it and at its highest."""

    form: str
    records: int
    seconds: float
    mib: float
    rss_before: float
    rss_peak: float

    def cells(self) -> tuple[str, ...]:
        """A row."""
        counts = (f"{self.records:,}", f"{self.seconds:.0f}", f"{self.records / self.seconds:,.0f}", f"{self.mib:,.0f}")
        return (self.form, *counts, f"{self.rss_before:.0f}", f"{self.rss_peak:.0f}")


HEADERS = ("", "API p50 ms", "bare p50 ms", "API p95 ms", "bare p95 ms", "may be ms", "reached")
EXPORT_HEADERS = ("export", "records", "s", "records/s", "MiB", "RSS before MiB", "RSS peak MiB")


@dataclass
class Reads:
    """What was measured."""

    loaded: Loaded
    measured: list[Measured] = field(default_factory=list)
    exported: list[Exported] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"Reading an audit of {self.loaded.records:,} records, {TURNS} turns each"

    def write(self, file: Path) -> None:
        """All as JSON."""
        found = {"records": self.loaded.records, "machine": report.machine(), "aim": f"{FACTOR} x bare + {EXTRA_MS} ms"}
        found |= {"measured": [asdict(each) | {"reached": each.reached} for each in self.measured]}
        found |= {"exported": [asdict(each) for each in self.exported], "failures": self.failures}
        file.write_text(json.dumps(found, indent=2) + "\n")

    def show(self) -> None:
        """The tables."""
        report.print_rows(self.title, HEADERS, [each.cells() for each in self.measured])
        report.print_rows("Exports", EXPORT_HEADERS, [each.cells() for each in self.exported])


def judge(reads: Reads) -> None:
    """Say what is not as it should be."""
    missed = [each for each in reads.measured if not each.reached]
    reads.failures += [f"{each.name}: p95 is {each.api_p95:.1f} ms, and may be {each.bound:.1f} ms" for each in missed]
    short = [each for each in reads.exported if each.records != reads.loaded.records]
    reads.failures += [f"{each.form} has {each.records} of {reads.loaded.records} records" for each in short]


@dataclass
class Api:
    """A running API and how to ask it."""

    process: Postbote
    token: str
    key: bytes

    @property
    def headers(self) -> dict[str, str]:
        """Who asks."""
        return {"Authorization": f"Bearer {self.token}"}

    def connection(self) -> http.client.HTTPConnection:
        """A new connection."""
        parts = urlsplit(self.process.base_url)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)

    def resident_mib(self, label: str = "VmRSS:") -> float:
        """Its resident memory now; ``VmHWM:`` at its highest."""
        lines = Path(f"/proc/{self.process.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(label)) / 1024

    def forget_peak(self) -> None:
        """Let the highest be what it is now (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.process.pid}/clear_refs").write_text("5")


@contextmanager
def api(loaded: Loaded, amqp_url: str, folder: Path) -> Iterator[Api]:
    """Run ``postbote api`` over a loaded audit, with the controller's token."""
    key = Fernet.generate_key()
    environment = {
        "POSTBOTE_OPENSEARCH_URL": loaded.url,
        "POSTBOTE_AUDIT_INDEX_PREFIX": loaded.prefix,
        "POSTBOTE_AMQP_URL": amqp_url,
        "POSTBOTE_DATABASE_URL": f"sqlite:///{folder / 'reads.db'}",
        "POSTBOTE_SECRET_KEYS": key.decode(),
        "POSTBOTE_LOG_LEVEL": "info",
    }
    _run("init", "--email", "bench@example.com", "--password-stdin", env=environment, stdin="read-4-the-bench\n")
    who = ("--scope", "controller", "--role", "viewer", "--expires", "1d", "--name", "bench")
    token = _run("token", "create", *who, env=environment).strip()
    with Postbote("api", env=environment) as process:
        yield Api(process, token, key)


def _run(*arguments: str, env: dict[str, str], stdin: str | None = None) -> str:
    done = run_postbote(*arguments, env=env, stdin=stdin)
    if done.returncode:
        msg = f"postbote {arguments[0]} failed: {done.stderr}"
        raise RuntimeError(msg)
    return done.stdout


def questions(loaded: Loaded, key: bytes, deep: Continuation) -> list[Question]:
    """The four of the aim."""
    return [_documented(loaded), _recipient(loaded), _cursor(loaded, key, deep), _stats(loaded)]


def _pairs(text: str) -> list[tuple[str, str]]:
    return [tuple(pair.split("=", 1)) for pair in text.split("&") if pair]  # type: ignore[misc]


def _searched(loaded: Loaded, text: str, prefix: str) -> tuple[str, bytes]:
    query = parse_audit_request(_pairs(text), datetime.now(UTC), prefix=prefix).query
    found = {**_filtered(query), "from": query.offset, "size": query.limit, "track_total_hits": True}
    return f"/{loaded.prefix}-*/_search", json.dumps(found).encode()


def _filtered(query: AuditQuery) -> dict[str, Any]:
    """As somebody would write it by hand: the filters, newest first."""
    return {"query": {"bool": {"filter": filters_of(query)}}, "sort": [{"@timestamp": "desc"}]}


def _documented(loaded: Loaded) -> Question:
    return Question(
        "documented query",
        lambda _: f"/event/v1/auditlog?{_DOCUMENTED}",
        lambda _: _searched(loaded, _DOCUMENTED, "filter."),
    )


def _recipient(loaded: Loaded) -> Question:
    def of(number: int) -> str:
        return f"recipient={recipient_of(number * 7919 % RECIPIENTS)}&limit=10"

    return Question("recipient search", lambda n: f"/opsauditlogs/?{of(n)}", lambda n: _searched(loaded, of(n), ""))


def _cursor(loaded: Loaded, key: bytes, deep: Continuation) -> Question:
    asked = parse_audit_request([("limit", str(PAGE))], datetime.now(UTC), prefix="")
    behind = {"search_after": list(deep.position[:1]), "pit": {"id": deep.snapshot, "keep_alive": KEEP_ALIVE}}
    body = json.dumps({**_filtered(asked.query), **behind, "size": PAGE, "track_total_hits": False}).encode()

    def path(_: int) -> str:
        token = Cursors(key).seal(deep, asked, _CONTROLLER)
        return f"/opsauditlogs/?limit={PAGE}&cursor={quote(token)}"

    return Question(f"cursor page of {PAGE} at depth {deep_of(loaded):,}", path, lambda _: ("/_search", body))


def _stats(loaded: Loaded) -> Question:
    text = "timefrom=now-7d&interval=1d"

    def bare(_: int) -> tuple[str, bytes]:
        query = parse_stats_query(_pairs(text), datetime.now(UTC))
        return f"/{loaded.prefix}-*/_search", json.dumps(stats_body(query)).encode()

    return Question("stats over a week", lambda _: f"/v1/stats?{text}", bare)


def deep_of(loaded: Loaded) -> int:
    """How deep the cursor is: `DEPTH`, or half of what there is."""
    return min(DEPTH, loaded.records // 2)


async def walked(loaded: Loaded) -> Continuation:
    """Go by cursor to the depth, and give the place."""
    search = OpenSearchSearch(loaded.url, index_prefix=loaded.prefix)
    try:
        after: Continuation | None = None
        for _ in range(deep_of(loaded) // 1000):
            after = (await search.search(AuditQuery(limit=1000, after=after))).next
    finally:
        await search.close()
    if after is None:
        msg = "the audit ended before the depth"
        raise RuntimeError(msg)
    return after


def in_turns(question: Question, of: Api, loaded: Loaded) -> Measured:
    """Ask both, one after the other, `TURNS` times each after the warm-up."""
    took: dict[str, list[float]] = {"api": [], "bare": []}
    with closing(of.connection()) as connection, closing(Server(loaded.url)) as server:
        both = {
            "api": lambda n: _ask_api(connection, question.asked(n), of.headers),
            "bare": lambda n: _ask_bare(server, *question.bare(n)),
        }
        for turn in range(WARM_UP + TURNS):
            answers: dict[str, Any] = {}
            for who in ("api", "bare") if turn % 2 else ("bare", "api"):
                milliseconds, answers[who] = both[who](turn)
                if turn >= WARM_UP:
                    took[who].append(milliseconds)
            _same(question, answers["api"], answers["bare"])
    return _measured(question.name, took)


def _ask_api(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> tuple[float, Any]:
    while True:
        began = time.perf_counter()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
        except ConnectionError:  # kept open for longer than the server keeps it: every client asks again
            connection.close()
            continue
        said = answer.read()
        milliseconds = (time.perf_counter() - began) * 1000
        if answer.status == http.HTTPStatus.OK:
            return milliseconds, json.loads(said)
        if answer.status != _TOO_MANY:
            msg = f"{path[:80]}: {answer.status} {said[:300].decode(errors='replace')}"
            raise RuntimeError(msg)
        time.sleep(int(answer.headers["Retry-After"]))  # it is asked to wait


def _ask_bare(server: Server, path: str, body: bytes) -> tuple[float, Any]:
    began = time.perf_counter()
    status, said = server.raw("POST", path, body)
    milliseconds = (time.perf_counter() - began) * 1000
    if status != http.HTTPStatus.OK:
        msg = f"{path}: {status} {said[:300].decode(errors='replace')}"
        raise RuntimeError(msg)
    return milliseconds, json.loads(said)


def _same(question: Question, told: Any, bare: Any) -> None:
    """Both must have answered the same question; a moment passes between two nows."""
    hits = [hit["_source"].get("event_id") for hit in bare["hits"]["hits"]]
    records = [record.get("event_id") for record in told.get("records", ())]
    if records != hits[: len(records)] or (hits and not records):
        msg = f"{question.name}: the API and OpenSearch answer with other records"
        raise RuntimeError(msg)


def _measured(name: str, took: dict[str, list[float]]) -> Measured:
    found = {who: (percentile(values, 50), percentile(values, 95)) for who, values in took.items()}
    return Measured(name, len(took["api"]), *found["api"], *found["bare"])


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of the values don't exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def by_curl(of: Api, loaded: Loaded) -> Measured:
    """The documented question by real curl processes, in turns; curl's own time from its start to the last byte."""
    took: dict[str, list[float]] = {"api": [], "bare": []}
    url = f"{of.process.base_url}/event/v1/auditlog?{_DOCUMENTED}"
    for turn in range(WARM_UP + TURNS):
        path, body = _searched(loaded, _DOCUMENTED, "filter.")
        bare = ["-H", "Content-Type: application/json", "-d", body.decode(), f"{loaded.url}{path}"]
        both = {"api": ["-H", f"Authorization: Bearer {of.token}", url], "bare": bare}
        for who in ("api", "bare") if turn % 2 else ("bare", "api"):
            seconds = _curl(both[who])
            if turn >= WARM_UP:
                took[who].append(seconds * 1000)
    return _measured("documented query by curl", took)


def _curl(arguments: list[str]) -> float:
    command = ["curl", "-sS", "--fail", "--noproxy", "*", "-o", "/dev/null", "-w", "%{time_total}", *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def export(form: str, of: Api, loaded: Loaded) -> Exported:
    """Export everything, and keep nothing of it."""
    since = (loaded.end - SPAN).isoformat().replace("+00:00", "Z")
    of.forget_peak()
    before, began, size, lines = of.resident_mib(), time.monotonic(), 0, 0
    with closing(of.connection()) as connection:
        connection.request(
            "GET", f"/opsauditlogs/?timefrom={since}&type=email.delivery&format={form}", headers=of.headers
        )
        answer = connection.getresponse()
        while chunk := answer.read(1 << 16):
            size, lines = size + len(chunk), lines + chunk.count(b"\n")
    seconds = time.monotonic() - began
    records = lines - (form == "csv")
    return Exported(form, records, seconds, size / 2**20, before, of.resident_mib("VmHWM:"))


def measure(url: str, amqp_url: str, folder: Path, *, records: int = RECORDS, exports: bool = True) -> Reads:
    """Load, ask, export; `folder` is for the API's database. The results are written and judged."""
    loaded = asyncio.run(load(url, records))
    reads = Reads(loaded)
    with api(loaded, amqp_url, folder) as running:
        for number in range(4):
            # The place of the cursor is good for five minutes: it is walked to right before it is asked for.
            deep = asyncio.run(walked(loaded)) if number == _AT_CURSOR else Continuation(())
            reads.measured.append(in_turns(questions(loaded, running.key, deep)[number], running, loaded))
            print("  ", *reads.measured[-1].cells(), flush=True)
        reads.measured.append(by_curl(running, loaded))
        reads.exported += [export(form, running, loaded) for form in ("csv", "ndjson") if exports]
    judge(reads)
    venv.BUILD.mkdir(exist_ok=True)
    reads.write(venv.BUILD / "audit-reads.json")
    return reads


_AT_CURSOR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """The reads alone, over the OpenSearch that the environment names or one of their own; 1 where an aim is missed."""
    import tempfile

    from tests.services import opensearch, rabbitmq

    parser = argparse.ArgumentParser(prog="python -m tests.bench.audit_reads", description=__doc__)
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--no-exports", action="store_true")
    arguments = parser.parse_args(argv)
    search, broker = opensearch.server(heap="2g"), rabbitmq.broker()
    search.start()
    broker.start()
    with tempfile.TemporaryDirectory() as folder:
        reads = measure(
            search.url, broker.fresh_vhost(), Path(folder), records=arguments.records, exports=not arguments.no_exports
        )
    reads.show()
    print(report.machine())
    for failure in reads.failures:
        print(failure, file=sys.stderr)
    return 1 if reads.failures else 0


if __name__ == "__main__":
    sys.exit(main())
