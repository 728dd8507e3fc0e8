"""What makes OpenSearch itself refuse to write over a record: the last pipeline of every write into the audit.

No permission tells a create from a write over what is there. So each write is given the external version 1,
whatever it asked for: what is not there yet is taken, and what is there already is a conflict, as it is for a
`create`. An `update` in a bulk goes past pipelines, and is a permission of its own, which no worker needs.

Copies in the making keep the versions of what they copy, so they are without it until they are done.
"""

from typing import Any

import orjson

from worker.audit.link import Call, OpenSearchLink

NO_PIPELINE = "_none"


def pipeline_name(prefix: str) -> str:
    """The name under which the pipeline is installed, and which the templates give as `final_pipeline`."""
    return f"{prefix}-create-only"


def pipeline() -> dict[str, Any]:
    """The body of ``PUT _ingest/pipeline``."""
    return {
        "description": "A document of Postbote's audit is written once, and never over another",
        "processors": [
            {"set": {"field": "_version_type", "value": "external"}},
            {"set": {"field": "_version", "value": 1}},
        ],
    }


async def ensure_pipeline(link: OpenSearchLink, prefix: str) -> None:
    """Install it; an index that names one that is not there takes no records. Raises AuditUnavailable."""
    await link.request(Call("PUT", f"/_ingest/pipeline/{pipeline_name(prefix)}", orjson.dumps(pipeline())))


async def enforce(link: OpenSearchLink, prefix: str, index: str) -> None:
    """Let an index that is there take no write over a record from now on; raises AuditUnavailable."""
    body = orjson.dumps({"index.final_pipeline": pipeline_name(prefix)})
    await link.request(Call("PUT", f"/{index}/_settings", body))
