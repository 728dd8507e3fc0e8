"""What an SMTP answer means for one recipient: `decide`, over the table in `outcome_rules`.

A pure function from the answer of the transaction to a Verdict. It is total: every phase with
every reply code and every fault has a rule, and an answer that should not exist (no reply and no
fault, a code outside 200-599) is read as a protocol fault. Only a 250 to the final dot is
`accepted`, and nothing that happens after that dot is ever anything but an answer or a doubt.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from worker.delivery.outcome_rules import FAULT_RULES, REPLY_RULES, Blame, FaultRule, ReplyRule, Retry, Verdict
from worker.delivery.ports import Answer, Fault, Phase, SmtpReply
from worker.delivery.replies import clean_text, parse_enhanced

__all__ = ["Blame", "Retry", "Verdict", "decide"]


def decide(answer: Answer) -> Verdict:
    """Return what `answer` means; never raises. Where there is a reply, the reply decides."""
    reply = answer.reply
    if reply is None:
        return _of_fault(answer.phase, answer.fault or Fault.PROTOCOL)
    rows = _rows(answer.phase, reply.code)
    if not rows:
        return _of_fault(answer.phase, Fault.PROTOCOL)
    first = rows[0]
    return first.verdict if first.unconditional else _first_match(rows, reply)


@dataclass(frozen=True, slots=True)
class _Row:
    """A rule, compiled: its verdict is made once and shared by every answer it matches."""

    verdict: Verdict
    enhanced: re.Pattern[str] | None
    words: re.Pattern[str] | None

    @property
    def unconditional(self) -> bool:
        return self.enhanced is None and self.words is None

    def matches(self, enhanced: str, words: str) -> bool:
        if self.enhanced is not None and self.enhanced.fullmatch(enhanced) is None:
            return False
        return self.words is None or self.words.search(words) is not None


def _first_match(rows: Iterable[_Row], reply: SmtpReply) -> Verdict:
    enhanced, words = parse_enhanced(reply) or "", clean_text(reply.text)
    return next(row.verdict for row in rows if row.matches(enhanced, words))


@cache
def _rows(phase: Phase, code: int) -> tuple[_Row, ...]:
    """The rows to try, in the table's order, ending with the first that asks for nothing more."""
    found: list[_Row] = []
    for rule in REPLY_RULES if 200 <= code <= 599 else ():  # noqa: PLR2004 - what RFC 5321 section 4.2 allows
        if phase in rule.phases and _has_code(rule, code):
            found.append(_compiled(rule))
            if found[-1].unconditional:
                break
    return tuple(found)


def _has_code(rule: ReplyRule, code: int) -> bool:
    return str(code).startswith(tuple(rule.codes.split()))


@cache
def _compiled(rule: ReplyRule) -> _Row:
    return _Row(
        verdict=_verdict(rule),
        enhanced=None if rule.enhanced is None else re.compile(rule.enhanced),
        words=None if rule.words is None else re.compile(rule.words, re.IGNORECASE),
    )


@cache
def _of_fault(phase: Phase, fault: Fault) -> Verdict:
    return next(_verdict(rule) for rule in FAULT_RULES if phase in rule.phases and fault in rule.faults)


def _verdict(rule: ReplyRule | FaultRule) -> Verdict:
    outcome, blame, retry = rule.end
    return Verdict(outcome, rule.name, blame, retry, rule.reason)
