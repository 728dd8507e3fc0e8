"""The index of proofs: its template, and its installation.

It keeps heads, voids and what was pruned (see `schemas.audit_chain`), for as long as there is an audit.
Its name begins as the audit's indices do, so that a role for ``PREFIX-*`` covers it. It is hidden, so that
no request for ``PREFIX-*`` does, and its template beats the audit's, whose pattern it would match.
"""

from typing import Any

from schemas.audit_chain import PROOF_MONTH
from worker.audit.create_only import ensure_pipeline, pipeline_name
from worker.audit.link import OpenSearchLink
from worker.audit.side_template import ensure_side_template

_VERSION = 1
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
    """Install the template and its pipeline unless it is there; see `ensure_side_template`."""
    name = proof_template_name(prefix)
    await ensure_side_template(link, name, proof_template(prefix), before=lambda: ensure_pipeline(link, prefix))
