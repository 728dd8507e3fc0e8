"""The demo's answer to "was it sent?": the audit as a table, for a terminal of any width."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from schemas.audit import Outcome
from schemas.smtp_config import Scope
from worker.demo.verdict import End

_STYLES = {Outcome.ACCEPTED: "green", Outcome.REFUSED: "red", Outcome.INVALID: "yellow"}
_MAX_WORDS_CHARS = 120
_COLUMNS = ("Event", "Tenant", "Recipient", "Outcome", "Through", "TLS", "Tries", "Server's reply, or the reason")
_WIDE_ENOUGH_FOR_ALL = 110


def audit_table(found: Sequence[End], kinds: Mapping[str, str], width: int) -> Table:
    """One line a recipient, in at most `width` columns where that can be.

    `kinds` maps event ids to their types: an event that could not be read may not tell its own.
    """
    first = 0 if width >= _WIDE_ENOUGH_FOR_ALL else 1  # a narrow terminal does without the event's type
    rows = [_row(end, kinds.get(end.event_id, ""))[first:] for end in found]
    table = Table(title="SYSTEMAUDIT: what became of every recipient", box=box.SIMPLE_HEAD, padding=0)
    left = width - 2
    for number, name in enumerate(_COLUMNS[first:-1]):
        natural = max(len(name), *(row[number].cell_len for row in rows))
        left -= natural + 1
        table.add_column(name, no_wrap=True, width=natural)
    # Only the last column gives way: whoever reads this came for the outcomes.
    table.add_column(_COLUMNS[-1], no_wrap=True, overflow="ellipsis", width=max(left - 1, 3))
    for row in rows:
        table.add_row(*row)
    return table


def summary(found: Sequence[End], events: int, seconds: float) -> str:
    """One line of counts."""
    counts = Counter(end.outcome for end in found)
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    recipients = sum(end.recipient is not None for end in found)
    retried = sum(end.attempts > 1 for end in found)
    return f"{events} events, {recipients} recipients in {seconds:.1f} s: {told}; {retried} after retries"


def _row(end: End, kind: str) -> list[Text]:
    # Text, never markup: the words of a server or of an event are shown as they are.
    record = end.record
    tls = record.get("tls", {})
    cells = [
        kind.removesuffix(".v1"),
        _tenant(record.get("partner"), record.get("org")),
        end.recipient or "-",
        end.outcome.value,
        _tenant(end.via.partner, end.via.org) if end.via is not None else "-",
        f"{tls['version']}{'' if tls['verified'] else ' unverified'}" if tls else "-",
        str(end.attempts),
        _words(end),
    ]
    return [Text(cell, style=_STYLES.get(end.outcome, "") if n == 3 else "") for n, cell in enumerate(cells)]  # noqa: PLR2004 - the outcome's column


def _tenant(partner: str | None, org: str | None) -> str:
    match Scope(partner, org):
        case Scope(None, None):
            return "controller"
        case Scope(_, None):
            return str(partner)
        case _:
            return f"{partner}/{org}"


def _words(end: End) -> str:
    reply = end.record.get("reply", {})
    if reply.get("code") is None:
        return str(end.record.get("reason", ""))[:_MAX_WORDS_CHARS]
    return f"{reply['code']} {reply.get('text', '')}"[:_MAX_WORDS_CHARS]
