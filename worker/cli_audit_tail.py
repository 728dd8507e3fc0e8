"""``postbote audit tail``: the newest records, and with ``-f`` those that come.

A record may become visible after a newer one (another worker's clock, a slower write): each look goes back a
little before the newest record that was shown, and passes over what was shown already.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console

from schemas.audit_filters import Sort
from schemas.audit_query import AuditQuery, parse_time
from worker.cli_audit_asking import Text, ask, filtered, json_line, question
from worker.cli_audit_view import audit_line
from worker.errors import AuditUnavailable, CursorExpired

if TYPE_CHECKING:
    from worker.api.ports import AuditSearch

_OVERLAP = timedelta(seconds=10)
_PAUSE_S = 1.0  # OpenSearch shows what is new once a second


@filtered(times=False)
def tail(
    *,
    filters: dict[str, Text],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with records that come, until Ctrl-C")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Newest records to begin with, 1 to 1,000")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line")] = False,
    embedded: Annotated[bool, typer.Option("--embedded", help="Ask the embedded form's file")] = False,
) -> None:
    """Show the newest records, oldest first, and follow."""
    query = question({**filters, "filter.limit": str(lines)})
    console = Console(soft_wrap=True, highlight=False)

    def show(records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            if json:
                typer.echo(json_line(record))
            else:
                console.print(audit_line(record))

    async def work(search: "AuditSearch") -> None:
        tail = Tail(search, query)
        show(await tail.begin())
        while follow:
            await asyncio.sleep(_PAUSE_S)
            try:
                show(await tail.more())
            except (AuditUnavailable, CursorExpired) as error:
                typer.echo(f"{error}; trying again", err=True)

    try:
        ask(work, embedded=embedded)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@dataclass(slots=True)
class Tail:
    """What has been shown of the answer to `query`, and what comes after it."""

    search: "AuditSearch"
    query: AuditQuery
    _since: datetime = field(default_factory=lambda: datetime.now(UTC) - _OVERLAP)
    _shown: dict[bytes, datetime] = field(default_factory=dict)

    async def begin(self) -> list[dict[str, Any]]:
        """The newest records, oldest of them first. Raises AuditUnavailable."""
        page = await self.search.search(self.query)
        records = page.records[::-1]
        self._remember(records)
        if page.records and page.total > len(page.records):
            # What lies before the first one shown is not new.
            self._since = max(self._since, _time_of(records[0]))
        return records

    async def more(self) -> list[dict[str, Any]]:
        """What has come since, oldest first. Raises AuditUnavailable."""
        from worker.control.audit_walk import Walk

        walk = Walk(self.search, replace(self.query, time_from=self._since, sort=Sort.OLDEST))
        found = [record async for page in walk.pages() for record in page]
        fresh = [record for record in found if _identity(record) not in self._shown]
        self._remember(fresh)
        return fresh

    def _remember(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._shown |= {_identity(record): _time_of(record) for record in records}
        if self._shown:
            newest = min(max(self._shown.values()), datetime.now(UTC))  # a clock that is ahead hides nobody's records
            self._since = max(self._since, newest - _OVERLAP)
        self._shown = {key: at for key, at in self._shown.items() if at >= self._since}


def _identity(record: Mapping[str, Any]) -> bytes:
    return hashlib.blake2b(orjson.dumps(record), digest_size=16).digest()


def _time_of(record: Mapping[str, Any]) -> datetime:
    return parse_time(str(record["@timestamp"]), datetime.now(UTC))
