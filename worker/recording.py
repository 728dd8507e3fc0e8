"""The chain of this process, and chained records for commands: what they did to the audit is written into it.

Part of the composition root (see ``app``).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.audit_chain import PROOF_MONTH
from schemas.audit_change import ChangeRecord
from worker.delivery.ports import Document
from worker.errors import AuditUnavailable
from worker.proof.chain import Chain, new_writer
from worker.proof.heads import Heads
from worker.proof.sealed import DocumentSink, SealedAudit
from worker.recipients import privacy_of
from worker.settings import Settings

_WRITE_S = 30.0
_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Recording:
    """What a command writes with: records into its own chain, and documents into the index of proofs."""

    sealed: SealedAudit
    audit: DocumentSink

    async def record(self, change: ChangeRecord) -> None:
        """Return once the record is chained and durable; raises AuditUnavailable where that takes 30 s."""
        document = Document(change.document_id, change.index_month, change.to_json())
        await _within(self.sealed.write_documents([document]))

    async def write_proof(self, document: Mapping[str, Any], document_id: str) -> None:
        """Return once `document` stands in the index of proofs, as it is; raises AuditUnavailable as `record` does."""
        await _within(self.audit.write_documents([Document(document_id, PROOF_MONTH, orjson.dumps(document))]))


def chain_of(settings: Settings) -> Chain:
    """A chain for this start of this process, whose heads are signed where a key is set."""
    key = settings.audit_signing_key
    if key is None:
        return Chain(new_writer(settings.worker_id))
    from worker.proof.signing import Signer

    return Chain(new_writer(settings.worker_id), Signer.read(key.get_secret_value()))


def sealed_of(settings: Settings, audit: DocumentSink, *, in_order: bool = False) -> SealedAudit:
    """What is written into it is chained and goes into `audit`; `in_order`: that keeps what it is handed in order."""
    return SealedAudit(audit, chain_of(settings), privacy=privacy_of(settings), in_order=in_order)


@contextlib.asynccontextmanager
async def vouching(settings: Settings, sealed: SealedAudit, grace_s: float = _GRACE_S) -> AsyncIterator[None]:
    """Heads of its chain meanwhile and, within the grace, at the end, when it is closed."""
    heads = Heads(sealed, settings.audit_head_s)
    heads.start()
    try:
        yield
    finally:
        await heads.stop()
        await sealed.close(grace_s)


@contextlib.asynccontextmanager
async def sealing(
    settings: Settings, audit: DocumentSink, *, in_order: bool = False, grace_s: float = _GRACE_S
) -> AsyncIterator[SealedAudit]:
    """Both: an audit that chains, while the block runs."""
    sealed = sealed_of(settings, audit, in_order=in_order)
    async with vouching(settings, sealed, grace_s):
        yield sealed


@contextlib.asynccontextmanager
async def open_recording(settings: Settings, *, embedded: bool = False) -> AsyncIterator[Recording]:
    """Open the audit for a command's own records, and end with the head of their chain; raises AuditUnavailable."""
    async with contextlib.AsyncExitStack() as stack:
        audit = await _open_audit(settings, stack, embedded=embedded)
        sealed = await stack.enter_async_context(sealing(settings, audit, in_order=embedded))
        yield Recording(sealed, audit)


async def _open_audit(settings: Settings, stack: contextlib.AsyncExitStack, *, embedded: bool) -> DocumentSink:
    from worker.backends import auditing_of, open_embedded

    if embedded:
        return (await stack.enter_async_context(open_embedded(settings))).audit
    from worker.audit.opensearch import OpenSearchAudit

    audit = OpenSearchAudit(**auditing_of(settings))
    stack.push_async_callback(audit.close, _GRACE_S)
    await audit.ready()  # writing would wait for an OpenSearch that is away
    return audit


async def _within(writing: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(_WRITE_S):
            await writing
    except TimeoutError:
        msg = f"the audit did not take the record within {_WRITE_S:.0f} s"
        raise AuditUnavailable(msg) from None
