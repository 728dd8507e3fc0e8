"""Installing the template of an index beside the audit's months: that of the claims, and that of the proofs."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from worker.audit.link import Call, NotAllowed, OpenSearchLink, RequestRefused
from worker.errors import AuditUnavailable

_NOT_FOUND = 404


async def ensure_side_template(
    link: OpenSearchLink,
    name: str,
    body: Mapping[str, Any],
    *,
    before: Callable[[], Awaitable[None]] | None = None,
    timeout_s: float = 30.0,
) -> None:
    """Install the template unless it is there; safe from any number of replicas at once. Raises AuditUnavailable.

    `before` makes what the template names. A user who may not install it needs one that is there already.
    """
    if await _installed(link, name, timeout_s):
        return
    try:
        if before is not None:
            await before()
        path = f"/_index_template/{name}"
        await link.request(Call("PUT", path, orjson.dumps(body), {"create": "true"}, timeout_s))
    except NotAllowed as error:
        msg = (
            f"OpenSearch has no index template {name}, and this user may not install it: "
            f"run `postbote audit migrate` as one who may ({error})"
        )
        raise NotAllowed(msg) from error
    except RequestRefused as refusal:
        # Another replica was faster, or it was refused in earnest: only its presence tells.
        if not await _installed(link, name, timeout_s):
            msg = f"OpenSearch does not take the index template {name}: {refusal}"
            raise AuditUnavailable(msg) from refusal


async def _installed(link: OpenSearchLink, name: str, timeout_s: float) -> bool:
    path = f"/_index_template/{name}"
    try:
        await link.request(Call("GET", path, None, {"filter_path": "index_templates.name"}, timeout_s))
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        return False
    return True
