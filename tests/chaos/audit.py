"""The audit read straight from OpenSearch: every document below a prefix, past any refresh, dead letters too."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

_PAGE = 5000
_TIMEOUT_S = 60.0


def read_audit(url: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Every record; a dead letter is the record that lies in it."""
    _call(url, "POST", f"/{prefix}-*/_refresh")
    query = {"size": _PAGE, "sort": ["_doc"], "query": {"match_all": {}}}
    page = _call(url, "POST", f"/{prefix}-*/_search?scroll=2m", query)
    while hits := page["hits"]["hits"]:
        yield from (_record(hit["_source"]) for hit in hits)
        page = _call(url, "POST", "/_search/scroll", {"scroll": "2m", "scroll_id": page["_scroll_id"]})
    _call(url, "DELETE", "/_search/scroll", {"scroll_id": [page["_scroll_id"]]})


def count_accepted(url: str, prefix: str) -> int:
    """How many recipients the audit calls accepted."""
    _call(url, "POST", f"/{prefix}-*/_refresh")
    return int(_call(url, "POST", f"/{prefix}-*/_count", {"query": {"term": {"outcome": "accepted"}}})["count"])


def _record(source: dict[str, Any]) -> dict[str, Any]:
    letter = source.get("dead_letter")
    return source if letter is None else dict(json.loads(letter["record"]))


def _call(url: str, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}{path}", method=method, data=data, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT_S) as reply:
        return json.load(reply)
