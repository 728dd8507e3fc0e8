"""The index of the claims: its template, and its installation.

Its name begins as the audit's indices do, so that a role for ``PREFIX-*`` covers it. It is hidden, so that
no request for ``PREFIX-*`` does, and its template beats the audit's, whose pattern it would match.
"""

from typing import Any

from worker.audit.link import OpenSearchLink
from worker.audit.side_template import ensure_side_template

_VERSION = 1
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
    """Install the template unless it is there; see `ensure_side_template`."""
    name = f"{claims_index(prefix)}-v{_VERSION}"
    await ensure_side_template(link, name, claims_template(prefix), timeout_s=_TIMEOUT_S)
