"""How this process keeps recipients and finds them again, as its settings say.

Part of the composition root (see ``app``). Where a key is set, whoever asks for an address gets the
records that name it and those that know it by its hash alone; the stores compare both, and know no key.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from worker.delivery.privacy import PLAIN, Privacy, RecipientMode
from worker.settings import Settings

if TYPE_CHECKING:  # a process that only delivers loads nothing of an API
    from schemas.audit_query import AuditPage, AuditQuery, Continuation
    from schemas.audit_stats import Counted, StatsQuery
    from worker.api.ports import AuditSearch
    from worker.api.stats import AuditStats


def privacy_of(settings: Settings) -> Privacy:
    """What the settings ask for; `PLAIN` itself where they ask for nothing."""
    mode, key = RecipientMode(settings.audit_recipients), settings.audit_hash_key
    if key is None and mode is RecipientMode.PLAIN:
        return PLAIN
    return Privacy(mode, key.get_secret_value().strip().encode() if key else None)


def finding(search: "AuditSearch", privacy: Privacy) -> "AuditSearch":
    """A search that also finds whom the records know by a hash."""
    return search if privacy.key is None else _Finding(search, privacy)


def counting(stats: "AuditStats", privacy: Privacy) -> "AuditStats":
    """The same for what is counted."""
    return stats if privacy.key is None else _Counting(stats, privacy)


def with_hash(query: "AuditQuery", privacy: Privacy) -> "AuditQuery":
    """The question with the hash of the address that it asks for, if it asks for one."""
    if query.recipient is None:
        return query
    return replace(query, recipient_hash=privacy.hash_of(query.recipient))


@dataclass(frozen=True, slots=True)
class _Finding:
    """Fulfils the API's AuditSearch."""

    search_in: "AuditSearch"
    privacy: Privacy

    async def search(self, query: "AuditQuery") -> "AuditPage":
        return await self.search_in.search(with_hash(query, self.privacy))

    async def release(self, after: "Continuation") -> None:
        await self.search_in.release(after)


@dataclass(frozen=True, slots=True)
class _Counting:
    """Fulfils the API's AuditStats."""

    stats: "AuditStats"
    privacy: Privacy

    async def count(self, query: "StatsQuery") -> "Counted":
        return await self.stats.count(replace(query, records=with_hash(query.records, self.privacy)))
