"""``postbote demo``: Postbote's main job in a few seconds, with nothing installed but Postbote.

A local SMTP server, the worker over its embedded queue and audit, and thirty events; at the end
the audit is held against what was expected and against what the server received.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from schemas.audit_query import MAX_LIMIT, AuditQuery
from schemas.cloudevents import STRUCTURED
from worker.app import EmbeddedApp, embedded_app
from worker.demo.events import DEV, DemoEvent, demo_events, demo_source
from worker.demo.server import demo_records, demo_sink, new_passwords
from worker.demo.table import audit_table, summary
from worker.demo.verdict import End, differences, ends
from worker.embedded.sink import SmtpSink
from worker.logs import configure_logging
from worker.settings import load_settings

# An order of magnitude more than it takes on a slow machine: past this, something is broken.
_PATIENCE_S = 45.0


async def run_demo(directory: Path, console: Console) -> int:
    """Run the demo with its files in `directory`; return 0, or 1 where anything is not as expected.

    May be run again in the same directory: each run's events are new ones.
    """
    # Its story is the table: the worker's own log of the refusals that belong to it stays off.
    configure_logging("error")
    run = secrets.token_hex(4)
    began = time.monotonic()
    # The environment's records are for real servers: the demo reads none of its variables.
    settings = load_settings({}, data_dir=directory, retry_first_wait_s=0.5)
    passwords = new_passwords()
    async with demo_sink(directory, passwords) as sink, embedded_app(settings) as app:
        for record in demo_records(sink, passwords):
            await app.store.put(record)
        await app.store.set_org_feature(DEV, on=True)
        _introduce(console, sink)
        events = demo_events(run, datetime.now(UTC))
        if not await _deliver(app, events, console):
            return 1
        found = await _audit(app, run)
        wrong = differences(events, found, sink.mails)
    _show(console, events, found, time.monotonic() - began)
    return _conclude(console, directory, wrong)


async def _deliver(app: EmbeddedApp, events: Sequence[DemoEvent], console: Console) -> bool:
    """Publish and wait until every event has settled; False where that takes too long."""
    try:
        async with asyncio.timeout(_PATIENCE_S), app.worker():
            await app.queue.idle()  # what an interrupted run left behind goes first
            await _publish(app, events)
            await _follow(app, len(events), console)
    except TimeoutError:
        console.print(f"The events had not settled after {_PATIENCE_S:.0f} s.", style="red")
        return False
    return True


async def _publish(app: EmbeddedApp, events: Sequence[DemoEvent]) -> None:
    for event in events:
        await app.queue.publish(event.body, content_type=STRUCTURED, headers={}, lane=event.lane)


async def _follow(app: EmbeddedApp, total: int, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("events settled", total=total)
        async with contextlib.aclosing(app.queue.watch()) as changes:
            async for counts in changes:
                outstanding = sum(n for name, n in counts.items() if name != "parked")
                progress.update(bar, completed=total - outstanding)
                if not outstanding:
                    return


async def _audit(app: EmbeddedApp, run: str) -> list[End]:
    page = await app.audit.search(AuditQuery(event_source=demo_source(run), limit=MAX_LIMIT))
    return ends(page.records)


def _introduce(console: Console, sink: SmtpSink) -> None:
    console.print(
        f"A local SMTP server listens on localhost:{sink.starttls_port} (STARTTLS) and :{sink.ssl_port} (TLS).\n"
        "Three tenants have a record for it: controller, acme (over TLS), acme/dev. acme/qa has none: acme's serves.",
        highlight=False,
    )


def _show(console: Console, events: Sequence[DemoEvent], found: Sequence[End], seconds: float) -> None:
    kinds = {event.document["id"]: event.document["type"] for event in events}
    console.print(audit_table(found, kinds, console.width))
    console.print(summary(found, len(events), seconds), style="bold", highlight=False)


def _conclude(console: Console, directory: Path, wrong: Sequence[str]) -> int:
    for sentence in wrong:
        console.print(f"Not as expected: {sentence}", style="red", markup=False, highlight=False)
    if wrong:
        return 1
    console.print(
        f"All as expected; the mails are in {directory / 'mails'}. Next:\n"
        "  .venv/bin/postbote run --embedded      the worker and its HTTP API on files, with a local SMTP server\n"
        "  docker compose up                      the same with RabbitMQ and OpenSearch; README.md goes on from there",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0
