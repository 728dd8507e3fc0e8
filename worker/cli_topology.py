"""``postbote topology``: set up RabbitMQ's exchanges and queues, check them, and look at them.

Standard output carries the answer. Exit codes: 0 all is there, 1 something is missing, differs or
RabbitMQ is away, 2 a wrong argument or setting. Counts come over AMQP: no management plugin is needed.
"""

import asyncio
import json as jsonlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from worker.delivery.ports import Lane, Tier
from worker.rabbit import topology
from worker.rabbit.connection import Link, open_link
from worker.rabbit.declaring import Seen, check, declare, look
from worker.settings import load_settings

T = TypeVar("T")

INCOMPLETE = 1
_PIPE_WIDTH = 200  # columns of a drawing that no terminal limits
_STREAMS = frozenset(stream.name for stream in topology.STREAMS)

topology_app = typer.Typer(help="RabbitMQ's exchanges and queues.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document")]


@topology_app.callback()
def topology_commands() -> None:
    """RabbitMQ's exchanges and queues."""


@topology_app.command("declare")
def declare_all(*, json: Json = False) -> None:
    """Make what is missing; what exists with other arguments is an error that says what to do."""

    async def look_and_declare(link: Link) -> tuple[Seen, ...]:
        before = await look(link)
        await declare(link)
        return before

    before = _with_link(look_and_declare)
    made = [seen.name for seen in before if not seen.exists]
    there = [seen.name for seen in before if seen.exists]
    if json:
        typer.echo(jsonlib.dumps({"made": made, "there": there}, indent=2))
        return
    for seen in before:
        typer.echo(f"{'was there' if seen.exists else 'made     '}  {seen.name}")
    typer.echo(f"{len(made)} made, {len(there)} were there with the right arguments")


@topology_app.command("check")
def check_all() -> None:
    """Check that everything exists with the right arguments; nothing is made."""
    _with_link(check)
    typer.echo("everything is there, with the right arguments")


@topology_app.command("show")
def show(*, json: Json = False) -> None:
    """Draw the topology, with the messages that wait and the consumers of each queue."""
    found = _with_link(look)
    if json:
        typer.echo(jsonlib.dumps(document_of(found), indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False).print(tree_of(found))
    missing = sum(not seen.exists for seen in found)
    if missing:
        typer.echo(f"{missing} missing: run `postbote topology declare`", err=True)
        raise typer.Exit(INCOMPLETE)


def document_of(found: Sequence[Seen]) -> dict[str, Any]:
    """The topology for programs: whether it is complete, exchanges, and queues with their counts.

    A stream's `messages` is null: RabbitMQ does not count them for AMQP.
    """
    exchanges = {exchange.name for exchange in topology.EXCHANGES}
    return {
        "complete": all(seen.exists for seen in found),
        "exchanges": [{"name": seen.name, "exists": seen.exists} for seen in found if seen.name in exchanges],
        "queues": [_queue_document(seen) for seen in found if seen.name not in exchanges],
    }


def _queue_document(seen: Seen) -> dict[str, Any]:
    stream = seen.name in _STREAMS
    return {
        "name": seen.name,
        "type": "stream" if stream else "quorum",
        "exists": seen.exists,
        "messages": None if stream else seen.messages,
        "consumers": seen.consumers,
    }


def tree_of(found: Sequence[Seen]) -> Tree:
    """The topology for people: an event's way from the exchange to where it can be."""
    by_name = {seen.name: seen for seen in found}
    root = Tree("RabbitMQ", guide_style="dim")
    events = root.add(_line(by_name, topology.EVENTS_EXCHANGE, "where events are published"))
    for lane in Lane:
        _add_lane(events.add(_line(by_name, topology.lane_queue(lane), f"email.{lane.value}.#")), by_name, lane)
    unrouted = events.add(_line(by_name, topology.UNROUTED_EXCHANGE, "no binding matches"))
    unrouted.add(_line(by_name, topology.PARKED_QUEUE, "set aside for an operator, from the lanes, too"))
    root.add(_line(by_name, topology.AUDIT_OUTBOX_QUEUE, "audit records until OpenSearch takes them"))
    root.add(_line(by_name, topology.CONFIG_STREAM, "changes of SMTP records"))
    root.add(_line(by_name, topology.BREAKERS_STREAM, "records that have just failed"))
    return root


def _add_lane(branch: Tree, by_name: Mapping[str, Seen], lane: Lane) -> None:
    for tier in Tier:
        branch.add(_line(by_name, topology.retry_queue(lane, tier), f"rests up to {tier.label}, then comes back"))


def _line(by_name: Mapping[str, Seen], name: str, note: str) -> Text:
    seen = by_name[name]
    words = Text.assemble((name, "bold"), "  ")
    if not seen.exists:
        words.append("MISSING", "bold red")
    elif name in _STREAMS:
        words.append(f"stream, {_many(seen.consumers, 'reader')}")
    elif name in {exchange.name for exchange in topology.EXCHANGES}:
        words.append("exchange")
    else:
        words.append(f"{seen.messages} waiting, {_many(seen.consumers, 'consumer')}")
    return words.append(f"  {note}", "dim")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _with_link(work: Callable[[Link], Awaitable[T]]) -> T:
    url = load_settings().amqp_url

    async def connected() -> T:
        link = await open_link(url, "postbote topology")
        try:
            return await work(link)
        finally:
            await link.close()

    return asyncio.run(connected())
