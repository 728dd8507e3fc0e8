"""How many accepted mails of a run the audit holds, asked of OpenSearch itself."""

import json
import urllib.request
from typing import Any


def accepted(url: str, index_prefix: str, run: str) -> int:
    """Count the records of outcome `accepted` whose recipient belongs to the run."""
    _ask(f"{url}/{index_prefix}-*/_refresh", None)
    terms = [{"term": {"outcome": "accepted"}}, {"prefix": {"event_id": f"{run}-"}}]
    return int(_ask(f"{url}/{index_prefix}-*/_count", {"query": {"bool": {"filter": terms}}})["count"])


def _ask(url: str, body: dict[str, Any] | None) -> Any:
    # No proxy of the environment stands between the bench and its server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method="POST")
    with opener.open(request, timeout=30) as reply:
        return json.load(reply)
