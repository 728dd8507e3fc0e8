"""Which SMTP record sends a scope's mail, and why the others do not.

org over partner over controller; the whole record of the most specific scope wins. An org's
record counts only while the org-level feature is on: while it is off, nothing shows that the
record exists. Fallbacks are of the winner's own scope: where none of them works, mail waits, and
no other scope's record sends it.
"""

from typing import NamedTuple

from schemas.smtp_config import Scope, SmtpConfig
from worker.delivery.ports import ScopedConfigs


class Resolved(NamedTuple):
    """The record that applies; `passed_over` are the wider scopes whose records it hides.

    `fallbacks` are records of the same scope, in their order, which send while it does not work.
    """

    config: SmtpConfig
    passed_over: tuple[Scope, ...] = ()
    fallbacks: tuple[SmtpConfig, ...] = ()


class Unresolved(NamedTuple):
    """No record applies; `looked_at` are the scopes that were asked, most specific first."""

    looked_at: tuple[Scope, ...]


Resolution = Resolved | Unresolved


def resolve(scope: Scope, stored: ScopedConfigs) -> Resolution:
    """Choose among the stored records of `scope`'s lineage; never merges two of them."""
    lineage = scope.lineage()
    if scope.org is not None and not stored.org_enabled:
        lineage = lineage[1:]  # the org itself comes first
    found = [s for s in lineage if s in stored.records]
    if not found:
        return Unresolved(lineage)
    winner, *passed_over = found
    fallbacks: tuple[SmtpConfig, ...] = ()
    if stored.fallbacks:
        fallbacks = tuple(each for each in stored.fallbacks.get(winner, ()) if each.scope == winner)
    return Resolved(stored.records[winner], tuple(passed_over), fallbacks)
