"""`python -m tests.bench`: bring the servers up, run every contender, write build/bench.{json,md,png}.

Servers run on loopback and are this process's own (or those that the environment names, see
`tests.services`); they end with it. Numbers of one run compare with each other and with no other
machine's, least of all where something else runs beside: the tables say the load average.
"""

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.bench import report, venv
from tests.bench.audit_count import accepted
from tests.bench.audit_load import RECORDS
from tests.bench.audit_reads import Reads
from tests.bench.audit_reads import measure as measure_reads
from tests.bench.ceiling import measure_ceiling
from tests.bench.contenders import (
    AIO_PIKA,
    CONTENDERS,
    POSTBOTE,
    POSTBOTE_1000,
    POSTBOTE_AUDITED,
    Contender,
    Site,
)
from tests.bench.latency import Latency, measure_latency
from tests.bench.measure import ContenderFailed, Result, measure
from tests.bench.profiled import PROFILE_HEADERS, summary
from tests.bench.rtt import RTTS_MS, FarResult, measure_far
from tests.bench.sinks import Sink, TimedSink, listening, postfix_sink, timed_sink
from tests.services import opensearch, rabbitmq, sessions
from tests.services.opensearch import OpenSearchServer
from tests.services.rabbitmq import Broker

LONG = 30_000
READING_HEAP = "2g"
LEGS = ("smtp-sink", "starttls")
PSEUDO = "smtp-source"
TRIAL_BELOW = 1000
OURS = (POSTBOTE, POSTBOTE_AUDITED, POSTBOTE_1000)
TRIAL = (PSEUDO, "postbote", "postbote-audit", "celery-prefork")


@dataclass
class Bench:
    """The servers of one bench run, and what it has measured so far."""

    broker: Broker
    opensearch: OpenSearchServer
    folder: Path
    chosen: frozenset[str]
    results: list[Result] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    far: list[FarResult] = field(default_factory=list)
    reads: Reads | None = None
    profiles: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    profiling: bool = False
    failures: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def compare(self, leg: str, sink: Sink, mails: int) -> None:
        """Every contender over one sink."""
        if sink.ca_file is None and PSEUDO in self.chosen:
            self.results.append(measure_ceiling(sink, leg=leg, mails=mails, run=self._run()))
        for contender in CONTENDERS:
            if contender.key in self.chosen:
                self._measure(contender, leg, sink, mails)

    def _measure(self, contender: Contender, leg: str, sink: Sink, mails: int) -> None:
        run = self._run()
        if self.profiling and contender in OURS:
            contender = contender.profiled(venv.BUILD / f"profile-{leg}-{contender.key}-{mails}.txt")
        say(f"{leg}: {contender.name}, {mails:,} mails")
        with self.site(sink, run) as site:
            try:
                result = measure(contender, site, sink, leg=leg, mails=mails, run=run)
            except (ContenderFailed, subprocess.SubprocessError) as error:
                self.failures.append(str(error))
                return
            if contender.audited:
                result = result.with_audit_of(accepted(site.opensearch_url, site.index_prefix, run))
        self.results.append(result)
        if contender.profile:
            self.profiles[f"{contender.name}, {leg}, {mails:,}"] = list(summary(contender.profile, mails))

    def measure_latencies(self) -> None:
        """Postbote without and with its audit."""
        with timed_sink(self.folder, "latency", tls=False) as sink:
            for contender in (POSTBOTE, POSTBOTE_AUDITED):
                run = self._run()
                say(f"latency: {contender.name}")
                with self.site(sink, run) as site:
                    self.latencies += measure_latency(contender, site, sink, run)

    def measure_distances(self) -> None:
        """Postbote, and a lockstep client beside it, at each distance."""
        with timed_sink(self.folder, "far", tls=False) as sink:
            for rtt_ms, contender in itertools.product(RTTS_MS, (POSTBOTE, AIO_PIKA)):
                say(f"{rtt_ms} ms away: {contender.name}")
                self._measure_far(contender, rtt_ms, sink)

    def measure_reading(self, records: int) -> None:
        """The API beside OpenSearch itself, over an audit of so many records."""
        say(f"reading an audit of {records:,} records")
        amqp_url = self.broker.fresh_vhost()
        try:
            self.reads = measure_reads(self.opensearch.url, amqp_url, self.folder, records=records)
        finally:
            self.broker.drop_vhost(amqp_url)
        self.failures += self.reads.failures

    def _measure_far(self, contender: Contender, rtt_ms: int, sink: TimedSink) -> None:
        run = self._run()
        far = ["--to", str(sink.port), "--rtt-ms", str(rtt_ms)]
        with (
            listening(self.folder / f"{run}-proxy.log", "tests.bench.proxy", *far) as proxy_port,
            self.site(sink, run) as site,
        ):
            distant = replace(site, sink_port=proxy_port, connections=1)
            self.far.append(measure_far(contender, distant, sink, rtt_ms=rtt_ms, run=run))

    @contextmanager
    def site(self, sink: Sink, run: str) -> Iterator[Site]:
        """A virtual host, a folder and an index prefix for one run, deleted after it."""
        folder = self.folder / run
        folder.mkdir()
        amqp_url, prefix = self.broker.fresh_vhost(), f"bench-{sessions.current().folder.name.lower()}-{run}"
        prefix = prefix.replace("_", "-")
        try:
            yield Site.for_sink(sink, amqp_url, folder, opensearch_url=self.opensearch.url, index_prefix=prefix)
        finally:
            self.broker.drop_vhost(amqp_url)
            self.opensearch.delete_indices(f"{prefix}*")

    def _run(self) -> str:
        return f"run{next(self.numbers)}"


def say(what: str) -> None:
    """Tell what is being measured, and when it began."""
    print(f"{time.strftime('%H:%M:%S')} {what} ...", flush=True)


@contextmanager
def servers(chosen: frozenset[str], *, profiling: bool, heap: str) -> Iterator[Bench]:
    """Start RabbitMQ and OpenSearch side by side; both end with this process."""
    say("starting RabbitMQ and OpenSearch")
    session = sessions.current()
    broker, search = rabbitmq.broker(session), opensearch.server(session, heap=heap)
    with ThreadPoolExecutor() as pool:
        for started in [pool.submit(broker.start), pool.submit(search.start)]:
            started.result()
    yield Bench(broker, search, session.subfolder("bench"), chosen, profiling=profiling)


def run(arguments: argparse.Namespace) -> int:
    """Measure what the arguments ask for, and report it."""
    venv.prepare()
    sizes = [arguments.events, *([LONG] if arguments.long else [])]
    heap = READING_HEAP if arguments.audit else opensearch.HEAP
    with servers(frozenset(arguments.only.split(",")), profiling=arguments.profile, heap=heap) as bench:
        with ExitStack() as stack:
            legs: dict[str, Sink] = {}
            if "smtp-sink" in arguments.legs:
                legs["smtp-sink"] = stack.enter_context(postfix_sink())
            if "starttls" in arguments.legs:
                legs["starttls"] = stack.enter_context(timed_sink(bench.folder, "starttls", tls=True))
            for mails, (leg, sink) in itertools.product(sizes, legs.items()):
                bench.compare(leg, sink, mails)
        if arguments.latency:
            bench.measure_latencies()
        if arguments.rtt:
            bench.measure_distances()
        if arguments.audit:
            bench.measure_reading(arguments.audit_records)
        return _report(bench)


def _report(bench: Bench) -> int:
    report.print_results(bench.results)
    if bench.latencies:
        report.print_rows("From publish to 250", Latency.HEADERS, [x.cells() for x in bench.latencies])
    if bench.far:
        report.print_rows("Far servers, one connection", FarResult.HEADERS, [x.cells() for x in bench.far])
    if bench.reads:
        bench.reads.show()
    for of, rows in bench.profiles.items():
        report.print_rows(f"Where the CPU time goes: {of}", PROFILE_HEADERS, rows)
    print(report.machine())
    venv.BUILD.mkdir(exist_ok=True)
    json_file, plot_file = venv.BUILD / "bench.json", venv.BUILD / "bench.png"
    report.write_markdown(venv.BUILD / "bench.md", bench.results, bench.latencies, bench.far)
    if bench.results:
        report.write_json(bench.results, json_file)
        plot = [str(venv.PYTHON), "-m", "tests.bench.plot", str(json_file), str(plot_file), report.machine()]
        subprocess.run(plot, env=venv.environment(MPLCONFIGDIR=str(bench.folder)), check=True, timeout=60)
    for failure in bench.failures:
        print(failure, file=sys.stderr)
    return 1 if bench.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 1 where a contender did not run at all, or reading the audit takes too long."""
    keys = [PSEUDO, *(contender.key for contender in CONTENDERS)]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--events",
        type=int,
        default=3000,
        help=f"events per contender; default: %(default)s; below {TRIAL_BELOW}: fewer contenders, one leg",
    )
    parser.add_argument("--long", action="store_true", help=f"the same again with {LONG:,} events")
    parser.add_argument("--only", help=f"contenders, comma-separated, of {', '.join(keys)}")
    parser.add_argument("--legs", help="smtp-sink, starttls, both (the default), or none for no comparison")
    parser.add_argument("--latency", action="store_true", help="also publish-to-250, idle and at half load")
    parser.add_argument("--profile", action="store_true", help="also where Postbote's CPU time goes, and its stacks")
    parser.add_argument("--rtt", action="store_true", help="also servers that are 10, 50 and 100 ms away")
    parser.add_argument("--audit", action="store_true", help="also reading a large audit; 1 where its aim is missed")
    parser.add_argument("--audit-records", type=int, default=RECORDS, help="how large; default: %(default)s")
    arguments = parser.parse_args(argv)
    # A handful of events is somebody trying the bench out, and is answered within a minute.
    trial = arguments.events < TRIAL_BELOW
    arguments.only = arguments.only or ",".join(TRIAL if trial else keys)
    arguments.legs = arguments.legs or ("smtp-sink" if trial else "both")
    if arguments.legs == "both":
        arguments.legs = ",".join(LEGS)
    unknown = {*arguments.only.split(",")} - {*keys} | {*arguments.legs.split(",")} - {*LEGS, "none"}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
