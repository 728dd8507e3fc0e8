"""Commands that change the audit, as processes of their own, that may be killed at a request; and OpenSearch, asked."""

import asyncio
import json
import os
import sys

import httpx
import orjson

from worker.audit.claims import document_id
from worker.audit.claims_index import claims_index
from worker.audit.retention_turn import TURN


def environment(url, prefix, **more):
    """What a command needs to find the test's audit, and nothing of this shell's."""
    foreign = ("POSTBOTE_", "FW_EVENT_", "ES_", "ELASTIC_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    ours = {"POSTBOTE_OPENSEARCH_URL": url, "POSTBOTE_AUDIT_INDEX_PREFIX": prefix, "POSTBOTE_LOG_FORMAT": "json"}
    return {**clean, **ours, **more}


async def begin(*arguments, env):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.cli", *arguments),
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*arguments, env):
    """Run a command to its end: its exit code, what it printed, and what it said beside."""
    process = await begin(*arguments, env=env)
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, out.decode(), err.decode()


async def run_well(*arguments, env):
    code, out, err = await run(*arguments, env=env)
    assert code == 0, err + out
    return out


async def run_json(*arguments, env):
    return [json.loads(line) for line in (await run_well(*arguments, "--json", env=env)).splitlines()]


async def kill_at(passing, *arguments, env, proxy):
    """Run a command through the proxy, and kill it at the request."""
    proxy.watch(passing)
    process = await begin(*arguments, env={**env, "POSTBOTE_OPENSEARCH_URL": proxy.url})
    ended = asyncio.create_task(process.communicate())
    reached = asyncio.create_task(passing.reached.wait())
    await asyncio.wait({ended, reached}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
    assert passing.reached.is_set(), f"never came to {passing.line}: {ended.result() if ended.done() else 'still on'}"
    process.kill()
    await ended


class Asked:
    """OpenSearch, as a test asks it."""

    def __init__(self, url, prefix):
        self.client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)
        self.prefix = prefix

    async def call(self, method, path, body=None, **params):
        answer = await self.client.request(
            method, path, content=body and orjson.dumps(body), params=params, headers=_JSON
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def indices(self):
        """By name of index: its aliases, settings and mappings, hidden ones too."""
        return await self.call("GET", f"/{self.prefix}-*", expand_wildcards="all")

    async def documents(self, where="*", **params):
        """By id, whatever `PREFIX-where` shows to readers: (version, source)."""
        await self.call("POST", f"/{self.prefix}-*/_refresh", expand_wildcards="all")
        found, after = {}, []
        params["allow_partial_search_results"] = "false"
        while True:
            body = {"size": 10_000, "version": True, "sort": _ORDER}
            body |= {"search_after": after} if after else {}
            hits = (await self.call("POST", f"/{self.prefix}-{where}/_search", body, **params))["hits"]["hits"]
            assert not any(hit["_id"] in found for hit in hits)
            found |= {hit["_id"]: (hit["_version"], hit["_source"]) for hit in hits}
            if len(hits) < 10_000:
                return found
            after = hits[-1]["sort"]

    async def changes(self, action):
        """The records of what a command did."""
        return [source for _, source in (await self.documents()).values() if source.get("action") == action]

    async def forget_turn(self):
        """End the turn of a command that was killed; else the next one waits until it ends by itself."""
        await self.client.delete(f"/{claims_index(self.prefix)}/_doc/{document_id(TURN)}")

    async def close(self):
        await self.client.aclose()


_ORDER = [
    {"@timestamp": {"order": "asc", "unmapped_type": "date"}},
    {"event_id": {"order": "asc", "unmapped_type": "keyword"}},
]
_JSON = {"content-type": "application/json"}
