"""Claims on events in OpenSearch: one document for each event that may have been sent before, in an index of its own.

Taking a claim is one scripted upsert, which OpenSearch carries out as a whole: of two workers that ask at
the same moment one is answered "created", the other "noop". Which claim has ended is decided there too, by
the clock of the node that has the shard, so that workers' clocks may differ or jump by hours.
(`ctx._now` is that clock; two nodes' clocks matter only where the shard moves, and the margin is for them.)

The index is hidden: no pattern such as ``PREFIX-*`` sees it, neither the audit's searches nor an
operator's dashboards, while what a role may do with ``PREFIX-*`` holds for it.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from worker.audit.claim_updates import Updated, Updates
from worker.audit.claims_index import claims_index, ensure_claims_template
from worker.audit.link import Call, OpenSearchLink
from worker.delivery.claims import ClaimTimes, EventKey
from worker.errors import AuditUnavailable

log = structlog.get_logger(__name__)

_PROBE_EVERY_S = 1.0
_RENEWAL_TIMEOUT_S = 10.0
_RENEWED_AT_ONCE = 500
_SWEEP_EVERY_S = 3600.0
_SWEPT_AT_ONCE = 10_000
_NOT_FOUND = 404
_DENIED = "security_exception"

_CLAIM = """
def ends = ctx._source.until;
if (ends == null || ends + params.margin_ms < ctx._now || ctx._source.holder == params.claim.holder) {
  ctx._source = params.claim;
  ctx._source.until = ctx._now + params.lasts_ms;
} else {
  ctx.op = 'none';
}
"""
_RENEW = """
if (ctx._source.token == params.token) { ctx._source.until = ctx._now + params.lasts_ms } else { ctx.op = 'none' }
"""
_RELEASE = "ctx.op = ctx._source.token == params.token ? 'delete' : 'none'"


@dataclass(slots=True)
class _Held:
    """A claim of this worker's; `token` is of this taking alone, `until` the loop's time up to which it is trusted."""

    token: str
    until: float


class OpenSearchClaims:
    """Fulfils the core's Claims; one task renews everything that is held."""

    def __init__(self, link: OpenSearchLink, prefix: str, holder: str, times: ClaimTimes | None = None) -> None:
        """Claim in ``PREFIX-claims`` in the name of `holder`, a worker's id; nothing is renewed before `start`."""
        self._link = link
        self._prefix = prefix
        self._index = claims_index(prefix)
        self._holder = holder
        self._times = times or ClaimTimes()
        self._held: dict[EventKey, _Held] = {}
        self._updates = Updates(link, self._index)
        self._template_ensured = False
        self._ensuring = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to renew."""
        self._keeper = asyncio.create_task(self._keep(), name="claims")

    async def close(self) -> None:
        """Renew nothing more; what is held ends by itself."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    @property
    def held(self) -> int:
        """How many claims this worker has."""
        return len(self._held)

    async def claim(self, key: EventKey) -> bool:
        """Ask for the event; see `Claims.claim`. Raises AuditUnavailable."""
        if self._link.health.failed_within(_PROBE_EVERY_S):
            raise AuditUnavailable("OpenSearch is away: whose an event is, is not known")
        token = secrets.token_hex(8)
        try:
            await self._ensure_template()
            asked_at = _now()
            granted = self._granted(await self._updates.update(document_id(key), self._claiming(key, token)))
        except AuditUnavailable:
            self._template_ensured = False  # what comes back may be another cluster
            raise
        if not granted:
            return False
        self._held[key] = _Held(token, asked_at + self._times.trusted_s)
        return True

    def holds(self, key: EventKey) -> bool:
        """Whether the claim was granted or renewed so lately that nobody else can have it."""
        held = self._held.get(key)
        return held is not None and _now() < held.until

    async def release(self, key: EventKey) -> None:
        """Remove the claim, if it is still this worker's; where OpenSearch doesn't, it ends by itself."""
        held = self._held.pop(key, None)
        if held is None:
            return
        body = orjson.dumps({"script": _script(_RELEASE, token=held.token)})
        try:
            await self._updates.update(document_id(key), body)
        except AuditUnavailable as error:
            log.debug("a claim was not released: it ends by itself", reason=str(error))

    def leave(self, key: EventKey) -> None:
        """Renew it no more."""
        self._held.pop(key, None)

    def _claiming(self, key: EventKey, token: str) -> bytes:
        claim = {"holder": self._holder, "token": token, **key._asdict()}
        script = _script(_CLAIM, claim=claim, lasts_ms=_ms(self._times.lasts_s), margin_ms=_ms(self._times.margin_s))
        return orjson.dumps({"scripted_upsert": True, "upsert": {}, "script": script})

    def _granted(self, updated: Updated) -> bool:
        match updated:
            case Updated(result="created" | "updated"):
                return True
            case Updated(result="noop") | Updated(status=409):
                return False  # 409: so many ask for it that one of them has it
        # Denied each document by itself: the request was fine, and the user's role is not.
        remedy = f": see {self._link.setting}" if updated.reason.startswith(_DENIED) else ""
        msg = f"OpenSearch grants no claim: {updated.status} {updated.reason}{remedy}"
        raise AuditUnavailable(msg)

    async def _ensure_template(self) -> None:
        if self._template_ensured:
            return
        async with self._ensuring:  # hundreds may claim at once: one looks
            if not self._template_ensured:
                await ensure_claims_template(self._link, self._prefix)
                self._template_ensured = True

    async def _keep(self) -> None:
        swept, pause_s = _now(), self._times.renew_s
        while True:
            await asyncio.sleep(pause_s)
            try:
                pause_s = self._times.renew_s if await self._renew_all() else self._times.renew_s / 4
                if _now() - swept > _SWEEP_EVERY_S:
                    swept = _now()
                    await self.sweep()
            except Exception:  # a mistake of ours must not end the renewals
                log.exception("renewing claims surprised")

    async def _renew_all(self) -> bool:
        """Renew everything that is held; whether all of it was answered."""
        held = list(self._held.items())
        batches = [held[first : first + _RENEWED_AT_ONCE] for first in range(0, len(held), _RENEWED_AT_ONCE)]
        return all([await self._renew(batch) for batch in batches])

    async def _renew(self, batch: Sequence[tuple[EventKey, _Held]]) -> bool:
        asked_at = _now()
        lines = [line for key, held in batch for line in self._renewal(key, held)]
        call = Call("POST", "/_bulk", b"\n".join(lines) + b"\n", {}, _RENEWAL_TIMEOUT_S, "application/x-ndjson")
        try:
            items = (await self._link.request(call))["items"]
            found = [(int(item["update"]["status"]), item["update"].get("result")) for item in items]
        except (AuditUnavailable, KeyError, TypeError, ValueError) as error:
            log.warning("claims were not renewed", claims=len(batch), reason=str(error))
            return False
        for (key, held), (status, result) in zip(batch, found, strict=True):
            if result == "updated":
                held.until = asked_at + self._times.trusted_s
            elif (status == _NOT_FOUND or result == "noop") and self._held.get(key) is held:
                log.warning("a claim was lost to another worker", source=key.source, event_id=key.event_id)
                del self._held[key]
        return all(status < 500 and status != 429 for status, _ in found)  # noqa: PLR2004 # HTTP's own numbers

    def _renewal(self, key: EventKey, held: _Held) -> tuple[bytes, bytes]:
        script = _script(_RENEW, token=held.token, lasts_ms=_ms(self._times.lasts_s))
        return self._updates.action(document_id(key)), orjson.dumps({"script": script})

    async def sweep(self) -> None:
        """Remove what ended by itself an hour ago or earlier, whoever's it was."""
        params = {"conflicts": "proceed", "ignore_unavailable": "true", "max_docs": str(_SWEPT_AT_ONCE)}
        body = orjson.dumps({"query": {"range": {"until": {"lt": "now-1h"}}}})
        try:
            await self._link.request(Call("POST", f"/{self._index}/_delete_by_query", body, params))
        except AuditUnavailable as error:
            log.debug("ended claims were not removed", reason=str(error))


def document_id(key: EventKey) -> str:
    """The `_id` of an event's claim: 40 hex digits."""
    return hashlib.sha256(orjson.dumps(list(key))).hexdigest()[:40]


def _script(source: str, **params: Any) -> dict[str, Any]:
    # The sources never differ, so that OpenSearch compiles each of them once.
    return {"lang": "painless", "source": source, "params": params}


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _now() -> float:
    return asyncio.get_running_loop().time()
