"""The two audits behind one face, so that one set of tests holds for both."""

import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest

# Of the whole folder: a module that imports it starts a server of its own.
from tests.services.opensearch_secured import secured_opensearch  # noqa: F401 # a fixture
from worker.audit.opensearch import OpenSearchAudit
from worker.audit.search import OpenSearchSearch
from worker.delivery.ports import Document
from worker.embedded.audit import SqliteAudit


def refresh(server, prefix):
    """Make what was written, proofs in their hidden index too, visible to searches now, not within the second."""
    request = urllib.request.Request(f"{server.url}/{prefix}-*/_refresh?expand_wildcards=all", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()


@dataclass
class AuditUnderTest:
    """An audit; `search` sees everything that was written before."""

    audit: Any
    searcher: Any
    make_visible: Any
    prefix: str = ""

    async def write(self, *records):
        await self.audit.write(records)

    async def write_changes(self, *changes):
        documents = [Document(change.document_id, change.index_month, change.to_json()) for change in changes]
        await self.audit.write_documents(documents)

    async def search(self, query):
        self.make_visible()
        return await self.searcher.search(query)


@pytest.fixture
async def over_opensearch(opensearch, index_prefix):
    audit = OpenSearchAudit(opensearch.url, index_prefix=index_prefix)
    audit._lookup._patience_s = 30.0  # what is recorded is asked here, not how fast
    search = OpenSearchSearch(opensearch.url, index_prefix=index_prefix)
    yield AuditUnderTest(audit, search, lambda: refresh(opensearch, index_prefix), index_prefix)
    await audit.close()
    await search.close()


@pytest.fixture
async def over_sqlite(tmp_path):
    audit = await SqliteAudit(tmp_path / "audit.db").open()
    yield AuditUnderTest(audit, audit, lambda: None)
    await audit.close()
