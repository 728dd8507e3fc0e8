"""Claims against a transport that answers by script: what an operator reads where none is granted."""

import pytest

from tests.unit.audit.audit_samples import ScriptedTransport
from worker.audit.claims import OpenSearchClaims
from worker.audit.link import OpenSearchAccess, OpenSearchLink
from worker.delivery.claims import EventKey
from worker.errors import AuditUnavailable

DENIED = ("security_exception", "no permissions for [indices:data/write/update]")
BLOCKED = ("cluster_block_exception", "index [p-claims] blocked by: [FORBIDDEN/12/index read-only]")


class RefusingTransport(ScriptedTransport):
    """Answers a bulk as asked for, and refuses each of its items."""

    def __init__(self, error: tuple[str, str]) -> None:
        super().__init__()
        self.error = dict(zip(("type", "reason"), error, strict=True))

    def _bulk(self, body, step):
        return {"items": [{"update": {"status": 403, "error": self.error}} for _ in body.splitlines()[::2]]}


@pytest.mark.parametrize(("error", "remedy"), [(DENIED, ": see POSTBOTE_OPENSEARCH_USER"), (BLOCKED, "")])
async def test_a_claim_that_is_refused_by_itself_says_why_and_names_the_setting_of_the_user(
    error: tuple[str, str], remedy: str
) -> None:
    access = OpenSearchAccess("http://127.0.0.1:1")
    claims = OpenSearchClaims(OpenSearchLink(access, RefusingTransport(error)), "p", "worker-1")
    with pytest.raises(AuditUnavailable) as refused:
        await claims.claim(EventKey(None, None, "shop", "42"))
    assert str(refused.value) == f"OpenSearch grants no claim: 403 {error[0]}: {error[1]}{remedy}"
    assert claims.held == 0
