"""The index of proofs: its template, and its installation.

It keeps heads, voids and what was pruned (see `schemas.audit_chain`), for as long as there is an audit.
Its name begins as the audit's indices do, so that a role for ``PREFIX-*`` covers it. It is hidden, so that
no request for ``PREFIX-*`` does, and its template beats the audit's, whose pattern it would match.
"""

from typing import Any

import orjson

from schemas.audit_chain import PROOF_MONTH
from worker.audit.create_only import ensure_pipeline, pipeline_name
from worker.audit.link import Call, NotAllowed, OpenSearchLink, RequestRefused
from worker.errors import AuditUnavailable

_VERSION = 1
_NOT_FOUND = 404
_MIGRATE_FIRST = (
    "OpenSearch has no index template {name}, and this user may not install it: "
    "run `postbote audit migrate` as one who may ({reason})"
)
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": 1024}
_KEPT: dict[str, Any] = {"type": "object", "enabled": False}


def proof_index(prefix: str) -> str:
    """The index's name."""
    return f"{prefix}-{PROOF_MONTH}"


def proof_template_name(prefix: str) -> str:
    """The name under which this version of the template is installed."""
    return f"{proof_index(prefix)}-v{_VERSION}"


def proof_template(prefix: str) -> dict[str, Any]:
    """The body of ``PUT _index_template``; proofs are searched by kind, writer, number, month and time."""
    return {
        "index_patterns": [proof_index(prefix)],
        "priority": 100 * len(proof_index(prefix)) + _VERSION,  # see `index_template`
        "version": _VERSION,
        "template": {
            "settings": {
                "index": {
                    "hidden": True,
                    "number_of_shards": 1,
                    "auto_expand_replicas": "0-1",
                    "refresh_interval": "1s",
                    "translog": {"durability": "request"},
                    "final_pipeline": pipeline_name(prefix),
                }
            },
            "mappings": {
                "dynamic": False,
                "properties": {
                    "@timestamp": {"type": "date"},
                    "category": _KEYWORD,
                    "kind": _KEYWORD,
                    "writer": _KEYWORD,
                    "seq": {"type": "long"},
                    "month": _KEYWORD,
                    "document_id": _KEYWORD,
                    "ranges": _KEPT,
                },
            },
        },
        "_meta": {"description": "What proves Postbote's audit: heads and voids of its chains, and what was pruned"},
    }


async def ensure_proof_template(link: OpenSearchLink, prefix: str) -> None:
    """Install the template unless it is there; safe from any number of replicas at once. Raises AuditUnavailable.

    A user who may not install it needs one that is there already.
    """
    path = f"/_index_template/{proof_template_name(prefix)}"
    if await _installed(link, path):
        return
    try:
        await ensure_pipeline(link, prefix)
        await link.request(Call("PUT", path, orjson.dumps(proof_template(prefix)), {"create": "true"}))
    except NotAllowed as error:
        raise NotAllowed(_MIGRATE_FIRST.format(name=proof_template_name(prefix), reason=error)) from error
    except RequestRefused as refusal:
        # Another replica was faster, or it was refused in earnest: only its presence tells.
        if not await _installed(link, path):
            msg = f"OpenSearch does not take the index template of the proofs: {refusal}"
            raise AuditUnavailable(msg) from refusal


async def _installed(link: OpenSearchLink, path: str) -> bool:
    try:
        await link.request(Call("GET", path, None, {"filter_path": "index_templates.name"}))
    except RequestRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        return False
    return True
