"""How ``postbote audit`` shows records on a terminal.

What servers replied and what people typed is untrusted text: nothing of it is read as markup or sent
to the terminal as a control sequence.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from schemas.audit import Outcome

_SHOWN_DIGITS = 12  # of a recipient's hash

COLOURS = {
    Outcome.ACCEPTED: "green",
    Outcome.DEFERRED: "yellow",
    Outcome.THROTTLED: "yellow",
    Outcome.IN_DOUBT: "bold yellow",
    Outcome.SUPPRESSED: "dim",
    Outcome.REFUSED: "red",
    Outcome.EXPIRED: "red",
    Outcome.UNCONFIGURED: "red",
    Outcome.CONFIG_FAULT: "bold red",
    Outcome.INVALID: "red",
    Outcome.EXHAUSTED: "red",
    Outcome.PARKED: "red",
}
"""How an outcome is shown; every outcome has its colour."""


def audit_table(records: Iterable[dict[str, Any]]) -> Table:
    """Show records (documents as the audit answers them) as a table, times in UTC; changes stand among the mails."""
    table = Table("when", "outcome", "recipient", "via", "TLS", "attempt", "reply")
    for column in table.columns:
        column.overflow = "fold"
    for record in records:
        table.add_row(*(_change(record) if "actor" in record else _delivery(record)))
    return table


def audit_line(record: Mapping[str, Any]) -> Text:
    """Show a record as one line, for an answer that has no end."""
    cells = _change(record) if "actor" in record else _delivery(record)
    widths = (20, 12, 30, 24)
    line = Text()
    for position, cell in enumerate(cells[index] for index in (0, 1, 2, 3, 6)):
        padded = cell.copy()
        padded.pad_right(max(0, (*widths, 0)[position] - len(cell)))
        line.append(padded).append("  ")
    line.rstrip()
    return line


def _delivery(record: Mapping[str, Any]) -> tuple[Text, ...]:
    return (
        plain(_when(record)),
        _outcome(record),
        plain(addressee(record.get("recipient"), record.get("recipient_hash"))),
        plain(via(record.get("config"))),
        plain(tls_words(record.get("tls"))),
        plain(str(record.get("attempt", ""))),
        plain(reply_words(record)),
    )


def _change(record: Mapping[str, Any]) -> tuple[Text, ...]:
    """A change in the same columns: what was done, to what, in which scope; and at the end what and by whom."""
    kind = str(record.get("type", "")).removesuffix(".changed")
    cells = (_when(record), f"{kind} {record.get('action', '')}", record.get("subject") or "-", _owner(record), "-", "")
    return (*(plain(str(cell)) for cell in cells), plain(_changed(record)))


def _owner(record: Mapping[str, Any]) -> str:
    partner, org = record.get("partner"), record.get("org")
    if partner is None:
        return "controller"
    return f"partner:{partner}" if org is None else f"org:{partner}/{org}"


def _changed(record: Mapping[str, Any]) -> str:
    actor = record.get("actor") or {}
    version, changed = record.get("version"), record.get("changed") or ()
    origin = f" from {actor['origin']}" if actor.get("origin") else ""
    said = [
        "" if version is None else f"version {version}",
        ", ".join(map(str, changed)),
        f"by {actor.get('kind', '')} {actor.get('name', '')} of {actor.get('scope', '')}{origin}",
    ]
    return "; ".join(each for each in said if each)


def plain(text: str) -> Text:
    """The text without markup, and without what a terminal would obey."""
    return Text("".join(c if c.isprintable() else "�" for c in text.replace("\n", " ")))


def _when(record: Mapping[str, Any]) -> str:
    text = str(record.get("@timestamp", ""))
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except ValueError:
        return text


def _outcome(record: Mapping[str, Any]) -> Text:
    name = str(record.get("outcome", ""))
    shown = plain(f"{name} (maybe twice)" if record.get("possible_duplicate") else name)
    if name in COLOURS:  # an outcome of a newer version has none yet
        shown.stylize(COLOURS[Outcome(name)])
    return shown


def addressee(recipient: str | None, keyed_hash: str | None) -> str:
    """Whom it was for: the address as it is kept, or the beginning of its hash."""
    return recipient or (f"#{keyed_hash[:_SHOWN_DIGITS]}" if keyed_hash else "-")


def via(config: Mapping[str, Any] | None) -> str:
    """Which SMTP record a mail went by."""
    return "-" if config is None else f"{config.get('scope')}/{config.get('name')}"


def tls_words(tls: Mapping[str, Any] | None) -> str:
    """How the connection was protected."""
    if tls is None:
        return "none"
    return f"{tls.get('version')}{'' if tls.get('verified') else ' (unverified)'}"


def reply_words(record: Mapping[str, Any]) -> str:
    """The server's code and words, or the reason where it said nothing."""
    reply = record.get("reply") or {}
    text, enhanced = str(reply.get("text") or ""), str(reply.get("enhanced") or "")
    said_already = text.startswith(enhanced)  # the text is the server's own and mostly begins with the code
    words = [str(reply.get("code") or ""), "" if said_already else enhanced, text]
    return " ".join(word for word in words if word) or str(record.get("reason") or "")
