"""The audit in OpenSearch, for the worker: what writes records and looks them up.

Both may be one user's work, or two: a writer that may only create, and one that only looks up and claims.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from schemas.audit import AuditRecord
from worker.audit.bulk import BulkLimits, BulkWriter, Document
from worker.audit.health import AuditState, Health
from worker.audit.link import Call, OpenSearchAccess, OpenSearchLink
from worker.audit.lookup import RecordLookup
from worker.errors import AuditUnavailable

_READY_TIMEOUT_S = 3.0
_GRACE_S = 5.0
_LOOKUP_SETTING = "POSTBOTE_OPENSEARCH_LOOKUP_USER"


class OpenSearchAudit:
    """Fulfils the core's AuditSink and AuditLookup."""

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        verify: bool = True,
        index_prefix: str = "systemaudit",
        limits: BulkLimits | None = None,
        lookup_as: tuple[str, str] | None = None,
    ) -> None:
        """Prepare; nothing is connected before the first request. `lookup_as`: who looks up, where it is not `user`.

        Raises AuditUnavailable where the CA file cannot be read.
        """
        access = OpenSearchAccess(url, user, password, ca_file, verify)
        self._link = self._lookup_link = OpenSearchLink(access)
        if lookup_as is not None:
            looking_up = replace(access, user=lookup_as[0], password=lookup_as[1], setting=_LOOKUP_SETTING)
            self._lookup_link = OpenSearchLink(looking_up)
        self._writer = BulkWriter(self._link, index_prefix, limits, self._lookup_link)
        self._lookup = RecordLookup(self._lookup_link, index_prefix)

    @property
    def writer(self) -> BulkWriter:
        """The writer, for the outbox that relieves it (see `outbox`)."""
        return self._writer

    @property
    def link(self) -> OpenSearchLink:
        """The connections that look up, for the claims, which share them (see `claims`)."""
        return self._lookup_link

    @property
    def health(self) -> Health:
        """Whether OpenSearch answers the writer and takes its records."""
        return self._link.health

    async def start(self) -> None:
        """Return once OpenSearch answers and has the index template, however long that takes."""
        await self._writer.start()

    async def write(self, records: Sequence[AuditRecord]) -> None:
        """Return once every record is durable; while OpenSearch is away, wait.

        Raises AuditUnavailable only where this closes first: then nothing is known of the records.
        """
        await self._writer.write(records)

    async def write_documents(self, documents: Sequence[Document]) -> None:
        """Like `write`, for what a journal kept: id, month (``YYYY.MM``) and JSON of each record."""
        await self._writer.write_documents(documents)

    async def recorded(self, ids: Mapping[str, str]) -> frozenset[str]:
        """Of `ids` (document id -> ``YYYY.MM``), those that exist; raises AuditUnavailable (see `RecordLookup`)."""
        return await self._lookup.recorded(ids)

    @property
    def complete(self) -> bool:
        """True: what this has taken is found at once; only an outbox holds what cannot be found yet."""
        return True

    async def ready(self) -> None:
        """Ask once. Raises AuditUnavailable where OpenSearch does not answer within 3 s.

        Lookups of a user of their own are tried too; where they fail, `missing` says so until they don't.
        """
        try:
            await self._link.request(Call("GET", "/", timeout_s=_READY_TIMEOUT_S))
        except AuditUnavailable as error:
            self._link.health.failed(str(error))
            raise
        self._link.health.succeeded()
        if self._lookup_link is not self._link:
            await self._lookup.check()

    @property
    def state(self) -> AuditState:
        """When OpenSearch last worked, since when it doesn't, for the writer or else for lookups; who waits."""
        failing = self._link if self._link.health.failing else self._lookup_link
        return failing.health.state(self._writer.waiting)

    def missing(self) -> str | None:
        """One line for readiness on what fails now, or None where all is well."""
        state = self.state
        if state.failing_since is None:
            return None
        return f"failing since {state.failing_since:%H:%M:%S}Z, {state.waiting} records wait; {state.reason}"

    async def close(self, grace_s: float = _GRACE_S) -> None:
        """Send what waits for up to `grace_s` seconds; what is left raises AuditUnavailable at its writers."""
        await self._writer.close(grace_s)
        await self._lookup.close()
        await self._link.close()
        if self._lookup_link is not self._link:
            await self._lookup_link.close()
