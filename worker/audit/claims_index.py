"""The index of the claims: its template, and its installation.

Its name begins as the audit's indices do, so that a role for ``PREFIX-*`` covers it. It is hidden, so that
no request for ``PREFIX-*`` does, and its template beats the audit's, whose pattern it would match.
"""

from typing import Any

import orjson

from worker.audit.link import Call, NotAllowed, OpenSearchLink, RequestRefused
from worker.errors import AuditUnavailable

_VERSION = 1
_NOT_FOUND = 404
_TIMEOUT_S = 3.0  # a suspect that waits for it is in a worker's hands


def claims_index(prefix: str) -> str:
    """The index's name."""
    return f"{prefix}-claims"


def claims_template(prefix: str) -> dict[str, Any]:
    """The body of ``PUT _index_template``; claims are got by id, and only `until` is ever searched for."""
    return {
        "index_patterns": [claims_index(prefix)],
        "priority": 100 * len(claims_index(prefix)) + _VERSION,  # see `index_template`
        "version": _VERSION,
        "template": {
            "settings": {
                "index": {
                    "hidden": True,
                    "number_of_shards": 1,
                    "auto_expand_replicas": "0-1",
                    "refresh_interval": "30s",
                    "translog": {"durability": "request"},
                }
            },
            "mappings": {"dynamic": False, "properties": {"until": {"type": "date", "format": "epoch_millis"}}},
        },
        "_meta": {"description": "Which of Postbote's workers has which event in hand that may have been sent before"},
    }


async def ensure_claims_template(link: OpenSearchLink, prefix: str) -> None:
    """Install the template unless it is there; safe from any number of replicas at once. Raises AuditUnavailable.

    A user who may not install it needs one that is there already.
    """
    path = f"/_index_template/{claims_index(prefix)}-v{_VERSION}"
    if await _installed(link, path):
        return
    try:
        body = orjson.dumps(claims_template(prefix))
        await link.request(Call("PUT", path, body, {"create": "true"}, _TIMEOUT_S))
    except NotAllowed as error:
        msg = f"OpenSearch has no index template of the claims: run `postbote audit migrate` as one who may ({error})"
        raise NotAllowed(msg) from error
    except RequestRefused as refusal:
        # Another replica was faster, or it was refused in earnest: only its presence tells.
        if not await _installed(link, path):
            msg = f"OpenSearch does not take the index template of the claims: {refusal}"
            raise AuditUnavailable(msg) from refusal


async def _installed(link: OpenSearchLink, path: str) -> bool:
    try:
        await link.request(Call("GET", path, None, {"filter_path": "index_templates.name"}, _TIMEOUT_S))
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        return False
    return True
