"""The tables: on the terminal, as Markdown, and as JSON for the plot and for whoever comes after."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.contenders import CELERY
from tests.bench.latency import Latency
from tests.bench.measure import Result
from tests.bench.rtt import FarResult

HEADERS = (
    "",
    "mails",
    "mails/s",
    "CPU-s per 1,000",
    "CPU: × less than Celery prefork",
    "peak RSS MiB",
    "PSS MiB",
    "errors",
)
LEGS = {
    "smtp-sink": "Plain SMTP to Postfix's smtp-sink",
    "starttls": "STARTTLS, certificate verified, to tests/bench/sink.py",
}


def machine() -> str:
    """What it ran on; the load says whether anybody else did."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load average {load:.1f}"


def groups(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """The results by leg and number of mails, each group under its title."""
    keys = list(dict.fromkeys((result.leg, result.mails) for result in results))
    return [
        (f"{LEGS[leg]}, {mails:,} events of 2 KB", [r for r in results if (r.leg, r.mails) == (leg, mails)])
        for leg, mails in keys
    ]


def print_results(results: Sequence[Result]) -> None:
    """One table per group."""
    console = Console(width=150)
    for title, members in groups(results):
        table = Table(*HEADERS, title=title)
        for result in members:
            table.add_row(*_cells(result, members), style="red" if result.errors else None)
        console.print(table)


def write_json(results: Sequence[Result], file: Path) -> None:
    """The list of results."""
    file.write_text(json.dumps([result.to_json() for result in results], indent=2) + "\n")


def write_markdown(
    file: Path, results: Sequence[Result], latencies: Sequence[Latency], far: Sequence[FarResult]
) -> None:
    """All tables that this run made."""
    parts = [f"Measured on {machine()}.\n"]
    for title, members in groups(results):
        rows = [_cells(result, members) for result in members]
        parts.append(f"### {title}\n\n{_markdown(HEADERS, rows)}")
    if latencies:
        parts.append(f"### From publish to 250\n\n{_markdown(Latency.HEADERS, [x.cells() for x in latencies])}")
    if far:
        parts.append(f"### Far servers, one connection\n\n{_markdown(FarResult.HEADERS, [x.cells() for x in far])}")
    file.write_text("\n".join(parts))


def print_rows(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table."""
    table = Table(*headers, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


def _cells(result: Result, group: Sequence[Result]) -> tuple[str, ...]:
    celery = next((r.cpu_s_per_1000 for r in group if r.name == CELERY.name), None)
    ratio = f"{celery / result.cpu_s_per_1000:.1f}" if celery and result.cpu_s_per_1000 else "–"
    memory = (f"{result.peak_rss_mib:.0f}", f"{result.pss_mib:.0f}") if result.peak_rss_mib else ("–", "–")
    faults = {"lost": result.lost, "twice": result.duplicates, "unaudited": result.unaudited or 0}
    errors = ", ".join(f"{count} {what}" for what, count in faults.items() if count) or "0"
    rate, cpu = f"{result.mails_per_s:,.0f}", f"{result.cpu_s_per_1000:.3f}"
    return (result.name, f"{result.mails:,}", rate, cpu, ratio, *memory, errors)


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (headers, rule, *rows))
