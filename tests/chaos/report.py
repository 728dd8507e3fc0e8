"""The table, build/chaos.json, and the stories of what went wrong."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.driver import Result

BUILD = Path(__file__).resolve().parents[2] / "build"
_COLUMNS = {
    "scenario": "scenario",
    "published": "published",
    "lost": "lost",
    "duplicated": "duplicated",
    "unflagged_duplicates": "duplicated without\npossible_duplicate",
    "lost_final_reply_window": "final reply\nlost",
    "oldest_unread_ms": "oldest\nms",
    "read_but_not_noted": "read, not\nnoted",
    "oldest_not_noted_ms": "oldest\nms",
    "duplicated_after_repeated_publish": "published\nagain",
    "accepted_not_received": "accepted, not\nreceived",
    "received_not_accepted": "received, not\naccepted",
    "parked": "parked",
    "queued": "queued",
    "drain_s": "seconds to\ndrain",
    "kills": "kills",
}


def print_table(results: Sequence[Result]) -> None:
    """One row for each scenario; red ones are marked with a word, too."""
    table = Table(title="Chaos: pairs of event and recipient, unless said otherwise")
    for heading in (*_COLUMNS.values(), ""):
        table.add_column(heading, justify="left" if heading == "scenario" else "right")
    for result in results:
        row = result.to_json()
        style = "red" if result.red else None
        table.add_row(*(str(row[name]) for name in _COLUMNS), "RED" if result.red else "ok", style=style)
    console = Console(width=220)
    console.print(table)
    kills = sum(result.worker_kills for result in results)
    duplicated = sum(len(result.verdict.duplicated) for result in results)
    rate = 1000 * duplicated / kills if kills else 0.0
    windows = sum(len(result.verdict.lost_replies) for result in results)
    unnoted = sum(len(result.verdict.not_noted) for result in results)
    console.print(f"{rate:.1f} duplicates per 1,000 kills of a worker ({duplicated} after {kills}).")
    console.print(f"{windows} second copies where the final reply was lost: withheld, unsent or unread in the socket.")
    console.print(f"{unnoted} second copies whose final reply was read in the moment of the kill.")


def write_json(results: Sequence[Result], file: Path) -> None:
    """A list, one object for each scenario."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([result.to_json() for result in results], indent=1) + "\n")


def write_stories(results: Sequence[Result], folder: Path) -> None:
    """One file for each red scenario; those of earlier runs go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.txt"):
        old.unlink()
    for result in results:
        if result.stories:
            (folder / f"{result.scenario}.txt").write_text("\n\n".join(result.stories) + "\n")
