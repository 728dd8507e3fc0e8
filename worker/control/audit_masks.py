"""What an audit record may say to whom of the server behind it: the words, by the table of outcome rules.

Two things are nobody's business but their owner's. Of a wider scope's SMTP record a tenant learns what
became of its own mail, by code and enhanced code, and neither the server's words nor what is wrong with
the record. And of its own record no tenant learns why a server was not reached: which names resolve in
the operator's network, which addresses are taken and how long either took (see `worker.smtp.probe`).
"""

from collections.abc import Mapping
from typing import Any

from schemas.audit import Outcome
from schemas.audit_filters import Unseen
from worker.delivery.outcome_rules import FAULT_RULES, REPLY_RULES, Blame, FaultRule, ReplyRule
from worker.delivery.ports import Phase

_ALL_RULES: tuple[ReplyRule | FaultRule, ...] = (*REPLY_RULES, *FAULT_RULES)
_RULES = {rule.name: rule for rule in _ALL_RULES}
_ASKERS_OWN = {Blame.RECIPIENT, Blame.MESSAGE}
_OF_THE_EVENT = {Outcome.EXPIRED, Outcome.SUPPRESSED, Outcome.INVALID, Outcome.UNCONFIGURED}
# Why a mail by another scope's record went as it did, where the rule would tell of that record or its server.
_GENERIC: Mapping[str, str] = {
    Outcome.CONFIG_FAULT: "the SMTP record that applies does not work now",
    Outcome.DEFERRED: "the server did not take it now",
    Outcome.THROTTLED: "the server takes less mail now",
    Outcome.IN_DOUBT: "whether the server took it is not known",
    Outcome.REFUSED: "the server refused it",
    Outcome.EXPIRED: "the server did not take it in time",
    Outcome.EXHAUSTED: "the server did not take it, however often it was tried",
}
_NOT_SAID = "the reason is known to whom the SMTP record belongs"
_SECRET = "secret"  # noqa: S105 # how reasons begin that name a record whose password cannot be read
_SECRET_UNREADABLE = f"{_SECRET}: the password of the SMTP record that applies cannot be read now"

_UNREACHABLE = "unreachable"
_OUT_OF_REACH = {"egress-denied", "host-not-found", "dns-unavailable", _UNREACHABLE}
_TIMED_OUT = "timed-out"
_BEFORE_CONNECTED = {Phase.RESOLVE.value, Phase.CONNECT.value}
UNSEEN = Unseen(tuple(sorted(_BEFORE_CONNECTED)), tuple(sorted(_OUT_OF_REACH)))
"""Where a tenant's words are not looked for, since `without_the_way` shows it something else there."""
_OF_THE_OPERATOR = {"worker_id", "chain"}
"""They name a host of the operator's, and how many records of others there are."""
_TELLING_TIMES = {"connect_ms", "transaction_ms", "total_ms"}


def without_the_way(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as a tenant may see it: one word, phase and time for every server that was not reached."""
    shown = {name: value for name, value in record.items() if name not in _OF_THE_OPERATOR}
    reason = _text(record, "reason")
    if _rule_of(reason) == _SECRET:
        shown["reason"] = _SECRET_UNREADABLE
    elif _out_of_reach(record):
        shown["reason"] = _unreachable()
        shown["reply"] = {"phase": Phase.CONNECT.value, "text": ""}
        times = record.get("timings")
        if isinstance(times, Mapping):
            shown["timings"] = {name: value for name, value in times.items() if name not in _TELLING_TIMES}
    else:
        for rule in _OUT_OF_REACH:  # as a resting mail's reason names the rule that it rests for
            reason = reason.replace(f"({rule})", f"({_UNREACHABLE})")
        shown |= {"reason": reason} if "reason" in record else {}
    return shown


def of_another(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a mail that went by a wider scope's SMTP record, as the mail's own scope may see it."""
    shown = {name: value for name, value in record.items() if name != "remote_queue_id"}  # the server's words
    if "reason" in record:
        shown["reason"] = _reason_of_another(_text(record, "reason"), _text(record, "outcome"))
    reply = record.get("reply")
    if isinstance(reply, Mapping):
        shown["reply"] = {name: value for name, value in reply.items() if name != "text"} | {"text": ""}
    return shown


def _reason_of_another(reason: str, outcome: str) -> str:
    rule = _RULES.get(_rule_of(reason))
    if rule is not None and rule.end[1] in _ASKERS_OWN:
        return f"{rule.name}: {rule.reason}"  # without the detail behind it
    if rule is None and outcome in _OF_THE_EVENT:
        return reason
    return _GENERIC.get(outcome, _NOT_SAID)


def _out_of_reach(record: Mapping[str, Any]) -> bool:
    rule, reply = _rule_of(_text(record, "reason")), record.get("reply")
    phase = reply.get("phase") if isinstance(reply, Mapping) else None
    return rule in _OUT_OF_REACH or (rule == _TIMED_OUT and phase in _BEFORE_CONNECTED)


def _unreachable() -> str:
    return f"{_UNREACHABLE}: {_RULES[_UNREACHABLE].reason}"


def _rule_of(reason: str) -> str:
    return reason.partition(": ")[0]


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""
