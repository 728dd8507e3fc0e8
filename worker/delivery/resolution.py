"""Which SMTP record sends a scope's mail, and why the others do not.

org over partner over controller; the whole record of the most specific scope wins. An org's
record counts only while the org-level feature is on: while it is off, nothing shows that the
record exists.
"""

from dataclasses import dataclass

from schemas.smtp_config import Scope, SmtpConfig
from worker.delivery.ports import ScopedConfigs


@dataclass(frozen=True, slots=True)
class Resolved:
    """The record that applies; `passed_over` are the wider scopes whose records it hides."""

    config: SmtpConfig
    passed_over: tuple[Scope, ...] = ()


@dataclass(frozen=True, slots=True)
class Unresolved:
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
    return Resolved(stored.records[found[0]], tuple(found[1:]))
