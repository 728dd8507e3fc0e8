"""What the audit says became of each recipient, held against what was expected. Pure functions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from typing import Any

from schemas.audit import Outcome
from schemas.smtp_config import Scope
from worker.demo.events import DemoEvent, Expected
from worker.embedded.sink import ReceivedMail

Record = Mapping[str, Any]
"""One audit document, as `AuditPage.records` holds it."""


@dataclass(frozen=True, slots=True)
class End:
    """The last word about one recipient of one event; `attempts` counts those that were made."""

    event_id: str
    recipient: str | None
    record: Record
    attempts: int

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(self.record["outcome"])

    @property
    def via(self) -> Scope | None:
        """The scope whose SMTP record was used."""
        config = self.record.get("config")
        return Scope.parse(config["scope"]) if config else None

    @property
    def code(self) -> int | None:
        """The SMTP reply's code."""
        code: int | None = self.record.get("reply", {}).get("code")
        return code


def ends(records: Iterable[Record]) -> list[End]:
    """Find the last record of each (event, recipient), in the order of the events."""
    last: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=_progress):
        last[record["event_id"], record.get("recipient") or ""] = record
    return [
        End(event_id, recipient or None, record, record["attempt"])
        for (event_id, recipient), record in sorted(last.items())
    ]


def differences(events: Sequence[DemoEvent], found: Sequence[End], mails: Iterable[ReceivedMail]) -> list[str]:
    """Say in sentences what is not as expected; empty where all is well.

    `mails` may hold those of other events, too: they are told apart by their Message-ID.
    """
    by_key = {(end.event_id, end.recipient): end for end in found}
    wanted = {(event.document["id"], one.recipient): one for event in events for one in event.expected}
    missing = [f"{_label(key)}: nothing is recorded" for key in wanted.keys() - by_key.keys()]
    surplus = [f"{_label(key)}: {by_key[key].outcome} was not expected" for key in by_key.keys() - wanted.keys()]
    wrong = [
        f"{_label(key)}: {words}"
        for key in wanted.keys() & by_key.keys()
        for words in _compare(wanted[key], by_key[key])
    ]
    return sorted([*missing, *surplus, *wrong, *_unlike_the_mails(found, mails)])


def _progress(record: Record) -> tuple[int, bool]:
    return record["attempt"], record["outcome"] != Outcome.DEFERRED


def _label(key: tuple[str, str | None]) -> str:
    return f"{key[1] or 'event'} ({key[0]})"


def _compare(expected: Expected, end: End) -> Iterable[str]:
    for what, wanted, got in (
        ("outcome", expected.outcome, end.outcome),
        ("sent through", expected.via, end.via),
        ("attempts", expected.attempts, end.attempts),
        ("reply", expected.code, end.code),
    ):
        if wanted != got:
            yield f"{what} is {got}, expected {wanted}"
    if end.via is not None and not end.record.get("tls", {}).get("verified"):
        yield "was not sent over verified TLS"


def _unlike_the_mails(found: Iterable[End], mails: Iterable[ReceivedMail]) -> Iterable[str]:
    """The audit is only to be believed where the server tells the same story."""
    accepted = Counter(
        (str(end.record["message_id"]).strip("<>"), end.recipient or "")
        for end in found
        if end.outcome is Outcome.ACCEPTED
    )
    known = {end.record.get("message_id", "").strip("<>") for end in found}
    received = Counter((i, rcpt) for m in mails if (i := _message_id(m)) in known for rcpt in m.rcpt_tos)
    for (_, recipient), count in (accepted - received).items():
        yield f"{recipient}: recorded as accepted, but the server has {count} fewer"
    for (_, recipient), count in (received - accepted).items():
        yield f"{recipient}: the server has {count} more than the audit says"


def _message_id(mail: ReceivedMail) -> str:
    return str(BytesHeaderParser().parsebytes(mail.content).get("Message-ID", "")).strip().strip("<>")
